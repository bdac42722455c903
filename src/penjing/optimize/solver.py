"""Which format each group gets: least of bytes, loss or seconds, within limits on the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from penjing.errors import InfeasibleBudgetError
from penjing.optimize.choices import Choice, Group
from penjing.optimize.knapsack import ROUNDING, pack
from penjing.spec import WeightFormat

Quantity = Literal["nbytes", "loss", "seconds"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
SPOKEN: dict[Quantity, str] = {"nbytes": "size", "loss": "loss", "seconds": "time"}
GAP = 1e-9  # relative, to the least possible objective, where a search is not cut short
FRONTIER_GAP = 1e-4


@dataclass(frozen=True)
class Limits:
    """The most bytes, nats of predicted loss a token, and seconds a decoded token; None is no limit.

    fixed_bytes, fixed_loss, fixed_seconds: of what no choice changes (norms; the KV cache's format and its
    reading), which count towards the limits.
    """

    nbytes: int | None = None
    loss: float | None = None
    seconds: float | None = None
    fixed_bytes: int = 0
    fixed_loss: float = 0.0
    fixed_seconds: float = 0.0

    def of(self, quantity: Quantity) -> float | None:
        """The limit of a quantity."""
        limit: float | None = getattr(self, quantity)
        return limit

    def fixed(self, quantity: Quantity) -> float:
        """What of a quantity no choice changes."""
        return {"nbytes": self.fixed_bytes, "loss": self.fixed_loss, "seconds": self.fixed_seconds}[quantity]

    def without(self, quantity: Quantity) -> Limits:
        """The same, with one limit lifted."""
        return Limits(
            **{name: None if name == quantity else self.of(name) for name in QUANTITIES},  # type: ignore[arg-type]
            fixed_bytes=self.fixed_bytes,
            fixed_loss=self.fixed_loss,
            fixed_seconds=self.fixed_seconds,
        )

    def keep(self, quantity: Quantity, value: float) -> bool:
        """Whether a value is within the limit, but for the rounding of sums."""
        limit = self.of(quantity)
        return limit is None or value <= limit + ROUNDING * abs(limit)

    def all_keep(self, assignment: Assignment) -> bool:
        """Whether an assignment is within every limit."""
        return all(self.keep(quantity, getattr(assignment, quantity)) for quantity in QUANTITIES)


@dataclass(frozen=True)
class Assignment:
    """A choice for every group, and what they come to, the fixed parts included.

    bound: no assignment within the limits has an objective below this one; None where nobody asked.
    """

    groups: tuple[Group, ...]
    chosen: tuple[Choice, ...]
    nbytes: int
    loss: float
    seconds: float
    bound: float | None = None

    @property
    def formats(self) -> dict[str, WeightFormat]:
        """The format of every group, by its name."""
        return {group.name: choice.format for group, choice in zip(self.groups, self.chosen, strict=True)}


class InfeasibleError(InfeasibleBudgetError):
    """No assignment keeps every limit.

    binding: the quantity whose limit has to give least, relatively. nearest: for each limited quantity, the
    least value that it can have while the others keep their limits; None where they cannot.
    """

    def __init__(self, binding: Quantity, nearest: Mapping[Quantity, float | None], limits: Limits) -> None:
        self.binding, self.nearest = binding, dict(nearest)
        limit, value = limits.of(binding), self.nearest[binding]
        least = "the other limits exclude each other" if value is None else f"at least {value:.6g} is needed"
        super().__init__(f"the limit of {SPOKEN[binding]} binds ({limit:.6g}): {least}")


def assignment_of(groups: Sequence[Group], chosen: Sequence[Choice], limits: Limits) -> Assignment:
    """An assignment with its sums."""
    return Assignment(
        tuple(groups),
        tuple(chosen),
        nbytes=limits.fixed_bytes + sum(choice.nbytes for choice in chosen),
        loss=math.fsum([limits.fixed_loss, *(choice.loss for choice in chosen)]),
        seconds=math.fsum([limits.fixed_seconds, *(choice.seconds for choice in chosen)]),
    )


def solve(
    groups: Sequence[Group], limits: Limits, objective: Quantity = "nbytes", *, gap: float = GAP
) -> Assignment:
    """The assignment of least objective within the limits; of equals, one of least loss, or of least bytes.

    gap: how far from the least objective, relatively, it may be; `bound` says what was proved. The objective
    may have a limit too. Raises InfeasibleError.
    """
    found = least(groups, limits, objective, gap)
    if found is None or not limits.keep(objective, getattr(found, objective)):
        raise infeasible(groups, limits, gap)
    held = replace(limits, **{objective: getattr(found, objective)})
    second: Quantity = "nbytes" if objective == "loss" else "loss"
    other = least(groups, held, second, gap)
    better = other is not None and held.all_keep(other) and getattr(other, second) < getattr(found, second)
    return replace(other if other is not None and better else found, bound=found.bound)


def least(groups: Sequence[Group], limits: Limits, objective: Quantity, gap: float) -> Assignment | None:
    """The least objective under the limits of the other quantities; None where those exclude each other."""
    limited = [name for name in QUANTITIES if name != objective and limits.of(name) is not None]
    room = np.array([limits.of(name) or 0.0 for name in limited]) - [limits.fixed(name) for name in limited]
    costs = [column(group, objective) for group in groups]
    uses = [
        np.stack([column(group, name) for name in limited], 1) if limited else np.zeros((len(cost), 0))
        for group, cost in zip(groups, costs, strict=True)
    ]
    packed = pack(costs, uses, room, gap)
    if packed is None:
        return None
    chosen = [group.choices[place] for group, place in zip(groups, packed.chosen, strict=True)]
    return replace(assignment_of(groups, chosen, limits), bound=packed.bound + limits.fixed(objective))


def column(group: Group, quantity: Quantity) -> NDArray[np.float64]:
    """One quantity of all choices of a group, float64 [choices]."""
    return np.array([getattr(choice, quantity) for choice in group.choices], np.float64)


def least_of_each(groups: Sequence[Group], limits: Limits, gap: float = GAP) -> dict[Quantity, float | None]:
    """For each limited quantity, the least that it can be while the others keep their limits; None where they
    cannot.
    """
    nearest: dict[Quantity, float | None] = {}
    for quantity in QUANTITIES:
        if limits.of(quantity) is not None:
            found = least(groups, limits.without(quantity), quantity, gap)
            nearest[quantity] = None if found is None else getattr(found, quantity)
    return nearest


def infeasible(groups: Sequence[Group], limits: Limits, gap: float) -> InfeasibleError:
    """The error that names the binding limit, and the nearest value of each."""
    nearest = least_of_each(groups, limits, gap)
    alone = [name for name in nearest if not limits.keep(name, lowest(groups, name) + limits.fixed(name))]
    return InfeasibleError(
        min(alone or nearest, key=lambda name: excess(name, nearest, limits)), nearest, limits
    )


def lowest(groups: Sequence[Group], quantity: Quantity) -> float:
    """The least that a quantity can be, whatever the others are."""
    return math.fsum(float(column(group, quantity).min()) for group in groups)


def excess(quantity: Quantity, nearest: Mapping[Quantity, float | None], limits: Limits) -> float:
    """How far the nearest value is beyond the limit, as a part of it."""
    value, limit = nearest[quantity], limits.of(quantity)
    if value is None or limit is None:
        return math.inf
    return (value - limit) / max(abs(limit), 1e-300)


def frontier(groups: Sequence[Group], limits: Limits, points: int = 32) -> tuple[Assignment, ...]:
    """Assignments of least loss for up to `points` sizes, smallest first, none beaten by another in both.

    Sizes go in even ratios from the smallest possible to that of least loss, within every limit. Raises
    InfeasibleError.
    """
    smallest = solve(groups, limits, "nbytes", gap=FRONTIER_GAP)
    largest = solve(groups, limits, "loss", gap=FRONTIER_GAP)
    sizes = np.geomspace(max(smallest.nbytes, 1), max(largest.nbytes, 1), max(points, 2))
    found = [smallest]
    for size in sizes[1:-1]:
        within = replace(limits, nbytes=max(int(size), smallest.nbytes))
        found.append(solve(groups, within, "loss", gap=FRONTIER_GAP))
    kept: list[Assignment] = []
    for assignment in sorted([*found, largest], key=lambda each: (each.nbytes, each.loss)):
        if not kept or assignment.loss < kept[-1].loss:
            kept.append(assignment)
    return tuple(kept)
