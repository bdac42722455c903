"""Which candidate is built next, from what is predicted and what measurements have made of predictions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from penjing.errors import InfeasibleBudgetError
from penjing.optimize.candidates import Candidate, candidate_of
from penjing.optimize.certificate import broken_limits
from penjing.optimize.choices import Group
from penjing.optimize.costing import KV_LOSS, Costs
from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import LimitName, Point
from penjing.optimize.searched import missed_record, points_of
from penjing.optimize.solver import (
    Assignment,
    InfeasibleError,
    Limits,
    Quantity,
    frontier,
    least_of_each,
    solve,
)
from penjing.optimize.trials import Trial, Trials
from penjing.spec import Kv, MethodName, Objective

BUILDS, MOST_BUILDS = 4, 8  # of candidates; more only where none keeps the budget
ENOUGH = 0.85  # of the limit of loss: a candidate that uses so much of it is not followed by a smaller one
CAUTION = 0.9  # of that, for every candidate that missed it
AIM = 0.95  # of the limit of loss, so that a measurement's noise does not break it
LEAST_GAIN = 0.02  # a bound below so much of the KL is luck
SAFE = 1.1  # what is named as feasible has room for another text
BEST_GAIN = {"gptq": 0.15, "qronos": 0.15, "auto": 0.08}  # of `search`'s loss, the least that was ever left
FIRST_GAIN = {
    "search": 1.0,
    "gptq": 0.5,
    "qronos": 0.45,
    "auto": 0.3,
}  # loss when built, over what is predicted
OPTIONS: dict[LimitName, str] = {
    "size": "max-size",
    "loss": "max-loss",
    "latency": "max-latency",
    "throughput": "min-throughput",
    "memory": "max-ram",
}
QUANTITY: dict[Objective, Quantity] = {
    "size": "nbytes",
    "loss": "loss",
    "latency": "seconds",
    "throughput": "seconds",
    "cost": "seconds",
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


@dataclass
class Search:
    """One search: its prices, its measurements, and how far what is built differs from what is predicted.

    gain: measured over predicted loss.
    """

    trials: Trials
    costs: Costs
    groups: tuple[Group, ...]
    objective: Objective
    method: MethodName
    gain: float
    tried: list[tuple[Candidate, Trial]] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)  # keys of candidates whose claims failed

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage whose wall time is kept."""
        began = time.monotonic()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - began

    def limits(self, kv: Kv, kv_loss: float) -> Limits:
        """The budget's limits, the one of loss as predictions count it."""
        limits = self.costs.limits(self.groups, kv, kv_loss / self.gain)
        most = self.trials.budget.max_nll_increase
        return limits if most is None else replace(limits, loss=self.aim * most / self.gain)

    @property
    def aim(self) -> float:
        """The part of the limit of loss that is aimed at: less after every miss, and every failed claim."""
        misses = sum(not self.trials.keeps_loss(trial.upper_delta_nll) for _, trial in self.tried)
        return AIM * CAUTION ** (misses + len(self.claimed))

    def next_candidate(self) -> Candidate:
        """The best by prediction; wider keys and values where they fit. Raises InfeasibleError."""
        first: InfeasibleError | None = None
        for kv, loss in KV_LOSS:
            try:
                return self.candidate(self.limits(kv, loss), QUANTITY[self.objective], kv, self.method)
            except InfeasibleError as error:
                first = first or error
        assert first is not None
        raise first

    def candidate(self, limits: Limits, quantity: Quantity, kv: Kv, method: MethodName) -> Candidate:
        """The least of a quantity within limits. Raises InfeasibleError."""
        return self.made_of(solve(self.groups, limits, quantity), kv, method)

    def made_of(self, assignment: Assignment, kv: Kv, method: MethodName) -> Candidate:
        """The candidate of an assignment."""
        return candidate_of(assignment, self.costs.checkpoint.config, method, kv, self.trials.settings.seed)

    def learn(self, candidate: Candidate, trial: Trial) -> None:
        """Measured loss corrects predicted loss. The bound counts, not the mean: it is what has a limit."""
        self.tried.append((candidate, trial))
        self.gain = max(trial.upper_delta_nll, LEAST_GAIN * trial.mean_kl) / candidate.assignment.loss

    def run(self) -> list[tuple[Candidate, Trial]]:
        """Build and measure until the limit of loss is used well; those that keep the budget, best first.

        After so many builds that should do, or where a claim has failed, the first that keeps it will do.

        Raises MissedBudgetError.
        """
        try:
            while len(self.tried) < MOST_BUILDS:
                if self.kept() and (self.claimed or len(self.tried) >= BUILDS):
                    break
                candidate = self.next_candidate() if self.tried else self.first_candidate()
                if any(candidate.key == other.key for other, _ in self.tried):
                    break
                with self.stage("candidates"):
                    trial = self.trials.measure(candidate)
                self.learn(candidate, trial)
                self.tell(trial)
                if self.is_enough(trial):
                    break
        except InfeasibleError:  # by what has been learned; what was built before may keep the budget
            pass
        except KeyboardInterrupt:
            if not self.kept():
                raise
            self.trials.say("stopped: the best candidate so far is claimed and published")
        return self.kept()

    def first_candidate(self) -> Candidate:
        """The best by prediction or, if by prediction nothing keeps the budget, what loses least."""
        try:
            return self.next_candidate()
        except InfeasibleError as error:
            return self.least_loss(error)

    def tell(self, trial: Trial) -> None:
        """One line about a candidate."""
        rise = math.expm1(trial.upper_delta_nll)
        verdict = "keeps the budget" if self.trials.keeps(trial) else "misses the budget"
        self.trials.say(
            f"{trial.name}: {trial.size_ratio:.1%} of the size, perplexity at most {rise:+.2%}: {verdict}"
        )

    def is_enough(self, trial: Trial) -> bool:
        """Whether a candidate keeps the budget and no better one is worth building."""
        limit = self.trials.budget.max_nll_increase
        return self.trials.keeps(trial) and (limit is None or trial.upper_delta_nll >= ENOUGH * limit)

    def kept(self) -> list[tuple[Candidate, Trial]]:
        """Those that keep the budget and were not claimed in vain, best first."""
        kept = [each for each in self.tried if self.trials.keeps(each[1]) and each[0].key not in self.claimed]
        if self.objective == "loss":
            return sorted(kept, key=lambda each: each[1].upper_delta_nll)
        quantity = QUANTITY[self.objective]
        return sorted(kept, key=lambda each: float(getattr(each[0].assignment, quantity)))

    def least_loss(self, error: InfeasibleError) -> Candidate:
        """The candidate of least loss within all other limits, where prediction says that even it loses too
        much: built quickly and measured, it says so too, or is built as well as can be.

        Raises MissedBudgetError.
        """
        kv, kv_loss = KV_LOSS[0]
        limits = replace(self.limits(kv, kv_loss), loss=None)
        try:
            quick = self.candidate(limits, "loss", kv, "search")
        except InfeasibleError:
            raise MissedBudgetError(self.binding(error.binding), self.nearest(error.nearest)) from None
        trial = self.trials.measure(quick)
        limit = self.trials.budget.max_nll_increase
        assert limit is not None
        if self.method == "search" or BEST_GAIN[self.method] * trial.upper_delta_nll > limit:
            self.learn(quick, trial)
            nearest = self.nearest(least_of_each(self.groups, self.limits(kv, kv_loss)))
            raise MissedBudgetError("loss", nearest | {"loss": safe_loss(trial)})
        return self.made_of(quick.assignment, kv, self.method)

    def failed(self) -> MissedBudgetError:
        """Nothing that was built keeps the budget, or could be proved to: what it would have needed."""
        budget = self.trials.budget
        least = min((trial for _, trial in self.tried), key=lambda trial: trial.upper_delta_nll)
        broken = broken_limits(budget, least.load)
        if not self.trials.keeps_loss(least.upper_delta_nll) or not broken:
            return MissedBudgetError("loss", {"loss": safe_loss(least)})
        assert least.load is not None
        measured: dict[LimitName, float] = {
            "latency": SAFE * least.load.seconds_per_token,
            "throughput": least.load.tokens_per_second / SAFE,
            "memory": SAFE * least.load.peak_memory_bytes,
        }
        return MissedBudgetError(next(iter(broken)), {name: measured[name] for name in broken})

    def missed(self, error: MissedBudgetError) -> SearchRecord:
        """The record of a budget that nothing keeps."""
        return missed_record(
            self.trials,
            self.points(None),
            binding=error.binding,
            nearest=error.nearest,
            objective=self.objective,
            stages=self.stages,
        )

    def points(self, chosen: str | None) -> tuple[Point, ...]:
        """The frontier as predicted, with what was measured of predictions, and what was measured."""
        limits = replace(self.limits(*KV_LOSS[0]), loss=None, nbytes=None, seconds=None)
        predicted = tuple((each.nbytes, self.gain * each.loss) for each in frontier(self.groups, limits))
        checkpoint_bytes = self.costs.checkpoint.tensor_bytes
        return points_of(predicted, [trial for _, trial in self.tried], chosen, checkpoint_bytes)

    def binding(self, quantity: Quantity) -> LimitName:
        """The limit of the budget behind one of the solver's."""
        budget = self.trials.budget
        if quantity == "loss":
            return "loss"
        if quantity == "nbytes":
            return "size" if budget.max_size is not None else "memory"
        return "latency" if budget.max_latency == budget.max_seconds else "throughput"

    def nearest(self, found: Mapping[Quantity, float | None]) -> dict[LimitName, float]:
        """The solver's nearest values as a budget spells them, with room for what prediction misses."""
        checkpoint = self.costs.checkpoint
        nearest: dict[LimitName, float] = {}
        if (nbytes := found.get("nbytes")) is not None and self.trials.budget.max_size is not None:
            nearest["size"] = SAFE * nbytes / checkpoint.tensor_bytes
        if (seconds := found.get("seconds")) is not None:
            streams = self.trials.budget.streams
            if self.trials.budget.max_latency is not None:
                nearest["latency"] = SAFE * seconds
            if self.trials.budget.min_throughput is not None:
                nearest["throughput"] = streams / (SAFE * seconds)
        if (loss := found.get("loss")) is not None:
            nearest["loss"] = math.expm1(SAFE * self.gain * loss)
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
