"""Penjing: the engine as `penjing bench` runs it."""

from __future__ import annotations

import itertools

from penjing.artifact import Artifact
from penjing.optimize.bench import Workload
from penjing.optimize.bench.local import EngineTarget, open_engine
from penjing.spec import Tier


class PenjingRunner:
    """Implements worker.Runner."""

    def __init__(self, model: str, threads: int, tier: Tier) -> None:
        self.artifact = Artifact.open(model)
        self.threads = threads
        self.tier = tier
        self.targets: dict[Workload, EngineTarget] = {}
        self.seeds = itertools.count()

    def target(self, workload: Workload) -> EngineTarget:
        """An engine for a workload, kept; all read one mapped file."""
        if workload not in self.targets:
            engine = open_engine(self.artifact, self.tier, self.threads, (workload,))
            self.targets[workload] = EngineTarget(engine)
        return self.targets[workload]

    def prefill(self, prompt_tokens: int) -> float:
        workload = Workload(prompt_tokens=prompt_tokens, output_tokens=2)
        return prompt_tokens / self.target(workload).run(workload, next(self.seeds)).prefill_rate

    def decode(self, prompt_tokens: int, steps: int, streams: int) -> float:
        workload = Workload(prompt_tokens=prompt_tokens, output_tokens=steps + 1, streams=streams)
        return streams / self.target(workload).run(workload, next(self.seeds)).decode_rate


def open_runner(model: str, threads: int, tier: Tier = "best") -> PenjingRunner:
    """A loaded artifact."""
    return PenjingRunner(model, threads, tier)
