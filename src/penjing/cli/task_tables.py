"""Task scores before and after, as a table and the lines below it."""

from __future__ import annotations

from penjing.cli.show import print_table
from penjing.optimize.task_claims import MetricChange, TaskChange, TaskEvaluation


def print_tasks(answered: TaskEvaluation) -> None:
    """Every metric of every task, then how to read it, and what is claimed."""
    print_table(
        f"Tasks before and after: {answered.candidate.name}",
        ("", "documents", "before", "after", "drop", "at most"),
        [metric_row(change, metric) for change in answered.tasks for metric in change.metrics],
    )
    print("\n".join([*notes(answered), *claim_lines(answered)]))


def metric_row(change: TaskChange, metric: MetricChange) -> tuple[str, ...]:
    """One metric; what has no bound has no drop either."""
    name = f"{change.task} {metric.metric}" + ("" if metric.filter == "none" else f" ({metric.filter})")
    cells = (name, f"{change.documents:,}", score(metric.reference), score(metric.candidate))
    bound = metric.bound
    if bound is None:
        return (*cells, "", "no bound")
    upper = "too few" if bound.upper is None else f"{bound.upper:+.4f}"
    return (*cells, f"{bound.drop:+.4f}", upper)


def score(value: float) -> str:
    """Four digits after the point of a share, fewer of a perplexity."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"


def notes(answered: TaskEvaluation) -> list[str]:
    """What the columns mean, and what did not go as tasks ask."""
    lines = [
        "Drop: above 0 is worse; of a perplexity, its logarithm's rise. "
        f"At most: each row by itself, with {answered.confidence:.0%} confidence.",
        f"lm-evaluation-harness {answered.harness}, {answered.requests:,} requests to each side.",
    ]
    if answered.shortened:
        lines.append(
            f"{answered.shortened:,} requests were longer than the model's context and lost their beginning."
        )
    return lines


def claim_lines(answered: TaskEvaluation) -> list[str]:
    """What is proved, all together, and what is not."""
    if answered.max_drop is None:
        return []
    allowed, sure = f"{answered.max_drop:.2%}", f"{answered.confidence:.0%}"
    lines = []
    for change in answered.tasks:
        claim = change.claim
        if claim is None:
            lines.append(f"  {change.task}: no claim, for none of its metrics is an average over documents")
        else:
            verdict = "proved" if claim.proved else "not proved"
            lines.append(f"  {change.task}, {claim.metric}: {verdict} (p = {claim.adjusted_p_value:.4f})")
    return [f"Drop of at most {allowed}, all that is proved together with {sure} confidence (Holm):", *lines]
