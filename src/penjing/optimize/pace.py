"""How many steps a model learns for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from penjing.errors import CorruptCheckpointError
from penjing.measure.machine import multiplies_bf16
from penjing.spec.steps import Paced
from penjing.training.loop import Task
from penjing.training.state import write_text

Batch = TypeVar("Batch")

STEPS = 200  # where nobody says how long
SHARE_OF_TIME = 0.85  # for steps; evaluations take the rest
STEPS_FILE = "steps"  # in the directory of a state: what minutes came to


def steps_of(pace: Paced, state: Path | None, rehearse: Callable[[], Task[Batch]]) -> int:
    """How many steps a run has: what is asked for, or what fits into its minutes.

    rehearse: a task like that of the run, to time. What minutes come to is kept with the run's state, so that
    it goes on with the same number.
    """
    if pace.minutes is None:
        return pace.steps or STEPS
    kept = None if state is None else state / STEPS_FILE
    if kept is not None and kept.is_file():
        text = kept.read_text("utf-8").strip()
        if not text.isdecimal() or not int(text):
            raise CorruptCheckpointError(f"{kept}: is no number of steps; remove {kept.parent}")
        return int(text)
    steps = steps_within(rehearse(), SHARE_OF_TIME * 60 * pace.minutes)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, f"{steps}\n")
    return steps


def steps_within(task: Task[Batch], seconds: float) -> int:
    """How many steps fit, by the time of the second of two that move nothing."""
    taken = 0.0
    for number in range(2):
        began = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bf16()):
            loss = task.objective(task.batch(number))
        loss.backward()  # type: ignore[no-untyped-call]
        task.model.zero_grad(set_to_none=True)
        taken = time.monotonic() - began
    return max(1, int(seconds / taken))
