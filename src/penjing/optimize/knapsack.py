"""The multiple-choice knapsack: one choice from every group, of least cost, within limits on what is used.

1. A choice that another of its group equals or beats in cost and in every use is dropped.
2. Lagrange multipliers price what is used: each group then chooses for itself, on the lower convex hull of
   its choices, and the sum is a lower bound of every assignment. The bound is concave in the multipliers, and
   a section search finds where it is greatest (Sinha and Zoltners 1979).
3. What the hulls leave over is settled group by group: all partial assignments are kept that are not beaten
   in cost and use by another, and whose bound is below the best whole one known (Dyer, Riha and Walker 1995).
   Should they become too many, those of the lowest bounds stay, and the bound says what may have been missed.

Everything is deterministic: equals are told apart by their places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
MOST_STATES = (1, 4096, 1024)  # partial assignments kept, by the number of limits
DEARER = (1.0, 1.001, 1.01, 1.1, 2.0, 1e3)  # prices at which the rest is completed, times the best ones
ROUNDING = 1e-12  # of a limit: what sums of float64 may differ by


@dataclass(frozen=True, eq=False)
class Knapsack:
    """costs: float64 [n] of each group's choices. uses: float64 [n, limits]. limits: float64 [limits]."""

    costs: tuple[Floats, ...]
    uses: tuple[Floats, ...]
    limits: Floats

    @cached_property
    def kept(self) -> list[Places]:
        """The choices of each group that no other beats."""
        return [undominated(cost, use) for cost, use in zip(self.costs, self.uses, strict=True)]

    @cached_property
    def tables(self) -> tuple[Floats, Floats]:
        """Their costs [groups, choices] and uses [groups, choices, limits]; a group's first one fills up."""
        most = max(len(places) for places in self.kept)
        filled = [np.concatenate([places, np.full(most - len(places), places[0])]) for places in self.kept]
        costs = np.stack([cost[places] for cost, places in zip(self.costs, filled, strict=True)])
        return costs, np.stack([use[places] for use, places in zip(self.uses, filled, strict=True)])

    @property
    def room(self) -> Floats:
        """The limits, and what rounding may add."""
        return self.limits + ROUNDING * np.abs(self.limits)


@dataclass(frozen=True)
class Packed:
    """The place of the choice of each group, and a bound that no assignment's cost is below."""

    chosen: tuple[int, ...]
    bound: float


def undominated(cost: Floats, use: Floats) -> Places:
    """Places of choices that no other equals or beats in everything; of equals, the first."""
    order = np.lexsort([*use.T[::-1], cost])
    kept: list[int] = []
    for place in order:  # whoever beats it comes before it
        if not any(bool((use[other] <= use[place]).all()) for other in kept):
            kept.append(int(place))
    return np.array(sorted(kept), np.int64)


def lower_bound(knapsack: Knapsack, prices: Floats) -> float:
    """The least cost at prices [limits], less what the limits are worth."""
    costs, uses = knapsack.tables
    return float((costs + uses @ prices).min(1).sum() - prices @ knapsack.limits)


def best_prices(knapsack: Knapsack) -> Floats:
    """Prices [limits] at which the lower bound is greatest, or nearly so."""
    costs, uses = knapsack.tables
    spread = np.ptp(uses, axis=1).max(0)
    units = np.where(
        spread > 0, max(float(np.ptp(costs, axis=1).max()), 1e-300) / np.maximum(spread, 1e-300), 0
    )

    def given(prices: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
        if len(prices) == len(units):
            return lower_bound(knapsack, np.array(prices)), prices
        return greatest(lambda price: given((*prices, price)), float(units[len(prices)]))

    return np.array(given(())[1])


def greatest(
    function: Callable[[float], tuple[float, tuple[float, ...]]], unit: float
) -> tuple[float, tuple[float, ...]]:
    """The greatest value of a concave function of x >= 0, and what it returns with it (golden section)."""
    if unit == 0:
        return function(0.0)
    end, last = unit, function(unit)
    while (further := function(2 * end))[0] > last[0] and end < unit * 1e12:
        end, last = 2 * end, further
    low, high = 0.0, 2 * end
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(48):
        if at_left[0] >= at_right[0]:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return max(function(0.0), at_left, at_right, key=lambda found: found[0])


@dataclass(eq=False)
class Partial:
    """Choices of the first groups, one row each: cost [n], uses [n, limits], and excess [n] over what the
    prices would choose; parents and picks say how each came about.
    """

    cost: Floats
    uses: Floats
    excess: Floats
    parents: Places
    picks: Places

    def only(self, rows: Places) -> Partial:
        """Some of them."""
        return Partial(
            self.cost[rows], self.uses[rows], self.excess[rows], self.parents[rows], self.picks[rows]
        )


class Search:
    """Steps 2 and 3; `gap`: how far from the least cost, relatively, the result may be."""

    def __init__(self, knapsack: Knapsack, gap: float) -> None:
        self.knapsack, self.gap = knapsack, gap
        prices = best_prices(knapsack)
        costs, uses = knapsack.tables
        reduced = costs + uses @ prices
        excess = reduced - reduced.min(1, keepdims=True)
        # Groups where another choice costs most come first: few of their choices stay.
        others = np.where(excess > 0, excess, np.inf).min(1)
        self.order = np.argsort(-np.where(np.isfinite(others), others, 0.0), kind="stable")
        self.costs, self.uses, self.excess = costs[self.order], uses[self.order], excess[self.order]
        self.bound = lower_bound(knapsack, prices)
        self.least_rest = sums_of_rest(self.uses.min(1))
        self.endings = [self.ending(prices * factor) for factor in DEARER]
        self.best: tuple[float, int, int, Places] | None = None  # cost, level, row, the picks that follow
        self.missed = np.inf

    def ending(self, prices: Floats) -> tuple[Places, Floats, Floats]:
        """What every group chooses at some prices, and the costs and uses of groups from each one on."""
        picks = (self.costs + self.uses @ prices).argmin(1)
        rows = np.arange(len(picks))
        return picks, sums_of_rest(self.costs[rows, picks]), sums_of_rest(self.uses[rows, picks])

    def run(self) -> Packed | None:
        """The best whole assignment, None where there is none."""
        limits = len(self.knapsack.limits)
        zero = np.zeros(1, np.int64)
        states = [Partial(np.zeros(1), np.zeros((1, limits)), np.zeros(1), zero, zero)]
        self.complete(states[0], 0)
        for level in range(len(self.costs)):
            states.append(self.step(states[-1], level))
            self.complete(states[-1], level + 1)
        if self.best is None:
            return None
        cost, level, row, following = self.best
        picks = list(following)
        for state in reversed(states[1 : level + 1]):
            picks.insert(0, state.picks[row])
            row = int(state.parents[row])
        chosen = np.empty(len(picks), np.int64)
        chosen[self.order] = picks
        kept = self.knapsack.kept
        places = tuple(
            int(kept[group][pick if pick < len(kept[group]) else 0]) for group, pick in enumerate(chosen)
        )
        return Packed(places, max(self.bound, min(self.missed, cost - self.gap * abs(cost))))

    def step(self, before: Partial, level: int) -> Partial:
        """One more group: all its choices for every state, less those that cannot win."""
        count = self.costs.shape[1]
        parents, picks = np.divmod(np.arange(len(before.cost) * count), count)
        after = Partial(
            before.cost[parents] + self.costs[level][picks],
            before.uses[parents] + self.uses[level][picks],
            before.excess[parents] + self.excess[level][picks],
            parents,
            picks,
        )
        possible = (after.uses + self.least_rest[level + 1] <= self.knapsack.room).all(1)
        if self.best is not None:
            possible &= self.bound + after.excess < self.best[0] - self.gap * abs(self.best[0])
        after = after.only(np.flatnonzero(possible))
        most = MOST_STATES[min(after.uses.shape[1], len(MOST_STATES) - 1)]
        if after.uses.shape[1] < 2:
            return self.fewer(after.only(unbeaten(after)), most)
        return (few := self.fewer(after, most)).only(unbeaten(few))

    def fewer(self, states: Partial, most: int) -> Partial:
        """Those of the lowest bounds."""
        if len(states.cost) <= most:
            return states
        order = np.argsort(states.excess, kind="stable")
        self.missed = min(self.missed, self.bound + float(states.excess[order[most]]))
        return states.only(order[:most])

    def complete(self, states: Partial, level: int) -> None:
        """Whole assignments from partial ones, the rest chosen by price; the best is remembered."""
        for picks, cost_of_rest, uses_of_rest in self.endings:
            fits = (states.uses + uses_of_rest[level] <= self.knapsack.room).all(1)
            if fits.any():
                costs = np.where(fits, states.cost + cost_of_rest[level], np.inf)
                row = int(costs.argmin())
                if self.best is None or costs[row] < self.best[0]:
                    self.best = float(costs[row]), level, row, picks[level:]


def sums_of_rest(values: Floats) -> Floats:
    """Sums over places from each one on, one more than there are: the last is 0."""
    sums = np.zeros((len(values) + 1, *values.shape[1:]))
    sums[:-1] = values[::-1].cumsum(0)[::-1]
    return sums


def unbeaten(states: Partial) -> Places:
    """Rows that no other equals or beats in cost and every use."""
    limits = states.uses.shape[1]
    if limits == 0:
        return np.argsort(states.cost, kind="stable")[:1]
    order = np.lexsort([*states.uses.T[::-1], states.cost])
    uses = states.uses[order]
    if limits == 1:
        before = np.concatenate([[np.inf], np.minimum.accumulate(uses[:-1, 0])])
        return order[uses[:, 0] < before[: len(uses)]]
    # Sorted by cost: a row is beaten by an earlier one that uses no more of anything.
    no_more = np.ones((len(order), len(order)), bool)
    for column in uses.T:
        no_more &= column[:, None] <= column
    return order[~np.triu(no_more, 1).any(0)]


def pack(costs: Sequence[Floats], uses: Sequence[Floats], limits: Floats, gap: float = 1e-9) -> Packed | None:
    """The assignment of least cost within the limits, to a relative `gap`, or None where none was found.

    costs: float64 [n] for each group. uses: float64 [n, limits] for each. limits: float64 [0 to 2].
    """
    return Search(Knapsack(tuple(costs), tuple(uses), limits), gap).run()
