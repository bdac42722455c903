"""How measured times are read between the points measured."""

from __future__ import annotations

import pytest
from made_up_costs import READ, product_times

from penjing.measure.times import AttentionTimes, Memory


def test_between_measured_rows() -> None:
    times = product_times("int4/64")
    low, high = (times.seconds_per_weight(rows, 2, 0.0) for rows in (4, 16))
    assert times.seconds_per_weight(10, 2, 0.0) == pytest.approx((low + high) / 2)
    assert times.seconds_per_weight(512, 2) == times.row_seconds, "of many rows, seconds are a row's"


def test_few_and_many_rows_never_mix() -> None:
    times = product_times("int8/64")
    assert times.seconds_per_weight(80, 2) == pytest.approx(80 / 64 * times.seconds_per_weight(64, 2))
    assert times.seconds_per_weight(95, 2) > times.seconds_per_weight(64, 2)
    assert times.seconds_per_weight(96, 2) == times.row_seconds


def test_more_rows_and_colder_weights_never_take_less() -> None:
    times = product_times("int8/64")
    by_rows = [times.seconds_per_weight(rows, 2) for rows in range(1, 96)]
    assert by_rows == sorted(by_rows)
    by_coldness = [times.seconds_per_weight(1, 2, coldness / 10) for coldness in range(11)]
    assert by_coldness == sorted(by_coldness)
    assert by_coldness[0] < by_coldness[-1]


def test_memory_of_another_speed_moves_only_what_waits_for_it() -> None:
    times = product_times("int8/64")
    usual = times.seconds_per_weight(1, 2)
    assert times.seconds_per_weight(1, 2, 1.0, READ / 2) == pytest.approx(2 * usual)
    assert times.seconds_per_weight(1, 2, 0.0, READ / 2) == times.seconds_per_weight(1, 2, 0.0)
    assert times.seconds_per_weight(64, 2, 1.0, READ / 2) == times.seconds_per_weight(64, 2)
    assert times.seconds_per_weight(512, 2, 1.0, READ / 2) == times.seconds_per_weight(512, 2)


def test_coldness() -> None:
    memory = Memory(nbytes=(1 << 20, 1 << 22), coldness=(0.0, 1.0))
    assert memory.coldness_of(1000) == 0
    assert memory.coldness_of(1 << 30) == 1
    assert memory.coldness_of(1 << 21) == pytest.approx(0.5)


def test_attention_grows_with_its_positions() -> None:
    times = AttentionTimes(
        rows=1, tile_seconds=1e-6, span_seconds=3e-6, position_seconds=1e-8, write_seconds=0
    )
    assert times.seconds(0) == 1e-6
    assert times.seconds(256) == 3e-6
    assert times.seconds(1256) == pytest.approx(13e-6)
