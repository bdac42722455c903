"""Candidates made and measured one by one, and what has been learnt of them so far."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from penjing.engine import Engine
from penjing.errors import FormatError
from penjing.models import Checkpoint
from penjing.optimize.candidates import Candidate
from penjing.optimize.documents import Tokens
from penjing.optimize.evaluate import Settings, evaluate_documents, open_engine
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.progress import Progress
from penjing.optimize.roundtrip import check_round_trip
from penjing.quantize import quantize_checkpoint
from penjing.spec import Budget, Spec


class FrontierPoint(Spec):
    """One candidate as measured on the text to choose by; NLL and KL in nats per token."""

    name: str
    tensor_bytes: int
    size_ratio: float
    mean_delta_nll: float
    upper_delta_nll: float
    mean_kl: float


@dataclass
class Trials:
    """The inputs of one search, and its measurements.

    workspace: a directory for candidates while they are measured. tune, report: disjoint tokenized documents,
    to choose by and to claim from. bounds: the worst loss bound found for each candidate, infinite for those
    that cannot hold the model's weights; refused: why they cannot.
    """

    checkpoint: Checkpoint
    reference: Engine
    budget: Budget
    settings: Settings
    workspace: Path
    text_name: str
    tune: list[Tokens]
    report: list[Tokens]
    progress: Progress
    frontier: dict[str, FrontierPoint] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def fits(self, candidate: Candidate) -> bool:
        """Whether a candidate is within the size budget."""
        limit = self.budget.max_size
        return limit is None or self.size_ratio(candidate) <= limit

    def size_ratio(self, candidate: Candidate) -> float:
        """Tensor bytes over those of the checkpoint."""
        return candidate.tensor_bytes / self.checkpoint.tensor_bytes

    def keeps_loss(self, upper_delta_nll: float) -> bool:
        """Whether a bound is within the loss budget; an infinite one never is."""
        limit = self.budget.max_nll_increase
        return upper_delta_nll < math.inf if limit is None else upper_delta_nll <= limit

    def measure(self, candidate: Candidate) -> float:
        """The loss bound of a candidate on the text to choose by, measured once; infinite if refused."""
        if candidate.name not in self.bounds:
            try:
                self.bounds[candidate.name] = self.measure_now(candidate)
            except FormatError as error:
                self.bounds[candidate.name] = math.inf
                self.refused[candidate.name] = str(error)
                self.progress(f"skip {candidate.name}: {error}", 1, 1)
        return self.bounds[candidate.name]

    def measure_now(self, candidate: Candidate) -> float:
        """Add a candidate to the frontier; its loss bound. FormatError if it cannot hold the weights."""
        settings = replace(self.settings, speed=False)
        compared = self.evaluate(candidate, self.tune, settings, f"choose {candidate.name}").compared
        self.frontier[candidate.name] = FrontierPoint(
            name=candidate.name,
            tensor_bytes=candidate.tensor_bytes,
            size_ratio=compared.size_ratio,
            mean_delta_nll=compared.bound.mean,
            upper_delta_nll=compared.bound.upper,
            mean_kl=compared.quality.mean_kl,
        )
        return compared.bound.upper

    def claim(self, candidate: Candidate, confidence: float) -> Evaluation:
        """A candidate's evaluation on the text to claim from, speed included."""
        settings = replace(self.settings, confidence=confidence)
        evaluation = self.evaluate(candidate, self.report, settings, f"claim {candidate.name}")
        self.bounds[candidate.name] = max(self.bounds[candidate.name], evaluation.compared.bound.upper)
        return evaluation

    def evaluate(
        self, candidate: Candidate, documents: list[Tokens], settings: Settings, stage: str
    ) -> Evaluation:
        """Evaluate a candidate as served."""
        engine = open_engine(self.build(candidate), settings, settings.tier)
        return evaluate_documents(
            engine,
            self.reference,
            documents,
            settings,
            name=self.text_name,
            progress=self.progress,
            stage=stage,
        )

    def build(self, candidate: Candidate) -> Path:
        """Quantize a candidate for real, unless it is there, and check that it reads back; its path."""
        path = self.path_of(candidate)
        if not path.exists():
            stage = f"quantize {candidate.name}"
            artifact = quantize_checkpoint(
                self.checkpoint,
                path,
                candidate.recipe,
                progress=lambda done, total: self.progress(stage, done, total),
            )
            assert artifact.tensor_bytes == candidate.tensor_bytes, (artifact.tensor_bytes, candidate)
            check_round_trip(artifact, self.checkpoint, candidate.recipe.quantizing, self.progress)
        return path

    def discard(self, candidate: Candidate) -> None:
        """Remove a candidate's files; several of them may not fit the disk."""
        shutil.rmtree(self.path_of(candidate), ignore_errors=True)

    def path_of(self, candidate: Candidate) -> Path:
        """Where a candidate's files lie."""
        return self.workspace / candidate.name.replace("/", "-")
