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
from penjing.formats import (
    Encoded,
    decode,
    encode,
    encoding,
    grid_of,
    part_sizes,
    residual_saturation,
    rounding,
    tiny_notice,
    unpack,
)
from penjing.formats.encoded import PLANE_BITS
from penjing.spec import WITH_ZERO_POINTS, WeightFormat, WeightFormatName

INTEGER_FORMATS: tuple[WeightFormatName, ...] = ("int8", "int4", "layered", "int2", "int3", "int5", "int6")
BITS = {"int8": 8, "int4": 4, "layered": 4, "int2": 2, "int3": 3, "int5": 5, "int6": 6}
CODED = [WeightFormat(name=name, group_size=32) for name in PLANE_BITS] + [
    WeightFormat(name=name, group_size=32, asymmetric=True) for name in WITH_ZERO_POINTS
]
every_format = pytest.mark.parametrize("format", CODED, ids=lambda f: f.name + "+" * f.asymmetric)


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


@every_format
def test_the_result_does_not_depend_on_chunks(format: WeightFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = gaussian(100, 300)
    weight[50, 64:96] = 1e-20
    whole = encode(weight, format, "search", "w")
    monkeypatch.setattr(encoding, "CHUNK_WEIGHTS", 1)
    monkeypatch.setattr(rounding, "SEARCH_WEIGHTS", 7 * 32)
    cut = encode(weight, format, "search", "w")
    for part in ("codes", "high", "scales", "zeros", "table", "residual", "tiny_groups"):
        assert np.array_equal(getattr(whole, part), getattr(cut, part))
    assert whole.tiny_groups == 1
    assert decode(cut).tobytes() == decode(whole).tobytes()


@pytest.mark.parametrize("name", INTEGER_FORMATS[:3])
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
@every_format
def test_zero_groups(format: WeightFormat, choice: Any) -> None:
    weight = gaussian(16, 96)
    weight[:, 32:64] = 0
    weight[5] = -0.0
    matrix = encode(weight, format, choice, "w")
    assert matrix.scales is not None
    assert matrix.tiny_groups == 0
    scales = matrix.scales.reshape(3, 16)
    assert np.all(scales[1] == 0)
    assert np.all(scales[:, 5] == 0)
    assert np.all(scales[[0, 2]][:, :5] != 0)
    assert np.all(decode(matrix)[weight == 0] == 0)
    assert np.all(decode(encode(np.zeros((2, 8), np.float32), format, choice, "w")) == 0)


@every_format
def test_search_is_no_worse_than_the_range(format: WeightFormat) -> None:
    weight = np.random.default_rng(5).standard_t(4, (64, 320)).astype(np.float32)
    errors = [np.square(decode(encode(weight, format, c, "w")) - weight).sum() for c in ("search", "range")]
    assert errors[0] < errors[1] if format.name != "fp8" else errors[0] == errors[1]
    assert (
        errors[1] / np.square(weight).sum()
        < {2: 0.4, 3: 0.1, 4: 0.03, 5: 0.01, 6: 0.003, 8: 1e-3}[sum(PLANE_BITS[format.name])]
    )


def test_better_grids_are_better() -> None:
    """On weights of a bell curve: levels where they are, and zero points where there is a shift."""
    weight = gaussian(128, 512)
    shifted = weight + np.float32(0.03)

    def error(name: str, matrix: NDArray[np.float32], asymmetric: bool = False) -> float:
        format = WeightFormat.model_validate({"name": name, "group_size": 64, "asymmetric": asymmetric})
        return float(np.square(decode(encode(matrix, format, "search", "w")) - matrix).sum())

    assert error("table4", weight) < error("nf4", weight) < error("int4", weight) < error("mxfp4", weight)
    assert error("table3", weight) < 0.9 * error("int3", weight)
    assert error("table2", weight) < 0.9 * error("int2", weight)
    for name in WITH_ZERO_POINTS:
        assert error(name, shifted, asymmetric=True) < 0.75 * error(name, shifted)


def test_scales_of_mxfp4_are_powers_of_two() -> None:
    for size in (1e-8, 1e-3, 1.0, 50000.0):
        matrix = encode(gaussian(32, 128, size=size), WeightFormat(name="mxfp4"), "search", "w")
        assert matrix.scales is not None
        mantissas, _ = np.frexp(matrix.scales.view(np.float16).astype(np.float32))
        assert np.all((mantissas == 0.5) | (mantissas == 0))


def test_a_table_is_the_best_for_its_matrix() -> None:
    """Weights that take 16 values of a grid come back as they were."""
    levels = np.array([-127, -101, -80, -64, -50, -38, -27, -17, -8, 0, 9, 19, 31, 47, 66, 90], np.float32)
    weight = np.random.default_rng(1).choice(levels, (48, 128)) * np.float32(2.0**-10)
    weight[:, ::32] = -127 * 2.0**-10
    matrix = encode(weight, WeightFormat(name="table4", group_size=32), "range", "w")
    assert matrix.table is not None
    assert matrix.table.tolist() == levels.tolist()
    assert np.array_equal(decode(matrix), weight)
    other = np.arange(-8, 8, dtype=np.int8)
    known = encode(weight, WeightFormat(name="table4", group_size=32), "range", "w", other)
    assert known.table is other


@pytest.mark.parametrize("choice", ["search", "range"])
@every_format
def test_groups_below_float16_are_stored_within_half_a_step(format: WeightFormat, choice: Any) -> None:
    grid = grid_of(format, np.arange(-8, 8, dtype=np.int8))
    largest = 1.0 if format.asymmetric else max(grid.highest, -grid.lowest)
    for size in (1e-23, 2.0**-30, 2.0**-27, 0.9 * largest * 2.0**-25):
        weight = gaussian(4, 64)
        weight[2, :32] = gaussian(1, 32)[0] * np.float32(size / np.abs(gaussian(1, 32)).max())
        matrix = encode(weight, format, choice, "blocks.3.up")
        assert matrix.tiny_groups == 1
        error = np.abs(decode(matrix) - weight)[2, :32].max()
        stated = grid_of(format, matrix.table).widest_gap * 2.0**-25
        assert error <= stated
        notice = tiny_notice("blocks.3.up", matrix)
        assert notice.startswith("1 groups of blocks.3.up are below float16's smallest scale: stored within")
        assert float(notice.split()[-1]) == pytest.approx(stated, rel=0.1)


@every_format
def test_a_group_that_is_nearer_to_zero_is_zero(format: WeightFormat) -> None:
    weight = gaussian(4, 64)
    weight[2, :32] = 1e-23
    matrix = encode(weight, format, "search", "w")
    assert np.all(unpack(matrix).scales[2, 0] == 0)
    assert np.all(decode(matrix)[2, :32] == 0)
    assert np.all(decode(matrix)[2, 32:] != 0) or format.name not in ("int8", "fp8")


@pytest.mark.parametrize("choice", ["search", "range"])
@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_scales_that_overflow_float16_are_refused_by_name(name: WeightFormatName, choice: Any) -> None:
    steps = 2.0 ** (BITS[name] - 1)
    weight = gaussian(4, 64)
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
