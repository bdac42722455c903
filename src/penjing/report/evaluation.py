"""An evaluation in words: a table before and after, what was lost, and on what that was measured."""

from __future__ import annotations

import math

from penjing.optimize.evaluation import Comparison, Evaluation
from penjing.optimize.serving import ServingSpeed


def before_after_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """(what, before, after) of an evaluation that has a reference."""
    comparison, before, after = evaluation.compared, evaluation.reference, evaluation.candidate
    assert before is not None
    return [
        ("Tensor bytes", megabytes(comparison.checkpoint_bytes), megabytes(comparison.artifact_bytes)),
        ("Size", "100%", f"{comparison.size_ratio:.1%}"),
        ("Perplexity", f"{before.perplexity:.4f}", f"{after.perplexity:.4f}"),
        *speed_rows(before.speed, after.speed),
    ]


def speed_rows(before: ServingSpeed | None, after: ServingSpeed | None) -> list[tuple[str, str, str]]:
    """Rows on speed and memory, if both sides were measured."""
    if before is None or after is None:
        return []
    rates = (
        ("Prefill, tokens/s", before.prefill_tokens_per_second, after.prefill_tokens_per_second),
        ("Decode, tokens/s", before.decode_tokens_per_second, after.decode_tokens_per_second),
    )
    return [
        *((name, f"{one:,.1f}", f"{other:,.1f}") for name, one, other in rates),
        ("Time to first token", f"{1e3 * before.ttft_seconds:.1f} ms", f"{1e3 * after.ttft_seconds:.1f} ms"),
        ("Peak memory of serving", megabytes(before.peak_rss_bytes), megabytes(after.peak_rss_bytes)),
    ]


def loss_lines(comparison: Comparison) -> list[str]:
    """What was lost, token by token."""
    quality, bound = comparison.quality, comparison.bound
    rise = f"{math.expm1(bound.upper):+.2%}"
    lines = [
        f"Loss per token: {bound.mean:+.5f} nats on average; with {bound.confidence:.4g} confidence at most "
        f"{bound.upper:+.5f}, perplexity {rise} (over {bound.units} {bound.unit}s).",
        f"KL divergence, nats: mean {quality.mean_kl:.5f}, "
        f"99% {quality.p99_kl:.5f}, max {quality.max_kl:.5f}.",
        f"Same first choice on {quality.top1_agreement:.2%} of tokens.",
    ]
    if comparison.is_unfamiliar_text:
        lines.append(
            "Caution: predictions changed far more (KL) than this text can show (loss): it is unlike what "
            "the model knows. Measure on text of the kind that it will serve."
        )
    return lines


def context_line(evaluation: Evaluation) -> str:
    """On which text and machine, so that the numbers can be reproduced."""
    text, host = evaluation.text, evaluation.host
    return (
        f"Measured as served, tier {evaluation.candidate.tier}, "
        f"on {evaluation.tokens:,} tokens of {text.name} "
        f"(windows of {evaluation.window_tokens}, SHA-256 of tokens {text.sha256[:12]}); "
        f"{host.cpu_model}, {host.isa}, {host.threads} threads."
    )


def megabytes(count: int) -> str:
    """Decimal megabytes."""
    return f"{count / 1e6:,.2f} MB"
