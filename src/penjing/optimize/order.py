"""What every technique is told besides its step, and what it says when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penjing.optimize.progress import Progress, Say, silent
from penjing.spec import Spec


@dataclass(frozen=True)
class Order:
    """Where to write, by which text, and who hears of the work.

    data: texts to judge by or to learn from; without, the built-in one and one that a model writes itself.
    threads: torch's and the engine's; None is as many as there are.
    """

    out: Path
    data: Sequence[Path] = ()
    seed: int = 0
    force: bool = False
    threads: int | None = None
    say: Say = silent
    progress: Progress = silent


class Side(Spec):
    """A model: parameters, bytes of its tensors, and its loss on the text held apart, nats per token.

    zeros: the part of the blocks' matrix weights that is 0. kl: of a student, the mean KL divergence from its
    teacher on the same text, nats per token.
    """

    parameters: int
    tensor_bytes: int
    loss: float
    zeros: float = 0.0
    kl: float | None = None


class Shaped(Spec):
    """A checkpoint that was written: what it was and is, and what that took.

    held_tokens: on which losses were measured, and which nothing was learned from. text: SHA-256 of all that
    was read. seconds: wall time, of training alone where there is any. flop_utilisation: of training, the
    part of this machine's float32 rate that matrices took. peak_memory_bytes: of the process, until then.
    """

    path: str
    before: Side
    after: Side
    teacher: Side | None = None
    held_tokens: int
    text: str
    seconds: float
    peak_memory_bytes: int
    steps: int = 0
    tokens_trained: int = 0
    flop_utilisation: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """The pace of training, None where there was none."""
        return self.tokens_trained / self.seconds if self.tokens_trained else None
