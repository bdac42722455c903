"""Codes to tile order and back, for every format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.errors import FormatError
from penjing.formats import Codes, decode, dequantize, pack, part_sizes, unpack
from penjing.formats.encoded import PLANE_BITS
from penjing.spec import WITH_ZERO_POINTS, WeightFormat

FORMATS = [(name, False) for name in PLANE_BITS] + [(name, True) for name in WITH_ZERO_POINTS]


def random_codes(
    name: str, asymmetric: bool, shape: tuple[int, int], group_size: int, seed: int = 0
) -> Codes:
    format = WeightFormat.model_validate({"name": name, "group_size": group_size, "asymmetric": asymmetric})
    rng = np.random.default_rng(seed)
    limit = 2 ** sum(PLANE_BITS[name])
    groups = (shape[0], -(-shape[1] // format.group_size))
    return Codes(
        format,
        rng.integers(0, limit, shape, np.uint8),
        rng.normal(size=groups).astype(np.float16),
        zeros=rng.integers(0, limit, groups, np.uint8) if asymmetric else None,
        table=np.sort(rng.integers(-127, 128, 16)).astype(np.int8) if name.startswith("table") else None,
        residual=rng.integers(0, 16, shape, np.uint8) if name == "layered" else None,
    )


@pytest.mark.parametrize(("name", "asymmetric"), FORMATS)
@settings(max_examples=10, deadline=None)
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 200)), group=st.sampled_from([32, 64, 128]))
def test_unpack_is_the_inverse_of_pack(
    name: str, asymmetric: bool, shape: tuple[int, int], group: int
) -> None:
    codes = random_codes(name, asymmetric, shape, group)
    encoded = pack(codes)
    back = unpack(encoded)
    assert back.format == codes.format
    for part in ("codes", "scales", "zeros", "table", "residual"):
        before, after = getattr(codes, part), getattr(back, part)
        assert (before is None and after is None) or before.tobytes() == after.tobytes(), part
    assert encoded.nbytes == part_sizes(name, *shape, codes.format.group_size, asymmetric).total
    for tier in ("fast", "best"):
        assert decode(encoded, tier).tobytes() == dequantize(codes, tier).tobytes()


@pytest.mark.parametrize(("name", "asymmetric"), FORMATS)
def test_planes_hold_the_low_and_the_high_bits(name: str, asymmetric: bool) -> None:
    codes = random_codes(name, asymmetric, (17, 70), 32)
    encoded = pack(codes)
    low_bits, high_bits = PLANE_BITS[name]
    neutral = 2 ** (low_bits + high_bits - 1) if name.startswith(("int", "lay")) and not asymmetric else 0
    expected = np.full((32, 96), neutral, np.uint8)
    expected[:17, :70] = codes.codes
    row, k = np.indices(expected.shape)
    for plane, bits, shift in ((encoded.codes, low_bits, 0), (encoded.high, high_bits, low_bits)):
        if plane is None:
            assert bits == 0
            continue
        line = 32 // bits
        byte = plane[(row // 16) * 2 * bits * 96 + 64 * (k // line) + 4 * (row % 16) + k % 4]
        assert np.array_equal(
            byte >> (bits * (k % line // 4)) & (2**bits - 1), expected >> shift & (2**bits - 1)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.full((3, 40), 32, np.uint8)}, "codes reach 32, and must be below 32"),
        ({"codes": np.zeros((3, 40), np.int64)}, "codes are int64"),
        ({"codes": np.zeros((0, 40), np.uint8)}, "nothing to pack"),
        (
            {"scales": np.ones((3, 1), np.float16)},
            r"scales are float16 \[3, 1\], and must be float16 \[3, 2\]",
        ),
        ({"scales": np.full((3, 2), np.inf, np.float16)}, "NaN or Inf among the scales"),
        ({"zeros": None}, "zeros are missing"),
        ({"zeros": np.full((3, 2), 32, np.uint8)}, "zeros reach 32"),
        ({"table": np.zeros(16, np.int8)}, "table do not belong"),
        ({"residual": np.zeros((3, 40), np.uint8)}, "residual do not belong"),
        ({"format": WeightFormat(name="keep")}, "nothing to pack"),
    ],
)
def test_codes_that_do_not_fit_their_format_are_refused(change: dict[str, Any], message: str) -> None:
    codes = random_codes("int5", True, (3, 40), 32)
    with pytest.raises(FormatError, match=message):
        pack(replace(codes, **change))
