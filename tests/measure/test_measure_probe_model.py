"""Models that are there to be timed: they run, hold what they should, and the meters around them work."""

from __future__ import annotations

import pytest
from made_up_costs import ROW_TIMES

from penjing.formats.encoded import PLANE_BITS
from penjing.kernels import default_isa
from penjing.measure.attention_times import measure_attentions
from penjing.measure.probe_model import ProbeShape, Stored, probe_model, step_of
from penjing.measure.product_times import ascending
from penjing.measure.step_cost import Widths, probe_products, probe_rest, rest_of_block
from penjing.spec import KvFormats

TINY = ProbeShape(hidden=128, inner=128, heads=2, kv_heads=1, head_dim=64, blocks=2)


@pytest.mark.parametrize("name", [*PLANE_BITS, "fp32", "fp16", "bf16"])
def test_every_format_runs(name: str) -> None:
    groups = {"mxfp4": 32, "fp32": 0, "fp16": 0, "bf16": 0}.get(name, 64)
    model = probe_model(TINY, Stored(name, groups), 1, default_isa(), rows=3)
    for rows in (1, 3):
        step_of(model, rows)()


def test_zero_points_are_a_format_of_their_own() -> None:
    stored = Stored("int4", 64, asymmetric=True)
    step_of(probe_model(TINY, stored, 1, default_isa(), rows=1), 1)()
    assert stored.label == "int4/64+"
    assert stored.nbytes(64, 128) > Stored("int4", 64).nbytes(64, 128)


def test_blocks_fill_the_bytes_asked_for() -> None:
    assert TINY.weights == 2 * (2 * 3 * 64 * 128 + 3 * 128 * 128)
    assert TINY.filling(10 * TINY.weights, 1.0).blocks == 20
    assert TINY.filling(1, 1.0).blocks == 1


def test_what_is_no_product_grows_with_rows_and_widths() -> None:
    widths = Widths(hidden=256, query=256, key=128, inner=768)
    by_rows = [rest_of_block(widths, rows, ROW_TIMES, 2) for rows in (1, 2, 16, 64)]
    assert by_rows == sorted(by_rows)
    assert rest_of_block(widths._replace(inner=1536), 64, ROW_TIMES, 2) > by_rows[-1]
    assert rest_of_block(widths, 64, ROW_TIMES, 2, quantizes=False) < by_rows[-1]
    assert probe_rest(TINY, 4, ROW_TIMES, 1) > probe_rest(TINY, 1, ROW_TIMES, 1) > 0


def test_products_count_the_busiest_thread() -> None:
    assert probe_products(TINY, 1, 1) == TINY.weights
    assert probe_products(TINY, 1, 2) == 2 * TINY.weights, "too small to share: the other thread waits"
    assert probe_products(TINY, 512, 2) == 256 * TINY.weights


def test_disturbed_steps_give_way() -> None:
    assert ascending([1.0, 9.0, 3.0, 4.0]) == (1.0, 3.0, 3.0, 4.0)


def test_attention_is_timed_for_one_token_and_for_a_tile() -> None:
    pair = measure_attentions(KvFormats(key="int8", value="int4"), 4, 2, 32, default_isa())
    assert (pair.one.rows, pair.tile.rows) == (1, 8)
    for times in (pair.one, pair.tile):
        assert 0 < times.tile_seconds <= times.span_seconds
        assert times.seconds(2048) >= times.seconds(256) > 0
