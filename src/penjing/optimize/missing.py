"""A budget that nothing keeps: which limit binds, and the nearest that could be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping

from penjing.errors import InfeasibleBudgetError
from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import LimitName
from penjing.optimize.solver import InfeasibleError, Limits, Quantity
from penjing.optimize.trials import Trial
from penjing.spec import Budget

SAFE = 1.1  # what is named as feasible has room for another text
OPTIONS: dict[LimitName, str] = {
    "size": "max-size",
    "loss": "max-loss",
    "latency": "max-latency",
    "throughput": "min-throughput",
    "memory": "max-ram",
}


class MissedBudgetError(InfeasibleBudgetError):
    """No candidate keeps the budget. nearest: of each limit, what could be kept if the others stay.

    record: of the search, for a report.
    """

    record: SearchRecord | None = None

    def __init__(self, binding: LimitName, nearest: Mapping[LimitName, float]) -> None:
        self.binding, self.nearest = binding, dict(nearest)
        options = " or ".join(spoken(name, value) for name, value in nearest.items())
        advice = f"; the nearest that can be kept: {options}" if options else ""
        super().__init__(f"--{OPTIONS[binding]} binds{advice}")


def names_of(budget: Budget, limits: Limits, original_bytes: int) -> dict[Quantity, LimitName]:
    """The limit of the budget behind each of the solver's."""
    by_size = budget.max_size is not None and limits.nbytes == int(budget.max_size * original_bytes)
    by_latency = budget.max_latency is not None and budget.max_latency == budget.max_seconds
    return {
        "nbytes": "size" if by_size else "memory",
        "loss": "loss",
        "seconds": "latency" if by_latency else "throughput",
    }


def nearest_limits(
    miss: InfeasibleError, budget: Budget, limits: Limits, gain: float, original_bytes: int
) -> dict[LimitName, float]:
    """What the solver found nearest as a budget spells it, with room for what prediction misses.

    gain: measured over predicted loss. Of two limits behind one of the solver's, both have to give.
    """
    found, nearest = miss.nearest, dict[LimitName, float]()
    if (nbytes := found.get("nbytes")) is not None and limits.nbytes is not None:
        if budget.max_size is not None:
            nearest["size"] = max(budget.max_size, SAFE * nbytes / original_bytes)
        if names_of(budget, limits, original_bytes)["nbytes"] == "memory":
            assert budget.max_ram is not None
            nearest["memory"] = budget.max_ram - limits.nbytes + SAFE * nbytes
    if (seconds := found.get("seconds")) is not None:
        if budget.max_latency is not None:
            nearest["latency"] = SAFE * seconds
        if budget.min_throughput is not None:
            nearest["throughput"] = budget.streams / (SAFE * seconds)
    if (loss := found.get("loss")) is not None:
        nearest["loss"] = math.expm1(SAFE * gain * loss)
    return nearest


def safe_loss(trial: Trial) -> float:
    """A limit of loss that a candidate keeps on other text too, unless that is very different.

    Mean and bound are as uncertain there as here: the bound may lie above this one by twice what this one
    lies above the mean.
    """
    beyond = trial.upper_delta_nll - trial.mean_delta_nll
    return math.expm1(max(SAFE * trial.upper_delta_nll, trial.upper_delta_nll + 2 * beyond))


def spoken(name: LimitName, value: float) -> str:
    """A limit as an option: `--max-size 31.20%`, rounded to the safe side."""
    if name in ("size", "loss"):
        return f"--{OPTIONS[name]} {math.ceil(value * 1e4) / 100:.2f}%"
    if name == "latency":
        return f"--{OPTIONS[name]} {math.ceil(value * 1e5) / 100:.2f}ms"
    if name == "throughput":
        return f"--{OPTIONS[name]} {math.floor(value * 10) / 10:.1f}"
    return f"--{OPTIONS[name]} {math.ceil(value / 1e6)}MB"
