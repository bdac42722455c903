"""Which candidate is built next, from what is predicted and what measurements have made of predictions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from penjing.optimize.candidates import Candidate
from penjing.optimize.certificate import broken_limits
from penjing.optimize.costing import KV_LOSS
from penjing.optimize.missing import SAFE, MissedBudgetError, names_of, nearest_limits, safe_loss
from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import LimitName, Point
from penjing.optimize.searched import missed_record, points_of
from penjing.optimize.shapes import FRACTIONS, LEFT, Shape, settled, trained, without_channels
from penjing.optimize.solver import Assignment, InfeasibleError, Limits, Quantity, frontier, solve
from penjing.optimize.trials import Trial, Trials
from penjing.quantize.assignment import label
from penjing.spec import Kv, MethodName, Objective

BUILDS, MOST_BUILDS = 4, 8  # of candidates; more only where none keeps the budget
ENOUGH = 0.85  # of the limit of loss: a candidate that uses so much of it is not followed by a smaller one
CAUTION = 0.9  # of that, for every candidate that missed it
AIM = 0.95  # of the limit of loss, so that a measurement's noise does not break it
LEAST_GAIN = 0.02  # a bound below so much of the KL is luck
WORTH = 0.01  # of the objective: by less, keys and values are not made narrower, nor units removed
BEST_GAIN = {"gptq": 0.15, "qronos": 0.15, "auto": 0.08}  # of `search`'s loss, the least that was ever left
UNSURE = 1.3  # times what a calibrated method should leave, where a budget is named that would be kept
QUANTITY: dict[Objective, Quantity] = {
    "size": "nbytes",
    "loss": "loss",
    "latency": "seconds",
    "throughput": "seconds",
    "cost": "seconds",
}


@dataclass(frozen=True)
class Prediction:
    """An assignment of formats to a shape of the model, and what it comes to in the objective's terms."""

    shape: Shape
    kv: Kv
    assignment: Assignment
    value: float


@dataclass
class Search:
    """One search: what it chooses among, its measurements, and how predictions have turned out.

    shapes: the model as it came, first. train_minutes: for what is left of one with fewer parameters. gains:
    of each shape, the measured loss of formats over the predicted one.
    """

    trials: Trials
    shapes: list[Shape]
    objective: Objective
    method: MethodName
    train_minutes: float | None = None
    gains: dict[Shape, float] = field(default_factory=dict)
    tried: list[tuple[Candidate, Trial]] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)  # keys of candidates whose claims failed

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage whose wall time is kept."""
        began = time.monotonic()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - began

    def gain(self, shape: Shape) -> float:
        """Measured over predicted loss of a shape's formats."""
        return self.gains.get(shape, 1.0)

    def limits(self, shape: Shape, kv: Kv, kv_loss: float) -> Limits:
        """The budget's limits, the one of loss as predictions count it."""
        gain = self.gain(shape)
        limits = shape.costs.limits(shape.groups, kv, (kv_loss + shape.loss) / gain)
        most = self.trials.budget.max_nll_increase
        return limits if most is None else replace(limits, loss=self.aim * most / gain)

    @property
    def aim(self) -> float:
        """The part of the limit of loss that is aimed at: less after every miss, and every failed claim."""
        misses = sum(not self.trials.keeps_loss(trial.upper_delta_nll) for _, trial in self.tried)
        return AIM * CAUTION ** (misses + len(self.claimed))

    def best(self, shapes: Sequence[Shape], *, whatever_loss: bool = False) -> Prediction:
        """The best by prediction; or, whatever_loss, that of least loss within all other limits.

        Raises MissedBudgetError with what is nearest by prediction.
        """
        quantity = "loss" if whatever_loss else QUANTITY[self.objective]
        found: Prediction | None = None
        misses: list[tuple[Shape, Limits, InfeasibleError]] = []
        for shape in shapes:
            for kv, kv_loss in KV_LOSS:
                limits = self.limits(shape, kv, kv_loss)
                if whatever_loss:
                    limits = replace(limits, loss=None)
                try:
                    assignment = solve(shape.groups, limits, quantity)
                except InfeasibleError as error:
                    misses.append((shape, limits, error))
                    continue
                scale = self.gain(shape) if quantity == "loss" else 1.0
                value = scale * float(getattr(assignment, quantity))
                if found is None or value < found.value - WORTH * abs(found.value):
                    found = Prediction(shape, kv, assignment, value)
                if shape.costs.table is None:
                    break  # narrower keys and values would win nothing that is asked for
        if found is None:
            raise self.missed_by(misses)
        return found

    def missed_by(self, misses: Sequence[tuple[Shape, Limits, InfeasibleError]]) -> MissedBudgetError:
        """What binds for the model as it came, and the nearest of all shapes."""
        budget, whole_bytes = self.trials.budget, self.trials.checkpoint.tensor_bytes
        nearest: dict[LimitName, float] = {}
        for shape, limits, miss in misses:
            found = nearest_limits(miss, budget, limits, self.gain(shape), whole_bytes)
            for name, value in found.items():
                nearer = max if name == "throughput" else min
                nearest[name] = nearer(value, nearest.get(name, value))
        _, limits, first = misses[0]
        return MissedBudgetError(names_of(budget, limits, whole_bytes)[first.binding], nearest)

    def made_of(self, prediction: Prediction, method: MethodName) -> Candidate:
        """The candidate that was predicted."""
        seed = self.trials.settings.seed
        return prediction.shape.candidate(prediction.assignment, prediction.kv, method, seed)

    def shape_of(self, candidate: Candidate) -> Shape:
        """What a candidate is a form of."""
        return next(shape for shape in self.shapes if shape.checkpoint is candidate.checkpoint)

    def learn(self, candidate: Candidate, trial: Trial) -> None:
        """Keep what was measured, and correct predictions by it."""
        self.tried.append((candidate, trial))
        self.correct(candidate, trial)

    def correct(self, candidate: Candidate, trial: Trial) -> None:
        """Measured loss corrects predicted loss. The bound counts, not the mean: it is what has a limit."""
        shape = self.shape_of(candidate)
        measured = max(trial.upper_delta_nll - shape.loss, LEAST_GAIN * trial.mean_kl)
        self.gains[shape] = measured / self.predicted_rounding(candidate)

    def predicted_rounding(self, candidate: Candidate) -> float:
        """What a candidate's formats alone should lose, before any correction."""
        shape = self.shape_of(candidate)
        return candidate.assignment.loss - shape.loss / self.gain(shape)

    def widen(self) -> None:
        """Add a shape with fewer parameters where, by a guess, the best candidate is one of it."""
        whole, minutes = self.shapes[0], self.train_minutes
        with self.stage("removal"):
            removed = [without_channels(self.trials, whole, fraction) for fraction in FRACTIONS]
        pruned = [shape for shape in removed if shape is not None]
        guesses = [replace(shape, loss=LEFT * shape.loss) for shape in pruned] if minutes else pruned
        try:
            best = self.best([whole, *guesses]).shape
        except MissedBudgetError:
            return
        if best is whole:
            self.trials.say("fewer parameters would not keep the budget better")
            return
        chosen = pruned[guesses.index(best)]
        if minutes:
            with self.stage("training"):
                chosen = trained(self.trials, chosen, minutes)
        with self.stage("scores"):
            chosen = settled(self.trials, chosen)
        self.trials.say(f"with fewer parameters, and no formats yet: {chosen.loss:+.3f} nats a token")
        self.shapes.append(chosen)

    def run(self) -> list[tuple[Candidate, Trial]]:
        """Build and measure until the limit of loss is used well; those that keep the budget, best first.

        After so many builds that should do, or where a claim has failed, the first that keeps it will do.

        Raises MissedBudgetError.
        """
        try:
            while candidate := self.next_candidate():
                with self.stage("candidates"):
                    trial = self.trials.measure(candidate)
                self.learn(candidate, trial)
                self.tell(trial)
                if self.is_enough(trial):
                    break
        except KeyboardInterrupt:
            if not self.kept():
                raise
            self.trials.say("stopped: the best candidate so far is claimed and published")
        return self.kept()

    def next_candidate(self) -> Candidate | None:
        """What to build next, None if nothing is worth it. Raises MissedBudgetError before the first."""
        if not self.tried:
            return self.first_candidate()
        if len(self.tried) >= MOST_BUILDS:
            return None
        if self.kept() and (self.claimed or len(self.tried) >= BUILDS):
            return None
        try:
            candidate = self.made_of(self.best(self.shapes), self.method)
        except MissedBudgetError:  # by what has been learned; what was built before may keep the budget
            return None
        return None if any(candidate.key == other.key for other, _ in self.tried) else candidate

    def first_candidate(self) -> Candidate:
        """The best by prediction or, if by prediction nothing keeps the budget, what loses least."""
        if self.train_minutes or not self.fits_somehow():
            self.widen()
        try:
            return self.made_of(self.best(self.shapes), self.method)
        except MissedBudgetError as error:
            return self.least_loss(error)

    def fits_somehow(self) -> bool:
        """Whether formats alone keep the limits other than that of loss."""
        try:
            self.best(self.shapes, whatever_loss=True)
        except MissedBudgetError:
            return False
        return True

    def tell(self, trial: Trial) -> None:
        """One line about a candidate, the best so far, and how long it may still take."""
        rise = math.expm1(trial.upper_delta_nll)
        kept = self.kept()
        verdict = "misses the budget"
        if self.trials.keeps(trial):
            verdict = "keeps the budget" + (", the best so far" if kept[0][1] is trial else "")
        left = (BUILDS if kept else MOST_BUILDS) - len(self.tried) + 1  # a claim takes about as long
        minutes = max(left, 1) * self.stages["candidates"] / len(self.tried) / 60
        self.trials.say(
            f"{trial.name}: {trial.size_ratio:.1%} of the size, perplexity at most {rise:+.2%}: {verdict}; "
            f"at most {minutes:.1f} minutes to go"
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

    def least_loss(self, error: MissedBudgetError) -> Candidate:
        """The candidate of least loss within all other limits, where prediction says that even it loses too
        much: built quickly and measured, it says so too, or is built as well as can be.

        Raises MissedBudgetError.
        """
        try:
            found = self.best(self.shapes, whatever_loss=True)
        except MissedBudgetError:
            raise error from None
        quick = self.made_of(found, "search")
        trial = self.trials.measure(quick)
        limit = self.trials.budget.max_nll_increase
        assert limit is not None
        rounding = trial.upper_delta_nll - found.shape.loss
        if found.shape.loss + BEST_GAIN.get(self.method, 1.0) * rounding > limit:
            self.tried.append((quick, trial))
            expected = self.expected(quick, trial)
            self.correct(quick, expected)
            raise MissedBudgetError("loss", self.nearest_now() | {"loss": safe_loss(expected)})
        return self.made_of(found, self.method)

    def expected(self, quick: Candidate, trial: Trial) -> Trial:
        """What the search's own method should make of a candidate that was quantized by weights alone."""
        if self.method == "search":
            return trial
        shape = self.shape_of(quick)
        plain = sum(shape.costs.losses[group][label(one)] for group, one in quick.assignment.formats.items())
        left = UNSURE * self.predicted_rounding(quick) / plain
        losses = {
            name: shape.loss + left * (getattr(trial, name) - shape.loss)
            for name in ("mean_delta_nll", "upper_delta_nll")
        }
        return trial.model_copy(update=losses)

    def nearest_now(self) -> dict[LimitName, float]:
        """What could be kept of each limit, by what has been learned."""
        try:
            self.best(self.shapes)
        except MissedBudgetError as error:
            return error.nearest
        return {}

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
        predicted: list[tuple[int, float]] = []
        for shape in self.shapes:
            limits = replace(self.limits(shape, *KV_LOSS[0]), loss=None, nbytes=None, seconds=None)
            found = frontier(shape.groups, limits)
            predicted += [(each.nbytes, self.gain(shape) * each.loss) for each in found]
        checkpoint_bytes = self.trials.checkpoint.tensor_bytes
        return points_of(predicted, [trial for _, trial in self.tried], chosen, checkpoint_bytes)
