"""Candidates built and measured, all kept in a directory, so that a search that was stopped goes on.

What was built lies there under the hash of its recipe, and what was measured beside it. A directory belongs
to one question: another checkpoint, text or setting begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from penjing.artifact import Artifact
from penjing.artifact.certificate import MeasuredLoad
from penjing.engine import Engine
from penjing.measure.machine import usable_cores
from penjing.measure.sequential import FRACTIONS
from penjing.models import Checkpoint
from penjing.optimize.candidates import Candidate
from penjing.optimize.certificate import broken_limits
from penjing.optimize.documents import Tokens
from penjing.optimize.evaluate import Settings, evaluate_documents, open_engine
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.load import measure_load
from penjing.optimize.progress import Progress, Say
from penjing.optimize.proof import Proof, prove
from penjing.optimize.quantizing import quantize
from penjing.optimize.roundtrip import check_round_trip
from penjing.spec import Budget, Spec, canonical_json

CLAIM_SHARE = 0.75  # of the error that is left, for each claim
QUESTION_FILE = "question.json"


class Trial(Spec):
    """One candidate as measured on the text to choose by; NLL and KL in nats per token.

    upper_delta_nll: at the confidence of one look of a claim, so that what keeps the budget can be proved.
    load: where the budget limits speed or memory.
    """

    name: str
    key: str
    tensor_bytes: int
    size_ratio: float
    predicted_loss: float
    mean_delta_nll: float
    upper_delta_nll: float
    mean_kl: float
    load: MeasuredLoad | None = None


@dataclass
class Trials:
    """The inputs of one search, and its measurements.

    directory: where candidates are built and measurements kept. tune, report: disjoint tokenized documents,
    to choose by and to claim from. learn_from: texts to calibrate and train on; none is the built-in one, and
    one that the model writes itself.
    """

    checkpoint: Checkpoint
    reference: Engine
    budget: Budget
    settings: Settings
    directory: Path
    text_name: str
    tune: list[Tokens]
    report: list[Tokens]
    learn_from: tuple[Path, ...]
    progress: Progress
    say: Say
    measured: dict[str, Trial] = field(default_factory=dict)

    def measure(self, candidate: Candidate) -> Trial:
        """A candidate on the text to choose by: built, unless it is there, and measured, once."""
        if candidate.key not in self.measured:
            path = self.directory / f"{candidate.key}.json"
            if path.exists():
                self.measured[candidate.key] = Trial.model_validate(json.loads(path.read_bytes()))
            else:
                self.measured[candidate.key] = self.measure_now(candidate)
                path.write_text(canonical_json(self.measured[candidate.key]), "utf-8")
        return self.measured[candidate.key]

    def measure_now(self, candidate: Candidate) -> Trial:
        """The same, without looking back."""
        confidence = 1.0 - CLAIM_SHARE * (1.0 - self.settings.confidence) / len(FRACTIONS)
        settings = replace(self.settings, speed=False, confidence=confidence)
        evaluation = self.evaluate(candidate, self.tune, settings, f"measure {candidate.name}")
        compared = evaluation.compared
        limits = self.budget.max_seconds, self.budget.max_ram
        wants_load = any(limit is not None for limit in limits)
        return Trial(
            name=candidate.name,
            key=candidate.key,
            tensor_bytes=compared.artifact_bytes,
            size_ratio=compared.size_ratio,
            predicted_loss=candidate.assignment.loss,
            mean_delta_nll=compared.bound.mean,
            upper_delta_nll=compared.bound.upper,
            mean_kl=compared.quality.mean_kl,
            load=self.load_of(candidate) if wants_load else None,
        )

    def load_of(self, candidate: Candidate) -> MeasuredLoad:
        """A candidate under the budget's load."""
        threads = self.settings.threads or usable_cores()
        path = self.build(candidate)
        return measure_load(path, self.budget.streams, tier="best", threads=threads, progress=self.progress)

    def claim(self, candidate: Candidate, confidence: float) -> Proof:
        """What can be claimed of a candidate on the text kept for that, and its speed.

        Without a limit of loss nothing is to be proved, and all of the text is scored for the bound.
        """
        settings = replace(self.settings, confidence=confidence)
        return prove(
            open_engine(self.build(candidate), settings, settings.tier),
            self.reference,
            self.report,
            self.budget.max_nll_increase,
            settings,
            name=self.text_name,
            progress=self.progress,
            stage=f"claim {candidate.name}",
        )

    def keeps_loss(self, upper_delta_nll: float) -> bool:
        """Whether a bound is within the loss budget."""
        limit = self.budget.max_nll_increase
        return limit is None or upper_delta_nll <= limit

    def keeps(self, trial: Trial) -> bool:
        """Whether what was measured is within every limit."""
        size = self.budget.max_size
        return (
            self.keeps_loss(trial.upper_delta_nll)
            and (size is None or trial.size_ratio <= size)
            and not broken_limits(self.budget, trial.load)
        )

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
        path = self.directory / candidate.key
        if not path.exists():
            step = candidate.recipe.quantizing
            artifact = quantize(
                candidate.checkpoint,
                path,
                candidate.recipe,
                self.learn_from if step.needs_data else (),
                origin=candidate.origin,
                resume=step.needs_data,
                threads=self.settings.threads,
                progress=self.progress,
            )
            if not step.needs_data:  # others have a gate of their own
                check_round_trip(artifact, candidate.checkpoint, step, self.progress)
        return path

    def take(self, candidate: Candidate, target: Path) -> Artifact:
        """Put a candidate's files into a directory on the same disk, and leave them where they are too."""
        for file in self.build(candidate).iterdir():
            os.link(file, target / file.name)
        return Artifact.open(target)


def open_directory(path: Path, question: dict[str, object], say: Say) -> None:
    """A search's directory: as it was left if it is of the same question, else empty."""
    asked = canonical_json({"digest": hashlib.sha256(canonical_json(question).encode()).hexdigest()})
    file = path / QUESTION_FILE
    if file.exists() and file.read_text("utf-8") == asked:
        say(f"going on with the search that was stopped ({path})")
        return
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    file.write_text(asked, "utf-8")
