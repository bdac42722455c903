"""Tables that several commands print."""

from __future__ import annotations

from penjing.cli.show import megabytes, print_table
from penjing.optimize.evaluation import Evaluation
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
