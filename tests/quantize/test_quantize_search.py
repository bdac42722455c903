"""Searched scales beat ranges, and importance beats its absence, on every grid; hostile groups do no harm."""

from __future__ import annotations

import pytest
import torch
from layer_samples import output_error, random_inputs, random_weight, same_bytes, statistics_of, values_of

from penjing.errors import DataError, FormatError, NonFiniteWeightError, SpecError
from penjing.formats.codes import grid_of
from penjing.models.statistics import InputStatistics
from penjing.quantize.ranges import PercentileConfig, mse, percentile
from penjing.quantize.rtn import RtnConfig, rtn
from penjing.quantize.search import SearchConfig, search
from penjing.spec import WeightFormat, WeightFormatName

FORMATS = [
    *(
        WeightFormat(name=name)
        for name in ("int2", "int3", "int4", "int5", "int6", "int8", "table2", "table4", "nf4")
    ),
    WeightFormat(name="mxfp4"),
    WeightFormat(name="fp8"),
    *(WeightFormat(name=name, asymmetric=True) for name in ("int2", "int3", "int4", "int8")),
]
CONFIG = SearchConfig()


def label(format: WeightFormat) -> str:
    return format.name + ("-asymmetric" if format.asymmetric else "")


def weighted_error(values: torch.Tensor, weight: torch.Tensor, statistics: InputStatistics) -> float:
    return float(((values - weight) ** 2 * statistics.importance).sum())


@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_search_is_no_worse_than_its_rivals(format: WeightFormat) -> None:
    weight, statistics = random_weight(), statistics_of(random_inputs())
    found = search(weight, statistics, format, CONFIG)
    plain, nearest = mse(weight, statistics, format, CONFIG), rtn(weight, statistics, format, RtnConfig())
    for other in (plain, nearest):
        assert weighted_error(values_of(found), weight, statistics) <= 1.001 * weighted_error(
            values_of(other), weight, statistics
        )
    assert ((values_of(plain) - weight) ** 2).sum() <= 1.001 * ((values_of(nearest) - weight) ** 2).sum()
    assert same_bytes(found, search(weight, statistics, format, CONFIG))
    assert found.codes.max() < len(grid_of(format, found.table).levels)


@pytest.mark.parametrize("bits", [2, 3])
def test_search_gains_much_where_bits_are_few(bits: int) -> None:
    weight, statistics = random_weight(), statistics_of(random_inputs())
    format = WeightFormat.model_validate({"name": f"int{bits}"})
    found = output_error(search(weight, statistics, format, CONFIG), weight, statistics)
    assert found < 0.8 * output_error(rtn(weight, None, format, RtnConfig()), weight, statistics)


@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_hostile_groups(format: WeightFormat) -> None:
    weight = random_weight()
    weight[0] = 0.0
    weight[1, :64] = 0.25
    weight[2, :64] = -0.25
    weight[3, 5] = 1e4
    weight[4, :64] = 1e-6
    for codes in (
        search(weight, statistics_of(random_inputs()), format, CONFIG),
        rtn(weight, None, format, RtnConfig()),
        percentile(weight, None, format, PercentileConfig()),
    ):
        values = values_of(codes)
        assert torch.isfinite(values).all()
        assert (values[0] == 0).all()
        assert (codes.scales[0] == 0).all()
        assert (values[4, :64] - weight[4, :64]).abs().max() <= 1.1e-6
    found = values_of(search(weight, None, format, CONFIG))
    assert 5e3 < found[3, 5] < 1.2e4
    assert (found[1, :64] - 0.25).abs().max() < 0.06
    assert (found[2, :64] + 0.25).abs().max() < 0.06


def test_a_range_past_float16_is_refused_and_so_is_nan() -> None:
    weight = random_weight()
    weight[0, 0] = 1e6
    with pytest.raises(FormatError, match="float16"):
        search(weight, None, WeightFormat(name="int4"), CONFIG)
    with pytest.raises(FormatError, match="float16"):
        rtn(weight, None, WeightFormat(name="int4"), RtnConfig())
    weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteWeightError):
        search(weight, None, WeightFormat(name="int4"), CONFIG)
    with pytest.raises(NonFiniteWeightError):
        rtn(weight, None, WeightFormat(name="int4"), RtnConfig())


def test_statistics_must_fit() -> None:
    weight, inputs = random_weight(), random_inputs()
    with pytest.raises(DataError, match="does not belong"):
        search(weight[:, :64], statistics_of(inputs), WeightFormat(name="int4"), CONFIG)
    inputs[3, 4] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        search(weight, statistics_of(inputs), WeightFormat(name="int4"), CONFIG)


def test_inputs_that_never_fired_leave_plain_search() -> None:
    weight, format = random_weight(), WeightFormat(name="int3")
    silent = InputStatistics(torch.zeros(160, 160), None, 0)
    assert same_bytes(search(weight, silent, format, CONFIG), search(weight, None, format, CONFIG))


def test_a_percentile_clips_and_1_is_round_to_nearest() -> None:
    weight, format = random_weight(), WeightFormat(name="int4")
    clipped = percentile(weight, None, format, PercentileConfig(keep=0.9))
    assert values_of(clipped).abs().max() < weight.abs().max()
    assert same_bytes(
        percentile(weight, None, format, PercentileConfig(keep=1.0)), rtn(weight, None, format, RtnConfig())
    )
    with pytest.raises(SpecError, match="keep"):
        PercentileConfig(keep=0.0)


@pytest.mark.parametrize("name", ["int4", "table4"])
def test_exact_grids_are_found_exactly(name: WeightFormatName) -> None:
    generator = torch.Generator().manual_seed(3)
    levels = torch.randint(-7, 8, (8, 128), generator=generator).float()
    levels[:, ::64] = 7
    weight = levels * 0.5
    codes = search(weight, None, WeightFormat(name=name), CONFIG)
    assert (values_of(codes) - weight).abs().max() < (1e-6 if name == "int4" else 0.02)


PLAIN_GRIDS: dict[str, tuple[WeightFormatName, float]] = {
    "table2": ("int2", 0.9),
    "table3": ("int3", 0.85),
    "table4": ("int4", 0.8),
}


@pytest.mark.parametrize("name", ["table2", "table3", "table4"])
def test_a_table_and_its_scales_are_fitted_to_each_other(name: WeightFormatName) -> None:
    """That lowers the error, which is then well below that of as many whole numbers."""
    weight = random_weight()

    def error(format: WeightFormatName, fits: int) -> float:
        codes = search(weight, None, WeightFormat(name=format), SearchConfig(table_fits=fits))
        return float(((values_of(codes) - weight) ** 2).sum())

    plain, most = PLAIN_GRIDS[name]
    assert error(name, 1) < error(name, 0)
    assert error(name, 1) < most * error(plain, 0)


def test_zero_points_pay_on_shifted_weights() -> None:
    weight = random_weight() + 0.05
    symmetric = search(weight, None, WeightFormat(name="int3"), CONFIG)
    shifted = search(weight, None, WeightFormat(name="int3", asymmetric=True), CONFIG)
    error = ((values_of(symmetric) - weight) ** 2).sum()
    assert ((values_of(shifted) - weight) ** 2).sum() < 0.7 * error
