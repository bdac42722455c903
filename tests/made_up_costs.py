"""A table of costs by formula, for what is computed from it: nothing is timed."""

from __future__ import annotations

from collections.abc import Callable

from penjing.formats import part_sizes
from penjing.measure.cost_table import CostTable, S, TableKey
from penjing.measure.times import AttentionPair, AttentionTimes, Memory, ProductTimes, RowTimes
from penjing.optimize.host_times import HostTimes
from penjing.spec import Spec

READ, RATE = 30e9, 350e9  # bytes a second, multiply-adds a second of all threads
ROWS = (1, 4, 16, 64)
ROW_TIMES = RowTimes(
    norm=4e-11,
    quantize=3e-10,
    gate=4e-10,
    rotate=3e-10,
    step_seconds=1e-6,
    block_seconds=1e-6,
    step_row_seconds=4e-7,
    block_row_seconds=3e-7,
    tile_seconds=4e-7,
    loop_seconds=1e-6,
    exchange_widths=(256, 2048),
    exchange=(7e-10, 0.0),
    exchange_of_prompt=(2e-10, 0.0),
    wake_seconds=2e-5,
)
KEY = TableKey(cpu_model="paper", isa="avx512", threads=2, core="0" * 64)


def product_times(label: str) -> ProductTimes:
    """A product takes what arithmetic takes while warm, and what memory takes at least while cold."""
    name, _, groups = label.partition("/")
    each = part_sizes(name, 1024, 1024, int(groups.rstrip("+")), groups.endswith("+")).total / 1024**2
    warm = [rows / RATE for rows in ROWS]
    return ProductTimes(
        rows=ROWS,
        warm=tuple(warm),
        cold=tuple(max(seconds, each / READ) for seconds in warm),
        row_seconds=KEY.threads / RATE,
        bytes_per_weight=each,
        read_bytes_per_second=READ,
    )


class MadeUpTable(CostTable):
    """Knows everything, measures nothing."""

    def __init__(self) -> None:
        super().__init__(KEY, {}, measures=False)

    def entry(self, name: str, kind: type[S], measure: Callable[[], S]) -> S:
        """By the name's first word."""
        found: Spec
        if kind is RowTimes:
            found = ROW_TIMES
        elif kind is Memory:
            found = Memory(nbytes=(8 << 20, 64 << 20), coldness=(0.0, 1.0))
        elif kind is ProductTimes:
            found = product_times(name.removeprefix("product "))
        elif kind is AttentionPair:
            times = AttentionTimes(
                rows=1, tile_seconds=5e-7, span_seconds=2e-6, position_seconds=7e-9, write_seconds=2e-7
            )
            found = AttentionPair(one=times, tile=times.model_copy(update={"rows": 4}))
        else:
            found = HostTimes(
                step_seconds=4e-5,
                stream_seconds=1e-5,
                prompt_seconds=2e-7,
                logit_seconds=2e-10,
                process_bytes=55_000_000,
            )
        assert isinstance(found, kind)
        return found
