"""What every technique is told besides its step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penjing.optimize.progress import Progress, Say, silent


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
