"""Grids: the nearest level is the nearest, and codes stand for what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penjing.errors import FormatError
from penjing.formats.codes import Codes, dequantize, grid_of
from penjing.formats.grids import FIXED_GRIDS, Grid, table_grid, uniform_grid
from penjing.spec import WeightFormat

GRIDS: dict[str, Grid] = {
    **{f"int{bits}": uniform_grid(bits, asymmetric=False) for bits in (2, 3, 4, 5, 6, 8)},
    **FIXED_GRIDS,
    "table4": table_grid([-127, -90, -60, -41, -30, -20, -10, 0, 3, 9, 18, 29, 44, 70, 100, 127]),
}


@pytest.mark.parametrize("name", GRIDS)
def test_nearest_level_by_trying_all(name: str) -> None:
    grid = GRIDS[name]
    rng = np.random.default_rng(0)
    scales = rng.uniform(-0.1, 0.1, (7, 1)).astype(np.float32)
    values = (rng.normal(size=(7, 64)) * 0.4 * abs(grid.highest)).astype(np.float32) * np.abs(scales)
    codes = grid.nearest(values, scales)
    found = np.abs(grid.values(codes, scales) - values)
    levels = np.array(grid.levels, np.float32)
    least = np.abs(levels[None, None] * scales[:, :, None] - values[:, :, None]).min(-1)
    np.testing.assert_allclose(found, least, atol=1e-6 * abs(grid.highest))
    assert codes.min() >= 0
    assert codes.max() < len(grid.levels)


@pytest.mark.parametrize("name", GRIDS)
def test_numpy_and_torch_agree(name: str) -> None:
    grid = GRIDS[name]
    rng = np.random.default_rng(1)
    scales = np.where(rng.random((5, 1)) < 0.3, 0, rng.normal(size=(5, 1))).astype(np.float32)
    values = rng.normal(size=(5, 96)).astype(np.float32)
    codes = grid.nearest(values, scales)
    twin = grid.nearest(torch.tensor(values), torch.tensor(scales))
    assert np.array_equal(codes, twin.numpy())
    again = grid.values(twin, torch.tensor(scales)).numpy()
    assert np.array_equal(grid.values(codes, scales).view(np.uint32), again.view(np.uint32))


def test_every_level_is_its_own_nearest() -> None:
    for name, grid in GRIDS.items():
        levels = np.array(grid.levels, np.float32)[None]
        one = np.ones((1, 1), np.float32)
        assert np.array_equal(grid.values(grid.nearest(levels, one), one), levels), name


def test_zero_points_shift_the_grid() -> None:
    grid = uniform_grid(2, asymmetric=True)
    scales, zeros = np.full((1, 1), 0.5, np.float32), np.full((1, 1), 1.0, np.float32)
    codes = grid.nearest(np.array([[-0.6, -0.2, 0.3, 0.9, 7.0]], np.float32), scales, zeros)
    assert codes.tolist() == [[0, 1, 2, 3, 3]]
    assert grid.values(codes, scales, zeros).tolist() == [[-0.5, 0.0, 0.5, 1.0, 1.0]]


def test_fp8_and_fp4_are_the_published_ones() -> None:
    bits = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    levels = np.array(FIXED_GRIDS["fp8"].levels, np.float32)
    finite = np.isfinite(bits)
    assert np.array_equal(levels[finite], bits[finite])
    assert np.flatnonzero(~finite).tolist() == [127, 255]
    assert FIXED_GRIDS["mxfp4"].highest == 6
    assert FIXED_GRIDS["nf4"].levels[7] == 0


def test_layered_codes_by_tier() -> None:
    format = WeightFormat(name="layered", group_size=32)
    rng = np.random.default_rng(2)
    base, fine = (rng.integers(0, 16, (3, 40)).astype(np.uint8) for _ in range(2))
    scales = rng.normal(size=(3, 2)).astype(np.float16)
    codes = Codes(format, base, scales, residual=fine)
    wide = np.repeat(scales.astype(np.float64), 32, 1)[:, :40]
    np.testing.assert_allclose(dequantize(codes, "fast"), (base - 8.0) * wide, rtol=1e-6)
    np.testing.assert_allclose(
        dequantize(codes, "best"), (base - 8.0 + (fine - 8.0) / 8) * wide, rtol=1e-6, atol=1e-7
    )


def test_keep_has_no_grid() -> None:
    with pytest.raises(FormatError, match="'keep' has no grid"):
        grid_of(WeightFormat(name="keep"))
    with pytest.raises(ValueError, match="layered has no zero points"):
        WeightFormat(name="layered", asymmetric=True)
    assert WeightFormat(name="mxfp4").group_size == 32
