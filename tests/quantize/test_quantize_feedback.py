"""Error feedback under the Gram: each method against the one it improves on, and the worst of inputs."""

from __future__ import annotations

import pytest
import torch
from layer_samples import (
    drifted,
    output_error,
    random_inputs,
    random_weight,
    same_bytes,
    statistics_of,
    values_of,
)

from penjing.errors import DataError, FormatError
from penjing.formats.codes import dequantize
from penjing.models.statistics import InputStatistics, excess_error, gram_errors
from penjing.quantize.descent import DescentConfig, descend
from penjing.quantize.gptq import GptqConfig, gptq
from penjing.quantize.layered import add_residual
from penjing.quantize.matrix import placement_of
from penjing.quantize.pipeline import AutoConfig, auto
from penjing.quantize.qronos import QronosConfig, corrected_target, qronos
from penjing.quantize.refit import RefitConfig, refit
from penjing.quantize.rtn import RtnConfig, rtn
from penjing.quantize.search import SearchConfig, search
from penjing.spec import WeightFormat

FORMATS = [
    WeightFormat(name="int2"),
    WeightFormat(name="int4"),
    WeightFormat(name="int3", asymmetric=True),
    WeightFormat(name="table4", group_size=32),
    WeightFormat(name="nf4"),
    WeightFormat(name="mxfp4"),
]


def label(format: WeightFormat) -> str:
    return format.name + ("-asymmetric" if format.asymmetric else "")


@pytest.mark.parametrize("format", FORMATS, ids=label)
@pytest.mark.parametrize("order", [True, False])
def test_gptq_beats_rounding_under_the_gram(format: WeightFormat, order: bool) -> None:
    weight, statistics = random_weight(), statistics_of(random_inputs())
    found = gptq(weight, statistics, format, GptqConfig(order=order))
    searched = output_error(search(weight, statistics, format, SearchConfig()), weight, statistics)
    nearest = output_error(rtn(weight, statistics, format, RtnConfig()), weight, statistics)
    error = output_error(found, weight, statistics)
    assert error < 0.9 * searched
    assert error < 0.7 * nearest
    assert same_bytes(found, gptq(weight, statistics, format, GptqConfig(order=order)))


def test_gptq_is_plain_rounding_where_inputs_are_independent() -> None:
    weight = random_weight()
    statistics = InputStatistics(torch.diag(torch.rand(160) + 0.5), None, 100)
    format = WeightFormat(name="int4")
    assert same_bytes(
        gptq(weight, statistics, format, GptqConfig()), search(weight, statistics, format, SearchConfig())
    )


def test_a_gram_from_one_token_or_none() -> None:
    weight, format = random_weight(), WeightFormat(name="int4")
    for inputs in (random_inputs(tokens=1), torch.zeros(5, 160)):
        codes = gptq(weight, statistics_of(inputs), format, GptqConfig())
        assert torch.isfinite(values_of(codes)).all()
        assert ((values_of(codes) - weight) ** 2).sum() < 0.2 * (weight**2).sum()


def test_an_indefinite_gram_is_damped_and_a_negative_one_refused() -> None:
    weight, statistics = random_weight(), statistics_of(random_inputs(tokens=20))
    gram = statistics.gram - 0.05 * statistics.gram.diagonal().mean() * torch.eye(160)
    codes = gptq(weight, InputStatistics(gram, None, 20), WeightFormat(name="int4"), GptqConfig())
    assert torch.isfinite(values_of(codes)).all()
    with pytest.raises(DataError, match="semidefinite"):
        gptq(weight, InputStatistics(-statistics.gram, None, 20), WeightFormat(name="int4"), GptqConfig())


def test_hostile_rows_stay_finite_and_zero_rows_zero() -> None:
    weight, statistics = random_weight(), statistics_of(random_inputs())
    weight[0], weight[1, :64], weight[2, 7] = 0.0, 0.125, 1e4
    for format in FORMATS:
        for codes in (
            gptq(weight, statistics, format, GptqConfig()),
            auto(weight, statistics, format, AutoConfig())[0],
        ):
            values = values_of(codes)
            assert torch.isfinite(values).all()
            assert (values[0] == 0).all()


def test_qronos_makes_up_for_drift() -> None:
    weight, originals = random_weight(), random_inputs()
    inputs = drifted(originals)
    statistics, format = statistics_of(inputs, originals), WeightFormat(name="int4")

    def error(codes: torch.Tensor) -> float:
        return float(((originals @ weight.T - inputs @ codes.T) ** 2).sum())

    plain = gptq(weight, statistics, format, GptqConfig())
    corrected = qronos(weight, statistics, format, QronosConfig())
    assert error(values_of(corrected)) < 0.5 * error(values_of(plain))
    assert error(corrected_target(weight, statistics, 1e-6)) < 1e-3 * error(weight)
    difference = error(values_of(corrected)) - error(weight)
    assert excess_error(values_of(corrected), weight, statistics) == pytest.approx(difference, rel=1e-3)


def test_without_drift_qronos_is_gptq() -> None:
    weight, inputs = random_weight(), random_inputs()
    format = WeightFormat(name="int4")
    plain = gptq(weight, statistics_of(inputs), format, GptqConfig())
    assert same_bytes(plain, qronos(weight, statistics_of(inputs), format, QronosConfig()))
    assert same_bytes(plain, qronos(weight, statistics_of(inputs, inputs), format, QronosConfig()))


@pytest.mark.parametrize("format", FORMATS[:5], ids=label)
def test_refit_and_descent_never_lose(format: WeightFormat) -> None:
    weight, statistics = random_weight(), statistics_of(random_inputs())
    placement, codes = placement_of(search(weight, statistics, format, SearchConfig()))
    before = gram_errors(weight - placement.values(codes), statistics.gram)
    fitted = refit(weight, statistics, placement, codes, RefitConfig())
    after = gram_errors(weight - fitted.values(codes), statistics.gram)
    assert (after <= before).all()
    assert after.sum() < 0.99 * before.sum()
    assert torch.equal(fitted.scales, fitted.scales.half().float())
    lower = descend(weight, statistics, placement, codes, DescentConfig(damping=0.0))
    assert gram_errors(weight - placement.values(lower), statistics.gram).sum() < 0.9 * before.sum()


def test_auto_keeps_what_helps_on_text_held_apart() -> None:
    weight, originals = random_weight(), random_inputs(tokens=1200)
    inputs = drifted(originals)
    statistics = statistics_of(inputs[:600], originals[:600])
    held = statistics_of(inputs[600:], originals[600:])
    for format in (WeightFormat(name="int2"), WeightFormat(name="int4")):
        codes, results = auto(weight, statistics, format, AutoConfig(), held)
        kept = [result.error for result in results if result.kept]
        assert kept == sorted(kept, reverse=True)
        assert [result.name for result in results] == ["search", "qronos", "refit", "descent", "refit"]
        assert excess_error(values_of(codes), weight, held) == pytest.approx(min(kept), rel=1e-3)
        plain = gptq(weight, statistics, format, GptqConfig())
        assert min(kept) < excess_error(values_of(plain), weight, held)
        assert same_bytes(codes, auto(weight, statistics, format, AutoConfig(), held)[0])


def test_auto_refuses_a_stage_that_calibration_misled() -> None:
    weight = random_weight()
    _, results = auto(
        weight,
        statistics_of(random_inputs(tokens=3)),
        WeightFormat(name="int4"),
        AutoConfig(),
        statistics_of(torch.randn(4000, 160, generator=torch.Generator().manual_seed(5))),
    )
    assert not results[1].kept


def test_layered_has_the_bytes_of_its_base_and_gptq_helps_its_residual() -> None:
    weight, statistics = random_weight(), statistics_of(random_inputs())
    base = gptq(weight, statistics, WeightFormat(name="int4"), GptqConfig())
    layered = add_residual(base, weight, statistics, GptqConfig())
    assert layered.format.name == "layered"
    assert layered.codes.tobytes() == base.codes.tobytes()
    assert layered.scales.tobytes() == base.scales.tobytes()
    assert dequantize(layered, "fast").tobytes() == dequantize(base).tobytes()
    independent = InputStatistics(torch.diag(statistics.gram.diagonal()), None, statistics.tokens)
    nearest = add_residual(base, weight, independent, GptqConfig())
    error = output_error(layered, weight, statistics)
    assert error < 0.8 * output_error(nearest, weight, statistics)
    assert error < 0.1 * output_error(base, weight, statistics)
    with pytest.raises(FormatError, match="int4"):
        add_residual(
            gptq(weight, statistics, WeightFormat(name="int3"), GptqConfig()),
            weight,
            statistics,
            GptqConfig(),
        )
