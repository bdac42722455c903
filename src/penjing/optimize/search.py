"""Budget in, artifact out: candidates are measured as served, and the smallest that keeps it is published.

The text is split by document into a part to choose by and a part to claim from. A claim is a test of its own,
and a second candidate may need one if the first fails, so the error that the budget allows is spent in
shares: three quarters of it on the first claim, three quarters of the rest on the next, and so on.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from penjing.artifact import Artifact
from penjing.artifact.certificate import Certificate, write_certificate
from penjing.artifact.staging import StagingDirectory
from penjing.artifact.writer import objection_to_replacing
from penjing.errors import InfeasibleBudgetError, SpecError
from penjing.models import Checkpoint
from penjing.optimize.candidates import Candidate, candidates, seeded_recipes
from penjing.optimize.certificate import issue_certificate
from penjing.optimize.documents import read_parts
from penjing.optimize.evaluate import DEFAULT_TOKENS, Settings, check_enough, open_engine, windows_of
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.progress import Progress, silent
from penjing.optimize.reference import reference_artifact
from penjing.optimize.trials import FrontierPoint, Trials
from penjing.spec import Budget, Spec

CLAIM_SHARE = 0.75
LARGEST_TRIED = 3  # without a loss budget: the least loss among this many of the largest that fit


class Optimized(Spec):
    """What a search published: the candidate, the evaluation behind its claim, and all that was measured.

    refused: the candidates that cannot hold the model's weights, and why.
    """

    path: Path
    chosen: str
    certificate: Certificate
    evaluation: Evaluation
    frontier: tuple[FrontierPoint, ...]
    refused: dict[str, str]


def optimize(
    model: str | Path,
    out: str | Path,
    budget: Budget,
    data: str | Path,
    *,
    tokens: int | None = DEFAULT_TOKENS,
    window: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    speed: bool = True,
    force: bool = False,
    progress: Progress = silent,
) -> Optimized:
    """Publish at `out` the smallest candidate that keeps the budget, with its certificate.

    Without a loss budget it is the candidate of least loss that fits. `tokens` of the data are used, half to
    choose by and half to claim from; `speed`: whether the chosen one is timed as well. Raises
    InfeasibleBudgetError if no candidate keeps the budget, SpecError for a budget without a limit
    or a seed out of range, CheckpointError, DataError, OutputError; then `out` is as it was.
    """
    if budget.max_size is None and budget.max_loss is None:
        raise SpecError("budget: limits neither size nor loss; give --max-size, --max-loss or both")
    out, data = Path(out), Path(data)
    settings = Settings(window, None, threads, seed, budget.confidence, speed)
    recipes = seeded_recipes(seed)
    staging = StagingDirectory(out, force=force, objection=objection_to_replacing)
    staging.create()
    try:
        trials = begin(
            model, budget, data, tokens, settings=settings, workspace=staging.path, progress=progress
        )
        candidate, evaluation = find(
            trials, candidates(trials.checkpoint.config, recipes, trials.checkpoint.formats)
        )
        path = trials.build(candidate)
        artifact = Artifact.open(path)
        certificate = issue_certificate(evaluation, artifact, budget, text_part="report", token_limit=tokens)
        write_certificate(path, certificate)
        publish(staging, path)
    finally:
        staging.discard()
    frontier = tuple(sorted(trials.frontier.values(), key=lambda point: point.tensor_bytes))
    return Optimized(
        path=out,
        chosen=candidate.name,
        certificate=certificate,
        evaluation=evaluation,
        frontier=frontier,
        refused=trials.refused,
    )


def begin(
    model: str | Path,
    budget: Budget,
    data: Path,
    tokens: int | None,
    *,
    settings: Settings,
    workspace: Path,
    progress: Progress,
) -> Trials:
    """Open the checkpoint and its reference, and part the text."""
    checkpoint = Checkpoint.open(model)
    reference = open_engine(reference_artifact(checkpoint, progress=progress), settings, None)
    tune, report = read_parts(data, reference.tokenizer, tokens, settings.seed)
    for part in (tune, report):
        check_enough(windows_of(part, reference, settings), data.name, bounded=True)
    return Trials(checkpoint, reference, budget, settings, workspace, data.name, tune, report, progress)


def find(trials: Trials, table: list[Candidate]) -> tuple[Candidate, Evaluation]:
    """The candidate to publish and the evaluation that proves it. Raises InfeasibleBudgetError."""
    error_left = 1.0 - trials.budget.confidence
    for candidate in in_order_of_preference(trials, table):
        if trials.keeps_loss(trials.measure(candidate)):
            evaluation = trials.claim(candidate, confidence=round(1.0 - CLAIM_SHARE * error_left, 12))
            if trials.keeps_loss(evaluation.compared.bound.upper):
                return candidate, evaluation
            error_left *= 1.0 - CLAIM_SHARE
        trials.discard(candidate)
    raise InfeasibleBudgetError(explain(trials, table))


def in_order_of_preference(trials: Trials, table: list[Candidate]) -> list[Candidate]:
    """Those that fit: smallest first for a loss budget, else by their measured loss."""
    fitting = [candidate for candidate in table if trials.fits(candidate)]
    if trials.budget.max_loss is not None:
        return fitting
    tried: list[Candidate] = []
    for candidate in reversed(fitting):
        if len(tried) < LARGEST_TRIED and trials.measure(candidate) < math.inf:
            tried.insert(0, candidate)
    return sorted(tried, key=trials.measure)


def explain(trials: Trials, table: list[Candidate]) -> str:
    """One line: the limit that binds, the nearest budgets that could be kept, and what could not be tried."""
    text = explain_limits(trials, table)
    if not trials.refused:
        return text
    first, *others = trials.refused
    also = f"; so do {', '.join(others)}" if others else ""
    return f"{text} ({first} drops out: {trials.refused[first]}{also})"


def explain_limits(trials: Trials, table: list[Candidate]) -> str:
    """The limit that binds, and the nearest budgets that could be kept."""
    fitting = [candidate for candidate in table if trials.fits(candidate)]
    if fitting:
        least = min(fitting, key=trials.measure)
        if trials.measure(least) == math.inf:
            return "no candidate that fits can hold these weights"
        needed = f"--max-loss {loss_percent(trials.measure(least))}"
        binding = f"--max-loss binds: {least.name}, the best of {len(fitting)} that fit, needs {needed}"
    else:
        needed = f"--max-size {percent(trials.size_ratio(table[0]))}"
        binding = f"--max-size binds: {table[0].name}, the smallest candidate, needs {needed}"
    if trials.budget.max_loss is None or trials.budget.max_size is None:
        return binding
    for candidate in table:
        if not trials.fits(candidate):
            keeps = trials.keeps_loss(trials.measure(candidate))
            trials.discard(candidate)
            if keeps:
                size = percent(trials.size_ratio(candidate))
                return f"{binding}; the nearest that keeps --max-loss is --max-size {size} ({candidate.name})"
    return f"{binding}; no candidate of any size keeps --max-loss"


def percent(fraction: float) -> str:
    """A fraction as a percentage that is never less than it."""
    return f"{math.ceil(fraction * 1e4) / 100:.2f}%"


def loss_percent(upper_delta_nll: float) -> str:
    """The loss budget that a bound in nats per token needs."""
    return percent(math.expm1(upper_delta_nll))


def publish(staging: StagingDirectory, chosen: Path) -> None:
    """Leave only the chosen candidate's files in the staging directory, and rename that to the target."""
    for other in staging.path.iterdir():
        if other != chosen:
            shutil.rmtree(other)
    for file in chosen.iterdir():
        file.rename(staging.path / file.name)
    chosen.rmdir()
    staging.publish()
