"""Contenders take turns at each task, round after round, so that drift of the machine strikes all alike."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from peer.contender import Contender, ContenderError, Entry, Task
from penjing.measure.machine import Machine, probe_machine
from penjing.optimize.bench import Workload

TASKS = (
    Task("prefill, 512 tokens", "prefill", Workload(prompt_tokens=512, output_tokens=2)),
    Task("decode, 1 stream", "decode", Workload(prompt_tokens=16, output_tokens=65)),
    Task("decode, 16 streams", "decode", Workload(prompt_tokens=128, output_tokens=33, streams=16)),
)
# Ours, and what it is to be compared with.
PAIRS = (
    ("Penjing int4", "llama.cpp Q4_0"),
    ("Penjing int4", "OpenVINO int4"),
    ("Penjing int4", "transformers bf16"),
    ("Penjing int8", "llama.cpp Q8_0"),
    ("Penjing layered, best", "llama.cpp Q8_0"),
)


@dataclass(frozen=True)
class Ratio:
    """Rate over rate. Rounds are compared with themselves: median, least and largest of these ratios."""

    task: str
    ours: str
    theirs: str
    median: float
    least: float
    largest: float


class Contest:
    """Runs a contest. missing: who did not take part, or not to the end, and why. probes: of every task."""

    def __init__(self, threads: int, logs: Path) -> None:
        self.threads = threads
        self.logs = logs
        self.missing: dict[str, str] = {}
        self.contenders: list[Contender] = []
        self.rates: dict[str, dict[str, list[float]]] = {}
        self.probes: list[Machine] = []

    def enter(self, entry: Entry, python: str) -> None:
        """Start a contender; if that fails it is missing."""
        say(f"loading {entry.name}")
        log = self.logs / f"{entry.name.replace(' ', '-').replace(',', '')}.log"
        try:
            self.contenders.append(Contender.start(entry, python, self.threads, log))
        except ContenderError as failure:
            self.missing[entry.name] = str(failure)

    def run(self, rounds: int, tasks: Sequence[Task] = TASKS) -> None:
        """One round that does not count, and `rounds` that do."""
        for number in range(1 + rounds):
            for task in tasks:
                say(f"round {number} of {rounds}, {task.name}")
                self.probes.append(probe_machine(self.threads))
                for contender in list(self.contenders):
                    self.turn(contender, task, counted=number > 0)

    def turn(self, contender: Contender, task: Task, *, counted: bool) -> None:
        """One contender's turn; who fails leaves, and none of its rates remain."""
        name = contender.entry.name
        try:
            rate = contender.run(task)
        except ContenderError as failure:
            self.missing[name] = str(failure)
            self.contenders.remove(contender)
            self.rates.pop(name, None)
            return
        if counted:
            self.rates.setdefault(name, {}).setdefault(task.name, []).append(rate)
        else:
            contender.foreign_shares.clear()

    def ratios(self) -> list[Ratio]:
        """Every pair of which both took part, at every task."""
        return [
            Ratio(task, ours, theirs, median(found), min(found), max(found))
            for ours, theirs in PAIRS
            if ours in self.rates and theirs in self.rates
            for task in self.rates[ours]
            for found in [quotients(self.rates[ours][task], self.rates[theirs][task])]
        ]

    def close(self) -> None:
        """End every process."""
        for contender in self.contenders:
            contender.close()


def quotients(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"peers: {text}", file=sys.stderr, flush=True)
