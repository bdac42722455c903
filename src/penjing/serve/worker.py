"""A thread for each engine. The engine is called from this thread only; everything else sends it commands.

Commands arrive through a queue; events go back to the event loop in one call a step. Neither side ever waits
for the other: a client that reads slowly holds up nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NamedTuple

from penjing.engine import Engine
from penjing.engine.outputs import EngineStats, Event
from penjing.engine.sampling import Sampling
from penjing.errors import PenjingError
from penjing.serve.metrics import ModelMetrics
from penjing.spec import Tier

logger = logging.getLogger("penjing.serve")


@dataclass(frozen=True)
class Prompt:
    """Tokens, and the sampling of each answer to them."""

    tokens: Sequence[int]
    samplings: Sequence[Sampling]


@dataclass(frozen=True)
class Admitted:
    """The engine took all prompts of a job."""


class Answered(NamedTuple):
    """One event of one answer. `number` counts answers over all prompts of the job."""

    number: int
    event: Event


@dataclass(frozen=True)
class Failed:
    """The job is over: it was refused, or its engine failed.

    is_permanent: whether it would be refused however long the client waited.
    """

    error: Exception
    is_permanent: bool = False


Update = Admitted | Answered | Failed


@dataclass(eq=False)
class Job:
    """One request's answers. `deliver` is called on the event loop, at most once a step, with its updates.

    sequences: id to index of the answers that have not ended; the worker's alone.
    """

    prompts: Sequence[Prompt]
    tier: Tier | None
    deliver: Callable[[list[Update]], None]
    arrival_seconds: float = field(default_factory=time.perf_counter)
    sequences: dict[int, int] = field(default_factory=dict)
    last_token_seconds: dict[int, float] = field(default_factory=dict)


class EngineWorker:
    """Drives one engine. `failure` is the exception that stopped it, if one did; it then refuses all jobs."""

    def __init__(self, name: str, engine: Engine, metrics: ModelMetrics) -> None:
        self.failure: Exception | None = None
        self.stats = engine.stats()
        self._engine = engine
        self._metrics = metrics
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._outbox: defaultdict[Job, list[Update]] = defaultdict(list)
        self._stopping = False
        self._thread = Thread(target=self._run, name=f"engine {name}", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to work; updates are delivered on `loop`."""
        self._loop = loop
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. Admitted or Failed is its first update."""
        self._commands.put(partial(self._admit, job))

    def cancel(self, job: Job) -> None:
        """End what has not ended of a job and free its pages; no further update follows."""
        self._commands.put(partial(self._cancel, job))

    def abort(self, error: Exception) -> None:
        """End every job with `error`."""
        self._commands.put(partial(self._abort, error))

    def stop(self, error: Exception) -> None:
        """End every job with `error`, and the thread after its current step; blocks until then."""
        self.abort(error)
        self._commands.put(self._stop)
        self._thread.join()

    def snapshot(self) -> EngineStats:
        """The engine's counters after its last step."""
        return self.stats

    # The rest runs on the worker's thread.

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._obey()
                if self.failure is None and self._engine.has_work:
                    self._publish(self._engine.step())
                    self.stats = self._engine.stats()
            except Exception as error:
                self._fail(error)
            self._flush()

    def _obey(self) -> None:
        """Run queued commands; wait for one if there is nothing else to do."""
        is_idle = self.failure is not None or not self._engine.has_work
        if not is_idle and self._commands.empty():
            return
        try:
            self._commands.get(block=is_idle)()
            while True:
                self._commands.get(block=False)()
        except Empty:
            pass
        finally:
            if self.failure is None:
                self.stats = self._engine.stats()

    def _stop(self) -> None:
        self._stopping = True

    def _admit(self, job: Job) -> None:
        if self.failure is not None:
            self._outbox[job].append(Failed(self.failure))
            return
        has_empty_line = self._engine.stats().waiting == 0
        try:
            for prompt in job.prompts:
                for sequence_id in self._engine.submit_group(prompt.tokens, prompt.samplings, job.tier):
                    job.sequences[sequence_id] = len(job.sequences)
                    self._jobs[sequence_id] = job
        except Exception as error:
            self._outbox[job].append(Failed(error, is_permanent=has_empty_line))
            self._cancel(job)
            if not isinstance(error, PenjingError):
                raise
        else:
            self._outbox[job].append(Admitted())

    def _cancel(self, job: Job) -> None:
        for sequence_id in list(job.sequences):
            self._engine.cancel(sequence_id)
            self._metrics.answer_finished("cancelled")
            del self._jobs[sequence_id], job.sequences[sequence_id]

    def _abort(self, error: Exception) -> None:
        for job in dict.fromkeys(self._jobs.values()):
            self._cancel(job)
            self._outbox[job].append(Failed(error))

    def _publish(self, events: list[Event]) -> None:
        now_seconds = time.perf_counter()
        for event in events:
            job = self._jobs[event.sequence_id]
            index = job.sequences[event.sequence_id]
            if event.token is not None:
                self._observe_token(job, index, now_seconds)
            if event.finish_reason is not None:
                del self._jobs[event.sequence_id], job.sequences[event.sequence_id]
                self._metrics.answer_finished(event.finish_reason)
                if not job.sequences:
                    self._metrics.request_seconds(now_seconds - job.arrival_seconds)
            self._outbox[job].append(Answered(index, event))

    def _observe_token(self, job: Job, index: int, now_seconds: float) -> None:
        if not job.last_token_seconds:
            self._metrics.first_token_seconds(now_seconds - job.arrival_seconds)
        if index in job.last_token_seconds:
            self._metrics.between_tokens_seconds(now_seconds - job.last_token_seconds[index])
        job.last_token_seconds[index] = now_seconds

    def _fail(self, error: Exception) -> None:
        """The engine's state can no longer be trusted: end every job, and take no more."""
        logger.error("%s failed and takes no more requests", self._thread.name, exc_info=error)
        self.failure = error
        for job in dict.fromkeys(self._jobs.values()):
            for _ in job.sequences:
                self._metrics.answer_finished("error")
            job.sequences.clear()
            self._outbox[job].append(Failed(error))
        self._jobs.clear()

    def _flush(self) -> None:
        if self._outbox:
            self._loop.call_soon_threadsafe(deliver_all, self._outbox)
            self._outbox = defaultdict(list)


def deliver_all(outbox: Mapping[Job, list[Update]]) -> None:
    """Hand updates to their requests, on the event loop."""
    for job, updates in outbox.items():
        job.deliver(updates)
