"""The inference engine: paged KV cache, continuous batching, sampling, generate and score."""

from penjing.engine.continuations import Continuation
from penjing.engine.engine import Engine
from penjing.engine.outputs import Completion, EngineStats, Event, FinishReason
from penjing.engine.pace import MAX_STRETCH
from penjing.engine.sampling import Sampling

__all__ = [
    "MAX_STRETCH",
    "Completion",
    "Continuation",
    "Engine",
    "EngineStats",
    "Event",
    "FinishReason",
    "Sampling",
]
