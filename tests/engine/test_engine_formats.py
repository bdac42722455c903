"""Matrices of every format in the engine: logits are those of a plainer one that holds the same weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_models import RandomWeights, run_whole, small_config
from numpy.typing import NDArray

from penjing.engine.runner import CpuRunner
from penjing.formats import Codes, Encoded, decode, encode, pack, unpack
from penjing.formats.encoded import PLANE_BITS
from penjing.kernels import available_isas
from penjing.spec import WITH_ZERO_POINTS, WeightFormat

FLOATS = ("nf4", "mxfp4", "fp8")
CODED = [WeightFormat(name=name, group_size=32) for name in PLANE_BITS] + [
    WeightFormat(name=name, group_size=32, asymmetric=True) for name in WITH_ZERO_POINTS
]
every_format = pytest.mark.parametrize("format", CODED, ids=lambda f: f.name + "+" * f.asymmetric)


def logits(weights: RandomWeights, isa: str | None = None, chunk: int | None = None) -> NDArray[np.float32]:
    runner = CpuRunner(weights, threads=2, isa=isa)
    runner.allocate(4)
    tokens = np.random.default_rng(1).integers(0, 101, 50).astype(np.int32)
    return run_whole(runner, tokens, np.array([3, 1], np.int32), chunk)


def plainer(encoded: Encoded) -> Encoded:
    """The same weights: fp32 for levels that are no whole numbers, else int8 codes and equal scales."""
    if encoded.scales is None:
        return encoded
    if encoded.format in FLOATS:
        return encode(decode(encoded), WeightFormat(name="keep"), "range", "w")
    codes = unpack(encoded)
    steps = codes.grid.values(codes.codes, np.ones((1, 1), np.float32))
    if codes.zeros is not None:
        steps = steps - np.repeat(codes.zeros, encoded.group_size, 1)[:, : encoded.columns]
    assert np.abs(steps).max() < 128
    unsigned = (steps + 128).astype(np.uint8)
    return pack(Codes(WeightFormat(name="int8", group_size=32), unsigned, codes.scales))


@every_format
def test_logits_are_bitwise_those_of_a_plainer_format(format: WeightFormat) -> None:
    if format.name in ("int8", "layered"):
        pytest.skip("nothing is plainer: its kernel is what the others are held against")
    weights = RandomWeights(small_config(), format)
    plain = replace(weights)
    plain.matrices = {name: plainer(matrix) for name, matrix in weights.matrices.items()}
    np.testing.assert_array_equal(logits(weights), logits(plain))


@every_format
def test_logits_do_not_depend_on_chunks_and_instruction_sets(format: WeightFormat) -> None:
    weights = RandomWeights(small_config(), format)
    whole = logits(weights)
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(logits(weights, chunk=7), whole)
    for isa in available_isas():
        np.testing.assert_array_equal(logits(weights, isa), whole)


@every_format
def test_logits_are_close_to_those_of_dequantized_weights(format: WeightFormat) -> None:
    """All that is left between them is the rounding of activations to int8, in groups of 32."""
    weights = RandomWeights(small_config(("fp32", "fp32")), format)
    plain = replace(weights)
    keep = WeightFormat(name="keep")
    plain.matrices = {
        name: encode(decode(matrix), keep, "range", name) for name, matrix in weights.matrices.items()
    }
    expected = logits(plain)
    error = np.abs(logits(weights) - expected).mean() / np.abs(expected).mean()
    assert error < (1e-5 if format.name in FLOATS else 0.05)
