"""Time to the first token, in parts: `python bench/start.py MODEL [PROMPT]`, MODEL an artifact or 'seedling'.

A fresh process does what `penjing generate` does, stage by stage; `whole` is that command itself with one
token to write, its end included. Wall time wants a quiet machine; user and system time add up the threads,
and change less on a busy one. The file should be in the page cache: the first run brings it there. Best of
five. `faults` are page faults that needed no disk.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from itertools import pairwise

RUNS = 5
STAGES = ("interpreter", "imports", "open and check", "build", "tokenize", "first token")
COLUMNS = ("wall ms", "user ms", "sys ms", "faults")

CHILD = """
import resource, sys, time
marks = []
def mark():
    used = resource.getrusage(resource.RUSAGE_SELF)
    marks.append((time.monotonic(), used.ru_utime, used.ru_stime, used.ru_minflt))
marks.append((float(sys.argv[1]), 0.0, 0.0, 0))
mark()
import penjing.cli.run as run
from penjing.engine import Engine, Sampling
from penjing.artifact import Artifact
from penjing.cli.show import runnable
path = runnable(sys.argv[2])
mark()
artifact = Artifact.open(path)
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
    """Wall, user and system milliseconds, and page faults, of each stage."""
    command = [sys.executable, "-c", CHILD, repr(time.monotonic()), model, prompt]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    marks = json.loads(printed.splitlines()[-1])
    scales = (1e3, 1e3, 1e3, 1)
    return [
        [(after - before) * scale for before, after, scale in zip(one, other, scales, strict=True)]
        for one, other in pairwise(marks)
    ]


def whole(model: str, prompt: str) -> list[float]:
    """The same of the command, from its start to its end."""
    command = [sys.executable, "-m", "penjing", "generate", model, prompt, "--max-tokens", "1"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    times = (seconds, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)
    return [*(1e3 * each for each in times), after.ru_minflt - before.ru_minflt]


def main(model: str, prompt: str = "Once upon a time") -> None:
    """Print a line for each stage, of the run that took least processor time."""
    runs = [stages(model, prompt) for _ in range(RUNS)]
    best = min(runs, key=lambda run: sum(user + system for _, user, system, _ in run))
    rows = [*zip(STAGES, best, strict=True), ("sum", [sum(column) for column in zip(*best, strict=True)])]
    rows.append(("whole", min((whole(model, prompt) for _ in range(RUNS)), key=lambda row: row[1] + row[2])))
    print(f"{model}".ljust(16), *(column.rjust(9) for column in COLUMNS))
    for name, numbers in rows:
        print(name.ljust(16), *(f"{number:9.0f}" for number in numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
