"""Which option to recommend, and why: the least risk that the machine and the gain allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from penjing.optimize.predict import Predicted

LARGE_PARAMETERS = 300_000_000  # from which on 4 bits usually cost little
WORTH_FASTER = 1.25  # times as fast: less is not worth a risk
LADDER = ("int4", "table3", "table2", "pruned + int4")  # ever smaller, ever riskier


class Weighed(Protocol):
    """What choosing looks at; see `advise.Option`."""

    @property
    def name(self) -> str:
        """Of the option."""

    @property
    def fits(self) -> bool:
        """In memory."""

    @property
    def size_ratio(self) -> float:
        """Over the model as it is."""

    @property
    def predicted(self) -> Predicted:
        """Speed and memory."""


def choose(options: Sequence[Weighed], parameters: int, *, is_artifact: bool) -> tuple[str, tuple[str, ...]]:
    """The name of one option, and sentences that say why it and no other.

    An artifact that fits is kept. Else int8 where it fits, unless 4 bits are clearly faster and the model is
    large enough to bear them; below that only what memory forces.
    """
    by_name = {option.name: option for option in options}
    first = options[0]
    if is_artifact and first.fits:
        return first.name, (
            "It is an artifact already, and it fits this machine.",
            *gains_still_there(by_name, first),
        )
    safe = by_name["int8"]
    small = by_name["int4"]
    if safe.fits:
        gain = speed(small) / speed(safe)
        if parameters >= LARGE_PARAMETERS and gain >= WORTH_FASTER and small.fits:
            return small.name, (
                beside(small, first),
                f"That is {gain:.1f} times the speed of int8, and models of this size usually bear 4 bits.",
                "Should its loss be too large, `layered` holds the same 4 bits and the way back to 8.",
            )
        return safe.name, (beside(safe, first), "Its loss is hardly measurable.", against_small(gain))
    for name in LADDER:
        if name in by_name and by_name[name].fits:
            return name, (
                beside(by_name[name], first),
                "Everything closer to the original needs more memory than this machine has.",
            )
    least = min(options, key=lambda option: option.predicted.peak_memory_bytes)
    need, what = least.predicted.peak_memory_bytes / 1e9, least.name
    return least.name, (
        f"Nothing fits this machine: the smallest, {what}, needs {need:.1f} GB while it serves.",
        "A shorter --context, fewer --streams, or a smaller model would.",
    )


def against_small(gain: float) -> str:
    """Why not 4 bits."""
    if gain < WORTH_FASTER:
        return "4 bits would hardly be faster here: not worth their risk."
    return f"4 bits would write {gain:.1f} times as fast, but cost small models more than large ones."


def gains_still_there(by_name: dict[str, Weighed], first: Weighed) -> tuple[str, ...]:
    """What a smaller artifact of the same checkpoint would bring."""
    small = by_name.get("int4")
    if small is None or speed(small) < WORTH_FASTER * speed(first):
        return ("Nothing here would make it clearly faster.",)
    times = speed(small) / speed(first)
    return (f"If it is too slow: int4, made from its checkpoint, would write {times:.1f} times as fast.",)


def beside(chosen: Weighed, first: Weighed) -> str:
    """One sentence of what is gained."""
    faster = speed(chosen) / speed(first)
    size = f"{chosen.size_ratio:.0%} of its size"
    if not first.fits:
        return f"The original does not fit this machine; this takes {size}, and fits."
    if faster < 1.05:
        return f"Beside the original it takes {size}, at the same speed."
    return f"Beside the original it takes {size} and writes {faster:.1f} times as fast."


def speed(option: Weighed) -> float:
    """Tokens a second of all streams."""
    return option.predicted.tokens_per_second
