"""Matrices in and out of every format, and the corner cases of docs/artifact.md."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from penjing.errors import FormatError, NonFiniteWeightError
from penjing.formats import Encoded, decode, encode, encoding, part_sizes, residual_saturation, rounding
from penjing.spec import WeightFormat, WeightFormatName

INTEGER_FORMATS: tuple[WeightFormatName, ...] = ("int8", "int4", "layered")
BITS = {"int8": 8, "int4": 4, "layered": 4}


def gaussian(rows: int, columns: int, seed: int = 0, size: float = 0.02) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * size).astype(np.float32)


def wanted(name: WeightFormatName, group_size: Literal[32, 64, 128] = 32) -> WeightFormat:
    return WeightFormat(name=name, group_size=group_size)


def scale_of_each_weight(matrix: Encoded) -> NDArray[np.float32]:
    """The float32 scale [rows, columns] that belongs to each weight, from the documented scale order."""
    assert matrix.scales is not None
    groups = -(-matrix.columns // matrix.group_size)
    row, k = np.indices((matrix.rows, matrix.columns))
    place = ((row // 16) * groups + k // matrix.group_size) * 16 + row % 16
    return matrix.scales.view(np.float16)[place].astype(np.float32)


def nibble_of_each_weight(plane: NDArray[np.uint8], matrix: Encoded) -> NDArray[np.int64]:
    padded = -(-matrix.columns // matrix.group_size) * matrix.group_size
    row, k = np.indices((matrix.rows, matrix.columns))
    byte = plane[(row // 16) * 8 * padded + 64 * (k // 8) + 4 * (row % 16) + k % 4]
    return np.where(k % 8 < 4, byte & 15, byte >> 4).astype(np.int64)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_keep_changes_no_bit(dtype: Any) -> None:
    weight = gaussian(37, 101).astype(dtype)
    weight[0, :4] = [0.0, -0.0, 1e-7, -60000]
    matrix = encode(weight, wanted("keep"), "search", "w")
    assert matrix.format == {4: "fp32", 2: "fp16" if dtype is np.float16 else "bf16"}[weight.itemsize]
    assert (matrix.group_size, matrix.scales, matrix.residual) == (0, None, None)
    assert matrix.nbytes == matrix.codes.nbytes == 48 * 101 * weight.itemsize
    assert decode(matrix).tobytes() == weight.astype(np.float32).tobytes()


@pytest.mark.parametrize("choice", ["search", "range"])
@pytest.mark.parametrize("name", INTEGER_FORMATS)
@settings(max_examples=15, deadline=None)
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 150)), group=st.sampled_from([32, 64, 128]))
def test_errors_are_bounded_by_half_a_step(
    name: WeightFormatName, choice: Any, shape: tuple[int, int], group: Any
) -> None:
    weight = gaussian(*shape, seed=shape[0] * shape[1])
    matrix = encode(weight, wanted(name, group), choice, "w")
    step = np.abs(scale_of_each_weight(matrix))
    assert decode(matrix).shape == weight.shape
    for tier in ("fast", "best"):
        errors = np.abs(decode(matrix, tier) - weight)
        fine = step / 8 if name == "layered" and tier == "best" else step
        half = 2 ** (BITS[name] - 1)
        low, high = (half + 0.5, half - 0.5) if fine is step else (half + 1, half - 0.125)
        inside = (weight * np.sign(scale_of_each_weight(matrix)) <= high * step) & (
            np.abs(weight) <= low * step
        )
        assert np.all(errors[inside] <= fine[inside] * 0.5001)


@pytest.mark.parametrize("choice", ["search", "range"])
def test_layered_base_is_the_int4_artifact(choice: Any) -> None:
    weight = gaussian(70, 200, size=1.0)
    alone, layered = (encode(weight, wanted(name, 64), choice, "w") for name in ("int4", "layered"))
    assert alone.scales is not None
    assert layered.scales is not None
    assert alone.codes.tobytes() == layered.codes.tobytes()
    assert alone.scales.tobytes() == layered.scales.tobytes()
    assert decode(alone).tobytes() == decode(layered, "fast").tobytes()
    fast, best = (np.square(decode(layered, tier) - weight).mean() for tier in ("fast", "best"))
    assert best < fast / 40


def test_values_are_the_documented_formulas() -> None:
    weight = gaussian(20, 50)
    for name in ("int4", "layered"):
        matrix = encode(weight, wanted(name), "search", "w")
        scale, base = scale_of_each_weight(matrix), nibble_of_each_weight(matrix.codes, matrix)
        assert np.array_equal(decode(matrix, "fast"), scale * (base - 8).astype(np.float32))
    assert matrix.residual is not None
    fine = nibble_of_each_weight(matrix.residual, matrix)
    assert np.array_equal(decode(matrix), scale / 8 * (8 * base + fine - 72).astype(np.float32))
    matrix = encode(weight, wanted("int8"), "search", "w")
    row, k = np.indices(weight.shape)
    code = matrix.codes[(row // 16) * 16 * 64 + 64 * (k // 4) + 4 * (row % 16) + k % 4].astype(np.float32)
    assert np.array_equal(decode(matrix), scale_of_each_weight(matrix) * (code - 128))


@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_the_result_does_not_depend_on_chunks(
    name: WeightFormatName, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = gaussian(100, 300)
    whole = encode(weight, wanted(name), "search", "w")
    monkeypatch.setattr(encoding, "CHUNK_WEIGHTS", 1)
    monkeypatch.setattr(rounding, "SEARCH_WEIGHTS", 7 * 32)
    cut = encode(weight, wanted(name), "search", "w")
    for part in ("codes", "scales", "residual"):
        assert np.array_equal(getattr(whole, part), getattr(cut, part))
    assert decode(cut).tobytes() == decode(whole).tobytes()


@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_padding_is_neutral(name: WeightFormatName) -> None:
    matrix = encode(gaussian(3, 40) + 1, wanted(name), "search", "w")
    assert matrix.scales is not None
    assert np.all(matrix.scales.reshape(1, 2, 16)[:, :, 3:] == 0)
    assert np.all(matrix.scales.reshape(1, 2, 16)[:, :, :3] != 0)
    neutral = {"int8": 128, "int4": 0x88, "layered": 0x88}[name]
    for plane in (matrix.codes, matrix.residual):
        if plane is not None:
            quads = plane.reshape(-1, 16, 4)
            assert np.all(quads[:, 3:] == neutral)
            assert np.all(quads[-(24 * BITS[name] // 32) :] == neutral)


@pytest.mark.parametrize("choice", ["search", "range"])
@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_zero_groups(name: WeightFormatName, choice: Any) -> None:
    weight = gaussian(16, 96)
    weight[:, 32:64] = 0
    weight[5] = -0.0
    matrix = encode(weight, wanted(name), choice, "w")
    assert matrix.scales is not None
    scales = matrix.scales.reshape(3, 16)
    assert np.all(scales[1] == 0)
    assert np.all(scales[:, 5] == 0)
    assert np.all(scales[[0, 2]][:, :5] != 0)
    assert np.all(decode(matrix)[weight == 0] == 0)
    assert np.all(decode(encode(np.zeros((2, 8), np.float32), wanted(name), choice, "w")) == 0)


@pytest.mark.parametrize("choice", ["search", "range"])
@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_scales_that_float16_cannot_hold_are_refused_by_name(name: WeightFormatName, choice: Any) -> None:
    steps = 2.0 ** (BITS[name] - 1)
    weight = gaussian(4, 64)
    weight[2, :32] = 2.0**-25 * steps
    with pytest.raises(FormatError, match=r"blocks\.3\.up.*underflows"):
        encode(weight, wanted(name), choice, "blocks.3.up")
    weight[2, :32] = 2.0**-24 * steps
    assert np.array_equal(decode(encode(weight, wanted(name), choice, "w"), "best")[2, :32], weight[2, :32])
    weight[2, :32] = -65520 * steps
    with pytest.raises(FormatError, match=r"blocks\.3\.up.*overflows"):
        encode(weight, wanted(name), choice, "blocks.3.up")
    weight[2, :32] = -65504 * steps
    assert np.array_equal(decode(encode(weight, wanted(name), choice, "w"), "best")[2, :32], weight[2, :32])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["keep", *INTEGER_FORMATS])
def test_weights_that_are_not_numbers_are_refused_by_name(name: Any, dtype: Any, value: float) -> None:
    weight = gaussian(20, 40).astype(dtype)
    weight[19, 39] = value
    with pytest.raises(NonFiniteWeightError, match="head: NaN or Inf"):
        encode(weight, wanted(name), "search", "head")


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros((2, 2)), "float64"),
        (np.zeros((2, 2), np.int8), "int8"),
        (np.zeros(4, np.float32), "not a matrix"),
        (np.zeros((0, 4), np.float32), "not a matrix"),
        (np.zeros((4, 0), np.float32), "not a matrix"),
    ],
)
def test_what_is_not_a_float_matrix_is_refused(weight: NDArray[Any], message: str) -> None:
    for name in ("keep", "int4"):
        with pytest.raises(FormatError, match=f"odd: .*{message}"):
            encode(weight, wanted(name), "search", "odd")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_narrow_dtype_is_only_a_container(dtype: Any) -> None:
    weight = gaussian(33, 70).astype(dtype)
    narrow, wide = (
        encode(part, wanted("layered"), "search", "w") for part in (weight, weight.astype(np.float32))
    )
    assert decode(narrow).tobytes() == decode(wide).tobytes()


def test_strides_do_not_matter() -> None:
    weight = gaussian(64, 96)
    turned = np.asfortranarray(weight)
    for name in ("keep", "int4"):
        assert encode(weight, wanted(name), "range", "w").codes.tobytes() == (
            encode(turned, wanted(name), "range", "w").codes.tobytes()
        )


def test_sizes_count_padding() -> None:
    sizes = part_sizes("layered", 17, 65, 64)
    assert (sizes.codes, sizes.scales, sizes.residual) == (32 * 128 // 2, 32 * 2 * 2, 32 * 128 // 2)
    assert sizes.total == encode(gaussian(17, 65), wanted("layered", 64), "range", "w").nbytes
    assert part_sizes("int8", 16, 32, 32).total == 16 * 32 + 32
    with pytest.raises(FormatError, match="unknown matrix format 'int7'"):
        part_sizes("int7", 1, 1, 32)


def test_parts_of_another_size_are_refused() -> None:
    codes, scales = np.zeros(16 * 32 // 2, np.uint8), np.zeros(16, np.uint16)
    Encoded("int4", 3, 32, 32, codes, scales)
    with pytest.raises(FormatError, match=r"codes has 255 bytes, and 256"):
        Encoded("int4", 3, 32, 32, codes[:-1], scales)
    with pytest.raises(FormatError, match=r"scales has 0 bytes, and 32"):
        Encoded("int4", 3, 32, 32, codes)
    with pytest.raises(FormatError, match=r"residual has 256 bytes, and 0"):
        Encoded("int4", 3, 32, 32, codes, scales, codes)


def test_saturation_counts_what_the_residual_cannot_give_back() -> None:
    weight = gaussian(64, 256)
    searched = encode(weight, wanted("layered", 128), "search", "w")
    share = residual_saturation(searched)
    assert searched.residual is not None
    ends = np.isin(nibble_of_each_weight(searched.residual, searched), (0, 15))
    assert share == ends.mean()
    assert 0 < share < 0.02
    with pytest.raises(FormatError, match="no residual plane"):
        residual_saturation(encode(weight, wanted("int4"), "range", "w"))


def test_memory_beside_input_and_output_is_bounded() -> None:
    weight = gaussian(3000, 1024)
    tracemalloc.start()
    matrix = encode(weight, wanted("layered"), "range", "w")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - matrix.nbytes < 48 * encoding.CHUNK_WEIGHTS


def test_search_pays_on_a_real_model(stories260k: Path) -> None:
    """Over all block matrices of a trained model: 4-bit squared error at least 8% below the range's."""
    weights = [
        w
        for name, w in load_file(stories260k / "model.safetensors").items()
        if ".layers." in name and w.ndim == 2
    ]
    assert len(weights) > 20
    total = {"search": 0.0, "range": 0.0, "best": 0.0}
    for weight in weights:
        for choice in ("search", "range"):
            total[choice] += float(
                np.square(decode(encode(weight, wanted("int4"), choice, "w")) - weight).sum()
            )
        total["best"] += float(
            np.square(decode(encode(weight, wanted("layered"), "search", "w")) - weight).sum()
        )
    assert total["search"] < 0.92 * total["range"]
    assert total["best"] < total["search"] / 50
