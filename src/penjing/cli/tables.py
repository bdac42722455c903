"""Tables that several commands print."""

from __future__ import annotations

from penjing.cli.show import megabytes, print_table
from penjing.measure.cost import ModelCost
from penjing.optimize.bench import Bench
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.profile import Profile
from penjing.report.markdown import before_after_rows, context_line, loss_lines


def print_evaluation(evaluation: Evaluation) -> None:
    """Before and after, or one side alone; then on what it was measured."""
    if evaluation.comparison is None:
        print_table("Measured", ("", evaluation.candidate.name), side_rows(evaluation))
    else:
        print_table("Before and after", ("", "before", "after"), before_after_rows(evaluation))
        print("\n".join(loss_lines(evaluation.comparison)))
    print(context_line(evaluation))


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
    """One table: what was measured, and the limit where a single stream has one."""
    limit, one = result.limit, result.streams == 1
    decode_share = result.decode_tokens_per_second / limit.decode_tokens_per_second
    prefill_share = result.prefill_tokens_per_second / limit.prefill_tokens_per_second
    print_table(
        f"{result.model}, tier {result.tier}, {result.machine.isa}: "
        f"{result.streams} x ({result.prompt_tokens} + {result.output_tokens}) tokens",
        ("", "measured", "of the limit"),
        [
            ("Prefill, tokens/s", f"{result.prefill_tokens_per_second:,.0f}", f"{prefill_share:.0%}"),
            (
                "Decode, tokens/s",
                f"{result.decode_tokens_per_second:,.0f}",
                f"{decode_share:.0%}" if one else "",
            ),
            ("TTFT, median and p99", milliseconds(result.median_ttft_seconds, result.p99_ttft_seconds), ""),
            (
                "Between tokens, median and p99",
                milliseconds(result.median_inter_token_seconds, result.p99_inter_token_seconds),
                "",
            ),
        ],
    )


def milliseconds(middle: float, p99: float) -> str:
    """Two latencies on one line."""
    return f"{1e3 * middle:,.2f} / {1e3 * p99:,.2f} ms"
