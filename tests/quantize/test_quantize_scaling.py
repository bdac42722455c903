"""Scaled channels and rotations leave the float model as it is, and quantize better where they should."""

from __future__ import annotations

import pytest
import torch
from layer_samples import output_error, random_inputs, random_weight, statistics_of, values_of

from penjing.errors import DataError, SpecError
from penjing.models.statistics import gram_errors
from penjing.quantize.awq import AwqConfig, channel_scales, rescale_statistics, scale_inputs, scale_outputs
from penjing.quantize.hadamard import (
    hadamard_rotation,
    merge_norm,
    rotate_heads,
    rotate_reader,
    rotate_writer,
)
from penjing.quantize.search import SearchConfig, search
from penjing.quantize.smoothquant import SmoothquantConfig, smoothing_scales
from penjing.spec import WeightFormat

FORMAT = WeightFormat(name="int3", group_size=128)


def test_awq_lowers_the_error_of_rounding_and_folds_exactly() -> None:
    weights, inputs = [random_weight(0), random_weight(4)], random_inputs()
    statistics = statistics_of(inputs)
    scales = channel_scales(weights, statistics, FORMAT, AwqConfig())
    assert not torch.equal(scales, torch.ones(160))
    for weight in weights:
        scaled = search(
            scale_inputs(weight, scales), rescale_statistics(statistics, scales), FORMAT, SearchConfig()
        )
        error = float(gram_errors(values_of(scaled) / scales - weight, statistics.gram).sum())
        assert error < output_error(search(weight, None, FORMAT, SearchConfig()), weight, statistics)
    norm = torch.rand(160) + 0.5
    plain = (inputs * norm) @ weights[0].T
    folded = (inputs * scale_outputs(norm, scales)) @ scale_inputs(weights[0], scales).T
    assert torch.allclose(folded, plain, rtol=1e-4, atol=1e-3)
    before = torch.randn(160, 20)
    assert torch.allclose(scales[:, None] * scale_outputs(before, scales), before)


def test_awq_leaves_inputs_that_are_alike() -> None:
    inputs = torch.randn(2000, 160, generator=torch.Generator().manual_seed(0))
    statistics = statistics_of(inputs)
    scales = channel_scales([random_weight()], statistics, FORMAT, AwqConfig())
    assert scales.max() / scales.min() < 1.2


def test_smoothquant_moves_outliers_into_weights() -> None:
    weight, inputs = random_weight(), random_inputs()
    inputs[:, 3] *= 100
    largest = inputs.abs().amax(0)
    scales = smoothing_scales([weight], largest, SmoothquantConfig())

    def rounded(x: torch.Tensor) -> torch.Tensor:
        steps = x.abs().amax(1, keepdim=True) / 127
        return (x / steps).round() * steps

    plain = ((rounded(inputs) @ weight.T - inputs @ weight.T) ** 2).sum()
    smooth = rounded(inputs / scales) @ scale_inputs(weight, scales).T
    assert ((smooth - inputs @ weight.T) ** 2).sum() < 0.2 * plain
    largest[0], weight[:, 1] = 0.0, 0.0
    scales = smoothing_scales([weight], largest, SmoothquantConfig())
    assert scales[0] == 1
    assert scales[1] == 1
    with pytest.raises(SpecError, match="alpha"):
        SmoothquantConfig(alpha=2.0)
    with pytest.raises(DataError, match="belong"):
        smoothing_scales([weight], largest[:5], SmoothquantConfig())


@pytest.mark.parametrize("size", [2, 64, 96, 160])
def test_a_rotation_is_orthogonal_and_its_seed_decides(size: int) -> None:
    rotation = hadamard_rotation(size, 7)
    assert torch.allclose(rotation @ rotation.T, torch.eye(size), atol=1e-5)
    assert torch.equal(rotation, hadamard_rotation(size, 7))
    assert size == 2 or not torch.equal(rotation, hadamard_rotation(size, 8))
    with pytest.raises(SpecError, match="odd"):
        hadamard_rotation(7, 0)


def test_rotations_merge_without_a_trace() -> None:
    reader, writer, norm = random_weight(0, 24, 64), random_weight(1, 64, 40), torch.rand(64) + 0.5
    stream, written = torch.randn(9, 64), torch.randn(9, 40)
    rotation = hadamard_rotation(64, 0)
    plain = torch.nn.functional.rms_norm(stream + written @ writer.T, (64,), norm) @ reader.T
    turned = stream @ rotation + written @ rotate_writer(writer, rotation).T
    rotated = rotate_reader(merge_norm(reader, norm), rotation)
    assert torch.allclose(torch.nn.functional.rms_norm(turned, (64,)) @ rotated.T, plain, atol=1e-5)

    value, output = random_weight(2, 2 * 16, 64), random_weight(3, 24, 4 * 16)
    turned_value, turned_output = rotate_heads(value, output, 2, hadamard_rotation(16, 1))

    def attended(value: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        heads = (stream @ value.T).reshape(9, 2, 16).repeat_interleave(2, 1)
        return heads.cumsum(0).reshape(9, 64) @ output.T

    assert torch.allclose(attended(turned_value, turned_output), attended(value, output), atol=1e-4)


def test_rotation_helps_one_scale_a_row_bear_an_outlier() -> None:
    weight = random_weight(0, 24, 128)
    weight[:, 5] *= 30
    rotated = rotate_reader(weight, hadamard_rotation(128, 0))
    plain = ((values_of(search(weight, None, FORMAT, SearchConfig())) - weight) ** 2).sum()
    turned = ((values_of(search(rotated, None, FORMAT, SearchConfig())) - rotated) ** 2).sum()
    assert turned < 0.7 * plain
