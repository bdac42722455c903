"""Scales and codes of one group at a time: bounds, symmetry, and the same bits whoever computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from penjing.formats import grouped
from penjing.formats.namespace import round_to_half, sum_rows

Floats = NDArray[np.float32]


def awkward_groups(group_size: int, seed: int = 0) -> Floats:
    """Groups [G, n] of many kinds: bell-shaped, heavy-tailed, one-sided, tiny, constant, zero, outliers."""
    rng = np.random.default_rng(seed)
    shape = (group_size, 24)
    outlier = rng.standard_normal(shape)
    outlier[3] *= 50
    kinds = [
        rng.standard_normal(shape) * 0.02,
        rng.standard_t(3, shape),
        np.abs(rng.standard_normal(shape)),
        -np.abs(rng.standard_normal(shape)),
        rng.standard_normal(shape) * 1e-5,
        rng.standard_normal(shape) * 1e4,
        rng.uniform(-1, 1, shape),
        np.full(shape, 0.3),
        np.zeros(shape),
        outlier,
        rng.integers(-8, 8, shape) * 0.25,
    ]
    return np.concatenate(kinds, axis=1).astype(np.float32)


def exact_errors(values: Floats, scales: Floats, bits: int) -> NDArray[np.float64]:
    """Squared errors in float64, by trying the two codes around each quotient."""
    half = 2 ** (bits - 1)
    wide, divisors = values.astype(np.float64), np.where(scales == 0, 1, scales).astype(np.float64)
    below = np.clip(np.floor(wide / divisors), -half, half - 1)
    above = np.clip(below + 1, -half, half - 1)
    nearest = np.minimum((wide - below * scales) ** 2, (wide - above * scales) ** 2)
    return np.asarray(nearest.sum(0))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_search_is_never_worse_than_the_range(bits: int, group_size: int) -> None:
    values = awkward_groups(group_size)
    simple = exact_errors(values, grouped.range_scales(values, bits), bits)
    searched = exact_errors(values, grouped.search_scales(values, bits), bits)
    assert np.all(searched <= simple * (1 + 1e-5) + 1e-12 * (values.astype(np.float64) ** 2).sum(0))
    assert searched.sum() < 0.95 * simple.sum()


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_the_nearest(bits: int) -> None:
    values = awkward_groups(64)
    for scales in (grouped.range_scales(values, bits), grouped.search_scales(values, bits)):
        codes = grouped.nearest_codes(values, scales, bits)
        half = 2 ** (bits - 1)
        assert codes.min() >= -half
        assert codes.max() <= half - 1
        assert np.array_equal(codes, np.round(codes))
        errors = np.abs(values.astype(np.float64) - codes.astype(np.float64) * scales)
        inside = (codes > -half) & (codes < half - 1)
        bound = np.abs(scales).astype(np.float64) / 2 * (1 + 1e-6)
        assert np.all(np.where(inside, errors, 0) <= bound)
        assert np.allclose(
            (errors**2).sum(0),
            exact_errors(values, scales, bits),
            rtol=1e-5,
            atol=1e-12 * float(errors.max()),
        )


@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_magnitude_takes_the_long_side(bits: int) -> None:
    values = awkward_groups(32)
    scales = grouped.range_scales(values, bits)
    codes = grouped.nearest_codes(values, scales, bits)
    normal = np.abs(scales) > 2**-14  # smaller ones have fewer digits in float16
    largest = np.abs(values) == np.abs(values).max(0)
    assert np.all(np.where(largest, codes, 0).min(0)[normal] == -(2 ** (bits - 1)))
    assert normal.mean() > 0.8
    assert np.array_equal(scales == 0, np.all(values == 0, axis=0))
    assert (scales < 0).any()
    assert (scales > 0).any()


@pytest.mark.parametrize("choose", [grouped.range_scales, grouped.search_scales])
def test_scales_are_what_float16_holds(choose: Any) -> None:
    scales = choose(awkward_groups(64), 4)
    assert np.array_equal(scales, scales.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 128])
def test_torch_and_numpy_give_the_same_bits(bits: int, group_size: int) -> None:
    values = awkward_groups(group_size, seed=1)
    tensor = torch.from_numpy(values.copy())
    for choose in (grouped.range_scales, grouped.search_scales):
        scales, other = choose(values, bits), choose(tensor, bits)
        assert isinstance(other, torch.Tensor)
        assert np.array_equal(scales, other.numpy())
        codes, other_codes = (
            grouped.nearest_codes(values, scales, bits),
            grouped.nearest_codes(tensor, other, bits),
        )
        assert np.array_equal(codes, other_codes.numpy())
        second = grouped.residual_codes(values, codes, scales)
        assert np.array_equal(second, grouped.residual_codes(tensor, other_codes, other).numpy())


@pytest.mark.parametrize("bits", [4, 8])
def test_a_group_does_not_see_its_neighbours(bits: int) -> None:
    values = awkward_groups(64, seed=2)
    together = grouped.search_scales(values, bits)
    alone = [grouped.search_scales(values[:, [index]], bits)[0] for index in range(values.shape[1])]
    assert np.array_equal(together, np.array(alone, np.float32))


def test_refit_solves_least_squares() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, (64, 40)).astype(np.float32)
    truth = round_to_half(rng.uniform(0.01, 1, 40).astype(np.float32))
    values = codes * truth
    fitted, errors = grouped.refit_scales(values, round_to_half(truth * np.float32(1.01)), 4)
    assert np.array_equal(fitted, truth)
    assert np.all(errors == 0)


def test_search_finds_a_grid_that_made_the_values() -> None:
    """Values on a 4-bit grid are found again, the mirrored grid included (its long side is positive)."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, (64, 40)).astype(np.float32)
    codes[0] = -8
    scales = np.where(np.arange(40) % 2, 0.25, -0.25).astype(np.float32)
    assert np.array_equal(grouped.search_scales(codes * scales, 4), scales)


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_residual_is_within_a_sixteenth_of_a_step(group_size: int) -> None:
    values = awkward_groups(group_size)
    scales = grouped.search_scales(values, 4)
    codes = grouped.nearest_codes(values, scales, 4)
    second = grouped.residual_codes(values, codes, scales)
    errors = np.abs(values - (codes + second / 8).astype(np.float64) * scales)
    unsaturated = (second > -8) & (second < 7)
    assert np.all(np.where(unsaturated, errors, 0) <= np.abs(scales) / 16 * (1 + 1e-5))
    assert unsaturated.mean() > 0.98


def test_sum_rows_adds_in_one_order() -> None:
    values = np.random.default_rng(0).standard_normal((128, 33)).astype(np.float32)
    whole = sum_rows(values.copy())
    assert np.allclose(whole, values.astype(np.float64).sum(0), atol=1e-4)
    assert np.array_equal(whole, sum_rows(torch.from_numpy(values.copy())).numpy())
    assert sum_rows(values[:, [7]].copy())[0] == whole[7]
