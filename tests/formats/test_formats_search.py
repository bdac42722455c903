"""Scales and zero points by search: numpy and torch alike, and no worse than trying everything nearby."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from penjing.formats.asymmetric import exact_spans, search_zeros, zero_errors
from penjing.formats.grids import FIXED_GRIDS, table_grid
from penjing.formats.level_search import levels_of, powers_of_two, search_levels
from penjing.formats.namespace import round_to_half
from penjing.formats.table_fit import cluster, fit_table

TABLE = table_grid([-127, -100, -77, -58, -43, -30, -19, -9, 0, 9, 19, 30, 43, 58, 77, 100])


def groups(seed: int = 0, shift: float = 0.3) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal((32, 40)) + shift
    values[:, 7] = 0
    return values.astype(np.float32)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_zero_points_in_numpy_and_torch(bits: int) -> None:
    values = groups()
    scales, zeros = search_zeros(values, bits)
    twins = search_zeros(torch.tensor(values), bits)
    assert np.array_equal(scales, twins[0].numpy())
    assert np.array_equal(zeros, twins[1].numpy())
    assert scales[7] == zeros[7] == 0
    assert zeros.min() >= 0
    assert zeros.max() < 2**bits


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_searched_zero_points_are_close_to_the_best(bits: int) -> None:
    """Within 6% of the error of 60 scales by all zero points, in the mean."""
    values = groups()
    exact = exact_spans(values, bits)
    best = np.full(values.shape[1], np.inf)
    for factor in np.linspace(0.3, 1.1, 60):
        for zero in range(2**bits):
            scales = round_to_half(exact * np.float32(factor))
            errors = zero_errors(values, scales, np.full_like(scales, zero), bits)
            best = np.minimum(best, errors)
    scales, zeros = search_zeros(values, bits)
    found = zero_errors(values, scales, zeros, bits)
    assert found.mean() < 1.06 * best.mean()


@pytest.mark.parametrize("name", ["nf4", "mxfp4", "table4"])
def test_levels_in_numpy_and_torch(name: str) -> None:
    grid = TABLE if name == "table4" else FIXED_GRIDS[name]
    values = groups(1, 0)
    exact = np.abs(values).max(axis=0) / np.float32(grid.highest)
    if name == "mxfp4":
        exact = powers_of_two(np.abs(values).max(axis=0))
        assert np.array_equal(exact, powers_of_two(torch.tensor(np.abs(values).max(axis=0))).numpy())
    scales = search_levels(values, grid, exact, powers=name == "mxfp4")
    twin = search_levels(torch.tensor(values), grid, torch.tensor(exact), powers=name == "mxfp4")
    assert np.array_equal(scales, twin.numpy())
    errors = [
        np.square(values - levels_of(values, grid, chosen) * chosen).sum()
        for chosen in (scales, round_to_half(exact))
    ]
    assert errors[0] < errors[1]


def test_powers_of_two_are_those_of_the_standard() -> None:
    """The largest exponent of a group less that of E2M1's largest, 2 (OCP MX 1.0, section 6.3)."""
    largest = np.array([0, 1, 1.99, 4, 6, 7.9, 8, 2.0**-20], np.float32)
    assert powers_of_two(largest).tolist() == [0, 0.25, 0.25, 1, 1, 1, 2, 2.0**-22]


def test_clusters_are_the_best_of_all_cuts() -> None:
    """Against random partitions of the bins, none of which may be better."""
    rng = np.random.default_rng(3)
    histogram = rng.random(255) ** 4
    levels = cluster(histogram, 16)
    places = np.arange(255) - 127.0

    def error(centres: NDArray[np.float64]) -> float:
        return float((histogram * np.square(places[:, None] - centres).min(axis=1)).sum())

    assert np.all(np.diff(levels) > 0)
    for _ in range(300):
        other = np.sort(np.clip(levels + rng.integers(-3, 4, 16), -127, 127))
        assert error(levels) <= error(other)
    moments = histogram * (places + 0.25)  # what was counted lay a quarter beside the bins
    assert np.allclose(cluster(histogram, 16, moments), levels + 0.25)


def test_a_table_does_not_depend_on_chunks() -> None:
    rows = np.random.default_rng(4).standard_normal((80, 100)).astype(np.float32)
    whole = fit_table([rows], 32, 4)
    assert np.array_equal(fit_table([rows[:16], rows[16:64], rows[64:]], 32, 4), whole)
    assert len(set(fit_table([np.zeros((16, 32), np.float32)], 32, 4).tolist())) == 16
