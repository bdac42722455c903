"""Rounds of workloads on anything that can run them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from penjing.errors import SpecError
from penjing.optimize.bench.timeline import Timeline
from penjing.optimize.bench.workload import Workload
from penjing.optimize.progress import Progress
from penjing.spec import Spec

STAGE = "bench"


class Rounds(Spec):
    """How often each workload runs: `warmup` times without counting, then `counted` times."""

    counted: int = 5
    warmup: int = 1

    @property
    def total(self) -> int:
        """All of them."""
        return self.warmup + self.counted


class Target(Protocol):
    """Whatever is timed: an engine in this process, or a server."""

    def run(self, workload: Workload, seed: int) -> Timeline:
        """Run a workload once. Another seed gives other prompts, so that no cache knows them."""


def run_rounds(
    target: Target, workloads: Sequence[Workload], rounds: Rounds, progress: Progress
) -> list[list[Timeline]]:
    """The counted timelines of each workload; the workloads take turns, so that drift strikes all alike."""
    if not workloads or rounds.counted < 1 or rounds.warmup < 0:
        raise SpecError(
            f"{len(workloads)} workloads, {rounds.warmup} rounds to warm up and {rounds.counted} that count: "
            "there must be at least 1, 0 and 1"
        )
    timelines: list[list[Timeline]] = [[] for _ in workloads]
    total = rounds.total * len(workloads)
    for number in range(rounds.total):
        for index, workload in enumerate(workloads):
            done = number * len(workloads) + index
            progress(STAGE, done, total)
            timeline = target.run(workload, seed=done)
            if number >= rounds.warmup:
                timelines[index].append(timeline)
    progress(STAGE, total, total)
    return timelines
