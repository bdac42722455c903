"""A finished search as the record that its report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from penjing.artifact import Artifact
from penjing.artifact.certificate import Certificate
from penjing.artifact.config import count_parameters
from penjing.engine import Engine
from penjing.models import Checkpoint
from penjing.optimize.costing import Costs
from penjing.optimize.documents import record_text
from penjing.optimize.evaluate import host
from penjing.optimize.profile import measure_profile
from penjing.optimize.proof import Proof
from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import Figures, LimitName, ModelRecord, Objective, Point, Span
from penjing.optimize.recording import (
    claim_of,
    commands_for,
    errors_of,
    figures_of,
    layers_of,
    limits_of,
    roofline_of,
    samples_of,
    time_of,
)
from penjing.optimize.trials import Trial, Trials

PROMPTS, PROMPT_TOKENS = 3, 32


def kept_record(
    trials: Trials,
    costs: Costs,
    points: tuple[Point, ...],
    *,
    path: Path,
    artifact: Artifact,
    proof: Proof,
    certificate: Certificate,
    objective: Objective,
    price_per_hour: float | None,
    stages: Mapping[str, float],
) -> SearchRecord:
    """Of a budget that was kept. path: where the artifact will be."""
    before, after = figures_of(proof.evaluation)
    profile = measure_profile(artifact.path)
    roofline = roofline_of(
        profile,
        decode_tokens_per_second=after.decode_tokens_per_second,
        prefill_tokens_per_second=after.prefill_tokens_per_second,
    )
    return SearchRecord(
        model=model_of(trials.checkpoint),
        artifact_hash=artifact.hash,
        budget=trials.budget,
        limits=limits_of(trials.budget, certificate),
        objective=objective,
        price_per_hour=price_per_hour,
        outcome="kept",
        before=before,
        after=after,
        claim=claim_of(certificate),
        frontier=points,
        layers=layers_of(artifact, costs.losses),
        roofline=roofline,
        time=time_of(artifact, profile, roofline),
        errors=errors_of(proof.quality),
        samples=samples_of(trials.reference, Engine(artifact.path, max_sequences=1), prompts_of(trials)),
        stages=tuple(Span(name=name, seconds=seconds) for name, seconds in stages.items()),
        commands=commands_for(path.name),
        text=record_text(trials.text_name, trials.tune),
        host=host(trials.settings),
        versions={"penjing": version("penjing"), "numpy": np.__version__},
        certificate=certificate,
    )


def missed_record(
    trials: Trials,
    points: tuple[Point, ...],
    *,
    binding: LimitName,
    nearest: Mapping[LimitName, float],
    objective: Objective,
    stages: Mapping[str, float],
) -> SearchRecord:
    """Of a budget that nothing keeps."""
    return SearchRecord(
        model=model_of(trials.checkpoint),
        budget=trials.budget,
        limits=limits_of(trials.budget, None, nearest),
        objective=objective,
        outcome="infeasible",
        binding=binding,
        before=Figures(tensor_bytes=trials.checkpoint.tensor_bytes),
        frontier=points,
        stages=tuple(Span(name=name, seconds=seconds) for name, seconds in stages.items()),
        text=record_text(trials.text_name, trials.tune),
        host=host(trials.settings),
        versions={"penjing": version("penjing"), "numpy": np.__version__},
    )


def model_of(checkpoint: Checkpoint) -> ModelRecord:
    """The checkpoint in a few words."""
    return ModelRecord(
        name=checkpoint.name or checkpoint.path.name,
        family=checkpoint.config.family,
        parameters=count_parameters(checkpoint.config),
        source_hash=checkpoint.hash,
    )


def points_of(
    predicted: Sequence[tuple[int, float]],
    tried: list[Trial],
    chosen: str | None,
    checkpoint_bytes: int,
) -> tuple[Point, ...]:
    """Predicted points (bytes, loss), those that no other beats in both, and measured ones.

    chosen: the key of the one that was taken.
    """
    best: list[tuple[int, float]] = []
    for nbytes, loss in sorted(predicted):
        if not best or loss < best[-1][1]:
            best.append((nbytes, loss))
    guesses = [
        Point(
            name=f"{nbytes / checkpoint_bytes:.1%}",
            tensor_bytes=nbytes,
            size_ratio=nbytes / checkpoint_bytes,
            mean_loss=loss,
            status="predicted",
        )
        for nbytes, loss in best
    ]
    measured = [
        Point(
            name=trial.name,
            tensor_bytes=trial.tensor_bytes,
            size_ratio=trial.size_ratio,
            mean_loss=trial.mean_delta_nll,
            upper_loss=trial.upper_delta_nll,
            mean_kl=trial.mean_kl,
            decode_tokens_per_second=None if trial.load is None else trial.load.tokens_per_second,
            status="chosen" if trial.key == chosen else "measured",
        )
        for trial in tried
    ]
    return tuple(sorted([*guesses, *measured], key=lambda point: point.tensor_bytes))


def prompts_of(trials: Trials) -> list[str]:
    """The beginnings of a few documents of the text to choose by."""
    tokenizer = trials.reference.tokenizer
    return [tokenizer.decode(document[:PROMPT_TOKENS]) for document in trials.tune[:PROMPTS]]
