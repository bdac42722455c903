"""Tables that several commands print."""

from __future__ import annotations

from penjing.cli.show import megabytes, print_table
from penjing.measure.cost import ModelCost
from penjing.optimize.bench import Bench, Quantiles, Row
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.profile import Profile
from penjing.optimize.search import Optimized
from penjing.report.evaluation import before_after_rows, context_line, loss_lines


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


def side_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """One artifact, compared with nothing."""
    side = evaluation.candidate
    rows = [("Tensor bytes", megabytes(side.tensor_bytes)), ("Perplexity", f"{side.perplexity:.4f}")]
    if side.speed is not None:
        rows += [
            ("Prefill, tokens/s", f"{side.speed.prefill_tokens_per_second:,.1f}"),
            ("Decode, tokens/s", f"{side.speed.decode_tokens_per_second:,.1f}"),
            ("Time to first token", f"{1e3 * side.speed.ttft_seconds:.1f} ms"),
            ("Peak memory of serving", megabytes(side.speed.peak_rss_bytes)),
        ]
    return rows


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
