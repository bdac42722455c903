"""Task scores before and after, as a table and the lines below it."""

from __future__ import annotations

from penjing.cli.show import print_table
from penjing.optimize.task_claims import MetricChange, TaskChange, TaskEvaluation


def print_tasks(answered: TaskEvaluation) -> None:
    """Every metric of every task, then how to read it, and what is claimed."""
    print_table(
        f"Tasks before and after: {answered.candidate.name}",
        ("task", "metric", "documents", "before", "after", "drop", "at most", "lost / won"),
        [metric_row(change, metric) for change in answered.tasks for metric in change.metrics],
    )
    print("\n".join([*notes(answered), *claim_lines(answered)]))


def metric_row(change: TaskChange, metric: MetricChange) -> tuple[str, ...]:
    """One metric; what has no bound has no drop either."""
    name = metric.metric if metric.filter == "none" else f"{metric.metric} ({metric.filter})"
    cells = (change.task, name, f"{change.documents:,}", f"{metric.reference:.4f}", f"{metric.candidate:.4f}")
    bound = metric.bound
    if bound is None:
        return (*cells, "", "no bound", "")
    upper = "too few" if bound.upper is None else f"{bound.upper:+.4f}"
    answers = "" if bound.lost is None else f"{bound.lost:,} / {bound.won:,}"
    return (*cells, f"{bound.drop:+.4f}", upper, answers)


def notes(answered: TaskEvaluation) -> list[str]:
    """What the columns mean, and what did not go as tasks ask."""
    lines = [
        f"Drop: above 0 is worse. At most: each row by itself, {answered.confidence:.0%} confidence. "
        f"lm-evaluation-harness {answered.harness}, {answered.requests:,} requests to each side."
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
