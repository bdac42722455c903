"""Budget in, artifact out: formats are priced and scored, assigned, built, measured as served, and claimed.

1. what every group of matrices would lose in every format (`sensitivity`), and take (`costing`)
2. the assignment that is best for the objective within the limits (`solver`), the limit of loss being divided
   by how predictions have turned out so far
3. it is built and measured on text to choose by; if it loses too much, or leaves room, 2 again
4. the best that keeps the budget is claimed, on text that nothing was chosen by

A claim is a test of its own, and a second candidate may need one if the first fails, so the error that the
budget allows is spent in shares: three quarters of it on the first claim, three quarters of the rest on the
next, and so on.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from penjing.artifact.certificate import Certificate, write_certificate
from penjing.artifact.staging import StagingDirectory
from penjing.artifact.writer import objection_to_replacing
from penjing.errors import SpecError
from penjing.models import Checkpoint
from penjing.models.embedded import SEEDLING_TEXT
from penjing.optimize.candidates import Candidate
from penjing.optimize.certificate import issue_certificate
from penjing.optimize.choosing import Search
from penjing.optimize.costing import LEFT_IN_BLOCKS, Costs
from penjing.optimize.documents import read_parts, record_text, write_learning_text
from penjing.optimize.evaluate import DEFAULT_TOKENS, Settings, check_enough, open_engine, windows_of
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.missing import MissedBudgetError
from penjing.optimize.predict import cost_table
from penjing.optimize.progress import Progress, Say, silent
from penjing.optimize.proof import Proof
from penjing.optimize.record import SearchRecord, write_record
from penjing.optimize.reference import reference_artifact
from penjing.optimize.searched import kept_record
from penjing.optimize.shapes import Shape, scores
from penjing.optimize.trials import CLAIM_SHARE, Trial, Trials, open_directory
from penjing.spec import Budget, DistillStep, MethodName, Objective, Recipe, Spec, validate

LEARNING_TEXT = "learning.jsonl"


class Optimized(Spec):
    """What a search published: the candidate, the evaluation behind its claim, and all that was measured.

    record: what its report is made of; it lies in the artifact.
    """

    path: Path
    chosen: str
    certificate: Certificate
    evaluation: Evaluation
    trials: tuple[Trial, ...]
    record: SearchRecord


def optimize(
    model: str | Path,
    out: str | Path,
    budget: Budget,
    data: str | Path,
    *,
    objective: Objective | None = None,
    price_per_hour: float | None = None,
    method: MethodName = "auto",
    train_minutes: float | None = None,
    tokens: int | None = DEFAULT_TOKENS,
    window: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    speed: bool = True,
    force: bool = False,
    say: Say = silent,
    progress: Progress = silent,
) -> Optimized:
    """Publish at `out` the candidate that is best for the objective among those that keep the budget.

    objective: None is the least size for a budget with a limit of loss, else the least loss. method: how
    candidates are quantized. train_minutes: to train a model with fewer parameters, if that promises more
    than formats alone. `tokens` of the data are used, half to choose by and half to claim from; where it has
    many documents, others of them are learned from, else the built-in text. `speed`: whether the chosen one
    is timed as well. What was done lies beside `out` until the end: a search that was stopped goes on.
    Raises MissedBudgetError if no candidate keeps the budget, SpecError for a budget without a limit or a
    seed out of range, CheckpointError, DataError, OutputError; then `out` is as it was.
    """
    if not budget.limits_anything:
        raise SpecError("budget: limits nothing; give --max-size, --max-loss, or a limit of speed or memory")
    validate(Recipe, {"steps": [{}], "seed": seed}, "optimize")
    if method not in ("search", *LEFT_IN_BLOCKS):
        raise SpecError(f"method {method}: a search takes search, {', '.join(LEFT_IN_BLOCKS)}")
    if train_minutes is not None:
        validate(DistillStep, {"minutes": train_minutes}, "--train-minutes")
    out, data = Path(out), Path(data)
    settings = Settings(window, None, threads, seed, budget.confidence, speed)
    staging = StagingDirectory(out, force=force, objection=objection_to_replacing)
    staging.create()
    try:
        search = begin(
            model,
            budget,
            data,
            tokens,
            settings=settings,
            objective=objective or ("loss" if budget.max_loss is None else "size"),
            method=method,
            train_minutes=train_minutes,
            directory=search_directory(out),
            say=say,
            progress=progress,
        )
        try:
            candidate, proof = proved(search)
        except MissedBudgetError as error:
            error.record = search.missed(error)
            shutil.rmtree(search.trials.directory, ignore_errors=True)
            raise
        found = publish(
            search, candidate, proof, staging, out=out, tokens=tokens, price_per_hour=price_per_hour
        )
        shutil.rmtree(search.trials.directory, ignore_errors=True)
        return found
    finally:
        staging.discard()


def search_directory(out: Path) -> Path:
    """Where a search keeps what it has found so far."""
    return out.parent / f".{out.name}.search"


def begin(
    model: str | Path,
    budget: Budget,
    data: Path,
    tokens: int | None,
    *,
    settings: Settings,
    objective: Objective,
    method: MethodName,
    train_minutes: float | None,
    directory: Path,
    say: Say,
    progress: Progress,
) -> Search:
    """Open the checkpoint and its reference, part the text, score and price the formats."""
    checkpoint = Checkpoint.open(model)
    reference = open_engine(reference_artifact(checkpoint, progress=progress), settings, None)
    parts = read_parts(data, reference.tokenizer, tokens, settings.seed)
    for part in (parts.choose, parts.claim):
        check_enough(windows_of(part, reference, settings), data.name, bounded=True)
    timed = objective in ("latency", "throughput", "cost") or budget.max_seconds is not None
    table = cost_table(settings.threads) if timed or budget.max_ram is not None else None
    question: dict[str, object] = {
        "checkpoint": checkpoint.hash,
        "tune": record_text("", parts.choose).sha256,
        "budget": budget.model_dump(mode="json"),
        "objective": objective,
        "method": method,
        "train_minutes": train_minutes,
        "seed": settings.seed,
        "window": settings.window,
    }
    open_directory(directory, question, say)
    learned = directory / LEARNING_TEXT
    has_more = data != SEEDLING_TEXT and parts.by_hash and write_learning_text(data, learned, settings.seed)
    trials = Trials(
        checkpoint,
        reference,
        budget,
        settings,
        directory,
        data.name,
        parts.choose,
        parts.claim,
        (learned,) if has_more else (),
        progress,
        say,
    )
    began = time.monotonic()
    costs = Costs(checkpoint, checkpoint, budget, scores(trials, checkpoint), table, method)
    stages = {"scores": time.monotonic() - began}
    if table is not None and table.busy:
        say("the machine was busy while its kernels were timed: predictions of speed may be poor")
    whole = Shape(checkpoint, costs, costs.groups())
    return Search(trials, [whole], objective, method, train_minutes, stages=stages)


def proved(search: Search) -> tuple[Candidate, Proof]:
    """The candidate to publish and what proves it; after a failed claim, one that loses less.

    Raises MissedBudgetError.
    """
    error_left = 1.0 - search.trials.budget.confidence
    while kept := search.run():
        candidate = kept[0][0]
        with search.stage("claim"):
            proof = search.trials.claim(candidate, confidence=round(1.0 - CLAIM_SHARE * error_left, 12))
        if search.trials.keeps_loss(proof.bound.upper):
            return candidate, proof
        search.claimed.add(candidate.key)
        because = f" ({proof.shortage})" if proof.shortage else ""
        search.trials.say(f"{candidate.name}: not proved on text that it was not chosen by{because}")
        error_left *= 1.0 - CLAIM_SHARE
    raise search.failed()


def publish(
    search: Search,
    candidate: Candidate,
    proof: Proof,
    staging: StagingDirectory,
    *,
    out: Path,
    tokens: int | None,
    price_per_hour: float | None,
) -> Optimized:
    """The artifact with its certificate and record, whole, at `out`."""
    trials, costs = search.trials, search.shape_of(candidate).costs
    artifact = trials.take(candidate, staging.path)
    certificate = issue_certificate(
        proof.evaluation,
        artifact,
        trials.budget,
        text_part="report",
        token_limit=tokens,
        claimed=None if trials.budget.max_loss is None else proof.bound,
        load=trials.measured[candidate.key].load,
        costs_hash=None if costs.table is None else costs.table.hash,
    )
    write_certificate(staging.path, certificate)
    record = kept_record(
        trials,
        costs,
        search.points(candidate.key),
        path=out,
        artifact=artifact,
        proof=proof,
        certificate=certificate,
        objective=search.objective,
        price_per_hour=price_per_hour,
        stages=search.stages,
    )
    write_record(staging.path, record)
    staging.publish()
    return Optimized(
        path=out,
        chosen=candidate.name,
        certificate=certificate,
        evaluation=proof.evaluation,
        trials=tuple(trial for _, trial in search.tried),
        record=record,
    )
