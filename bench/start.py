"""Time to the first token, in parts: `python bench/start.py MODEL [PROMPT]`, MODEL an artifact or 'seedling'.

A fresh process does what `penjing generate` does, stage by stage. `command` is that command itself, until its
first token arrives. Wall time wants a quiet machine; processor time (user and system, of all threads) changes
less on a busy one. The file should be in the page cache: the first run brings it there. Best of seven.
`faults` are page faults that needed no disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

RUNS = 7
STAGES = ("interpreter", "imports", "open and check", "build", "tokenizer", "first token")
COLUMNS = ("wall ms", "cpu ms", "faults")

CHILD = """
import resource, sys, time
marks = [(float(sys.argv[1]), 0.0, 0)]
def mark():
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    marks.append((time.monotonic(), time.process_time(), faults))
mark()
from penjing import cli
cli.hasten_start()
from penjing.engine import Engine, Sampling
from penjing.artifact import Artifact
path = cli.show.runnable(sys.argv[2])
mark()
artifact = Artifact.open(path, in_memory=True)
mark()
engine = Engine(artifact, max_sequences=1)
mark()
prompt = engine.tokenizer.encode(sys.argv[3], add_special=True)
mark()
next(engine.stream(prompt, Sampling(max_tokens=1)))
mark()
import json
print(json.dumps(marks))
"""


def stages(model: str, prompt: str) -> list[list[float]]:
    """Wall and processor milliseconds, and page faults, of each stage."""
    command = [sys.executable, "-c", CHILD, repr(time.monotonic()), model, prompt]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    marks = json.loads(printed.splitlines()[-1])
    return [
        [1e3 * (after[0] - before[0]), 1e3 * (after[1] - before[1]), after[2] - before[2]]
        for before, after in pairwise(marks)
    ]


def command(model: str, prompt: str) -> list[float]:
    """The same of the command, when its first byte is there."""
    arguments = ["generate", model, prompt, "--max-tokens", "1"]
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", "penjing", *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        seconds = time.monotonic() - start
        fields = Path(f"/proc/{process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        process.stdout.read()
    ticks = int(fields[11]) + int(fields[12])
    return [1e3 * seconds, 1e3 * ticks / os.sysconf("SC_CLK_TCK"), int(fields[7])]


def main(model: str, prompt: str = "Once upon a time") -> None:
    """Print a line for each stage, of the run that took least processor time."""
    best = min((stages(model, prompt) for _ in range(RUNS)), key=lambda run: sum(row[1] for row in run))
    rows = [*zip(STAGES, best, strict=True), ("sum", [sum(column) for column in zip(*best, strict=True)])]
    rows.append(("command", min((command(model, prompt) for _ in range(RUNS)), key=lambda row: row[1])))
    print(model.ljust(16), *(column.rjust(9) for column in COLUMNS))
    for name, numbers in rows:
        print(name.ljust(16), *(f"{number:9.0f}" for number in numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
