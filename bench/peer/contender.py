"""One engine with one model, in a process of its own, that computes only when it is asked to."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penjing.optimize.bench import Workload

WORKER = Path(__file__).with_name("worker.py")
SETTLE_SECONDS = 0.3  # threads of whoever computed before may spin for a while
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class ContenderError(Exception):
    """Its process ended; the text is its last line on stderr."""


@dataclass(frozen=True)
class Task:
    """A workload, and which of its phases is timed."""

    name: str
    phase: str
    workload: Workload


@dataclass(frozen=True)
class Entry:
    """What may take part. model: its file or directory. bits: of a block's weights."""

    name: str
    engine: str
    bits: int
    model: Path
    tier: str = "best"

    @property
    def model_bytes(self) -> int:
        """Weights on disk that it reads: a tier of a layered artifact does not read all."""
        if self.model.is_file():
            return self.model.stat().st_size
        files = (path for path in self.model.iterdir() if path.suffix in (".bin", ".safetensors"))
        skipped = "residual.bin" if self.tier == "fast" else ""
        return sum(path.stat().st_size for path in files if path.name != skipped)


@dataclass
class Contender:
    """A running process. foreign_shares: of the machine, what others computed while it was timed."""

    entry: Entry
    process: subprocess.Popen[str]
    log: Path
    foreign_shares: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, entry: Entry, python: str, threads: int, log: Path) -> Contender:
        """Start it, and wait until its model is loaded. Raises ContenderError."""
        command = [python, str(WORKER), entry.engine, str(entry.model), str(threads)]
        if entry.engine == "penjing":
            command.append(entry.tier)
        with log.open("w") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            )
        contender = cls(entry, process, log)
        contender.listen()
        return contender

    def run(self, task: Task) -> float:
        """Tokens a second. Raises ContenderError."""
        time.sleep(SETTLE_SECONDS)
        begin, own, all_work = time.perf_counter(), self.processor_seconds(), machine_seconds()
        self.tell({"phase": task.phase, **task.workload.model_dump()})
        rate = float(self.listen()["tokens_per_second"])
        foreign = machine_seconds() - all_work - (self.processor_seconds() - own)
        capacity = (time.perf_counter() - begin) * (os.cpu_count() or 1)
        self.foreign_shares.append(min(1.0, max(0.0, foreign / capacity)))
        return rate

    def tell(self, request: dict[str, Any]) -> None:
        """Send a request."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ContenderError(self.last_words()) from None

    def listen(self) -> dict[str, Any]:
        """Its next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ContenderError(self.last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def last_words(self) -> str:
        """How it ended."""
        self.close()
        said = self.log.read_text("utf-8", "replace").strip() or "it said nothing"
        return f"{said.splitlines()[-1]} (exit code {self.process.returncode}, log {self.log})"

    def processor_seconds(self) -> float:
        """Processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def peak_memory_bytes(self) -> int:
        """The most physical memory that it ever held, mapped files included."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0

    def close(self) -> None:
        """End it: the end of its input."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def machine_seconds() -> float:
    """Processor time that the whole machine has spent on anything, time stolen from it included."""
    user, nice, system, _, _, irq, softirq, steal = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / TICKS_PER_SECOND
