"""What a run says of itself: losses, speed, use of the machine. None of it influences the weights."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from penjing.errors import SpecError
from penjing.training.state import Progress


@dataclass(frozen=True)
class Effort:
    """FLOPs of one step (all micro-batches, forward and backward) and the peak of all ranks' machines."""

    flops_per_step: float
    peak_flops_per_second: float

    def __post_init__(self) -> None:
        if not (self.flops_per_step > 0 and self.peak_flops_per_second > 0):
            raise SpecError("flops_per_step and peak_flops_per_second must be positive")


@dataclass(frozen=True)
class StepReport:
    """One line for the log: steps done, mean loss since the last line, held-out mean if just measured.

    `seconds` is wall time of the whole run, over all its resumptions; `tokens_per_second` of all ranks, None
    where the task counts no tokens; `flop_utilisation` a fraction of the peak, None without an Effort.
    Memory is this process's largest so far: of the GPU if it has one, resident otherwise.
    """

    step: int
    loss: float
    heldout_loss: float | None
    seconds: float
    seconds_per_step: float
    tokens_per_second: float | None
    flop_utilisation: float | None
    peak_memory_bytes: int


@dataclass
class Clock:
    """The current stretch of steps: when it began, and its tokens on all ranks; when a state was saved."""

    saved_at: float
    began_at: float
    began_step: int
    num_tokens: float = 0.0

    @classmethod
    def starting(cls, step: int) -> Clock:
        """A clock that begins now, at `step`."""
        now = time.monotonic()
        return cls(saved_at=now, began_at=now, began_step=step)


def close_stretch(
    progress: Progress,
    clock: Clock,
    heldout_loss: float | None,
    effort: Effort | None,
    sum_over_ranks: Callable[[float], float],
) -> StepReport:
    """End the current stretch of steps, add it to the training curve, and begin the next."""
    loss = sum(progress.recent_losses) / len(progress.recent_losses)
    progress.train_curve.append((progress.step, loss))
    progress.recent_losses.clear()
    now = time.monotonic()
    elapsed = max(now - clock.began_at, 1e-9)
    progress.seconds += elapsed
    seconds_per_step = elapsed / (progress.step - clock.began_step)
    num_tokens = sum_over_ranks(clock.num_tokens)
    clock.began_at, clock.began_step, clock.num_tokens = now, progress.step, 0.0
    utilisation = (
        None if effort is None else effort.flops_per_step / seconds_per_step / effort.peak_flops_per_second
    )
    return StepReport(
        step=progress.step,
        loss=loss,
        heldout_loss=heldout_loss,
        seconds=progress.seconds,
        seconds_per_step=seconds_per_step,
        tokens_per_second=num_tokens / elapsed if num_tokens else None,
        flop_utilisation=utilisation,
        peak_memory_bytes=peak_memory_bytes(),
    )


def peak_memory_bytes() -> int:
    """The most memory this process has held: on its GPU where torch uses one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
