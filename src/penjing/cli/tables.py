"""Tables that several commands print."""

from __future__ import annotations

import math

from penjing.cli.show import megabytes, print_table
from penjing.measure.cost import ModelCost
from penjing.optimize.bench import Bench, Quantiles, Row
from penjing.optimize.evaluation import Comparison, Evaluation
from penjing.optimize.profile import Profile
from penjing.optimize.search import Optimized
from penjing.optimize.serving import ServingSpeed


def print_evaluation(evaluation: Evaluation) -> None:
    """Before and after, or one side alone; then on what it was measured."""
    if evaluation.comparison is None:
        print_table("Measured", ("", evaluation.candidate.name), side_rows(evaluation))
    else:
        print_table("Before and after", ("", "before", "after"), before_after_rows(evaluation))
        print("\n".join(loss_lines(evaluation.comparison)))
    print(context_line(evaluation))


def print_trials(found: Optimized) -> None:
    """What a search built, the chosen one marked."""
    rows = [
        (
            ("→ " if trial.name == found.chosen else "  ") + trial.name,
            f"{trial.size_ratio:.2%}",
            f"{trial.mean_delta_nll:+.5f}",
            f"{trial.upper_delta_nll:+.5f}",
            f"{trial.mean_kl:.5f}",
        )
        for trial in found.trials
    ]
    print_table("Measured candidates", ("", "size", "delta NLL", "upper bound", "KL"), rows)


def side_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """One artifact, compared with nothing."""
    side = evaluation.candidate
    rows = [("Tensor bytes", megabytes(side.tensor_bytes)), ("Perplexity", f"{side.perplexity:.4f}")]
    return [*rows, *speed_rows(side.speed)]


def before_after_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """(what, before, after) of an evaluation that has a reference."""
    comparison, before, after = evaluation.compared, evaluation.reference, evaluation.candidate
    assert before is not None
    return [
        ("Tensor bytes", megabytes(comparison.checkpoint_bytes), megabytes(comparison.artifact_bytes)),
        ("Size", "100%", f"{comparison.size_ratio:.1%}"),
        ("Perplexity", f"{before.perplexity:.4f}", f"{after.perplexity:.4f}"),
        *speed_rows(before.speed, after.speed),
    ]


def speed_rows(*speeds: ServingSpeed | None) -> list[tuple[str, ...]]:
    """Rows on speed and memory, if all sides were measured."""
    known = [speed for speed in speeds if speed is not None]
    if len(known) < len(speeds):
        return []
    return [
        ("Prefill, tokens/s", *(f"{speed.prefill_tokens_per_second:,.1f}" for speed in known)),
        ("Decode, tokens/s", *(f"{speed.decode_tokens_per_second:,.1f}" for speed in known)),
        ("Time to first token", *(f"{1e3 * speed.ttft_seconds:.1f} ms" for speed in known)),
        ("Peak memory of serving", *(megabytes(speed.peak_rss_bytes) for speed in known)),
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


def print_profile(profile: Profile) -> None:
    """Three tables: the whole, its blocks, the machine."""
    cost, bound, machine = profile.cost, profile.roofline, profile.machine
    print_table(
        f"{profile.model} ({profile.family}), context {cost.context_tokens}",
        ("", ""),
        [
            ("Parameters", f"{cost.parameters:,}"),
            *active_rows(cost),
            ("Operations to decode a token", f"{cost.decode_flops / 1e6:,.1f} MFLOP"),
            (f"Operations to read {cost.prefill_tokens} tokens", f"{cost.prefill_flops / 1e9:,.2f} GFLOP"),
            ("Weights", megabytes(cost.weight_bytes)),
            ("Working memory, a token in a step", f"{cost.activation_bytes_per_token / 1e3:,.1f} kB"),
            ("KV cache, a token", f"{cost.kv_bytes_per_token / 1e3:,.2f} kB"),
            ("KV cache, the context", megabytes(cost.kv_bytes)),
        ],
    )
    print_table(
        "Blocks",
        ("block", "parameters", "MFLOP a token", "weights", "KV a token"),
        [
            (
                str(block.index),
                f"{block.parameters:,}",
                f"{block.flops_per_token / 1e6:,.2f}",
                megabytes(block.weight_bytes),
                f"{block.kv_bytes_per_token / 1e3:,.2f} kB",
            )
            for block in cost.blocks
        ],
    )
    print_table(
        f"At most, on this machine ({machine.cpu_model}, {machine.cores} cores, {machine.isa})",
        ("", "limit", "set by"),
        [
            ("Memory reads, measured", f"{machine.read_bytes_per_second / 1e9:,.1f} GB/s", ""),
            ("int8 kernel, measured", f"{machine.int8_operations_per_second / 1e9:,.0f} GOP/s", ""),
            ("Decode", f"{bound.decode_tokens_per_second:,.0f} tokens/s", bound.decode_bound),
            ("Prefill", f"{bound.prefill_tokens_per_second:,.0f} tokens/s", bound.prefill_bound),
        ],
    )


def active_rows(cost: ModelCost) -> list[tuple[str, str]]:
    """How many of the parameters a token uses, where that is not all of them."""
    if cost.active_parameters == cost.parameters:
        return []
    return [("Parameters that a token uses", f"{cost.active_parameters:,}")]


def print_bench(result: Bench) -> None:
    """A row for each workload; shares are of this machine's measured limits."""
    print_table(
        bench_title(result),
        (
            "load",
            "prefill, tokens/s",
            "TTFT, ms",
            "decode, tokens/s",
            "between tokens, ms",
        ),
        [bench_row(row) for row in result.rows],
    )
    print("\n".join(bench_notes(result)))


def bench_title(result: Bench) -> str:
    """What was timed, and where."""
    if result.machine is None:
        return result.model
    return f"{result.model}, tier {result.tier}, {result.machine.isa}, {result.threads} threads"


def bench_row(row: Row) -> tuple[str, ...]:
    """One workload."""
    return (
        row.workload.label,
        rate(row.prefill_tokens_per_second, row.prefill_share),
        milliseconds(row.ttft_seconds),
        rate(row.decode_tokens_per_second, row.decode_share),
        milliseconds(row.inter_token_seconds),
    )


def bench_notes(result: Bench) -> list[str]:
    """How to read the table, and what did not go as asked."""
    notes = [
        "Load: streams x (tokens of prompt + answer). "
        f"Rates: medians, rounds: {result.rounds}. Times: 50th / 90th / 99th percentile."
    ]
    if result.machine is not None:
        read, compute = result.machine.read_bytes_per_second, result.machine.int8_operations_per_second
        notes.append(
            f"Shares are of limits measured in this run: {read / 1e9:,.1f} GB/s, {compute / 1e9:,.0f} GOP/s."
        )
    if result.sent is not None:
        notes.append(f"Sent: {result.sent}.")
    for row in result.rows:
        if row.arriving_ttft_seconds is not None:
            waits = milliseconds(row.arriving_ttft_seconds)
            notes.append(f"{row.workload.label}: TTFT of the arriving prompts {waits} ms.")
        counted = row.workload.prompt_tokens, row.workload.output_tokens
        if (row.prompt_tokens, row.output_tokens, row.tokens_per_arrival) != (*counted, 1):
            notes.append(
                f"{row.workload.label}: counted {row.prompt_tokens:,.1f} + {row.output_tokens:,.1f} tokens, "
                f"{row.tokens_per_arrival:.2f} at a time."
            )
    return notes


def rate(tokens_per_second: float, share: float | None) -> str:
    """A rate, and how much of its limit it is, if there is one."""
    return short(tokens_per_second) + ("" if share is None else f" ({share:.0%})")


def milliseconds(times: Quantiles) -> str:
    """Three latencies in one cell."""
    return " / ".join(short(1e3 * seconds) for seconds in (times.p50, times.p90, times.p99))


def short(number: float) -> str:
    """Three digits at least, and no more of the fraction than that takes."""
    digits = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:,.{digits}f}"
