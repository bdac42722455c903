"""Block types against the gguf package's own reading of them."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from exports import random_codes

from penjing.errors import FormatError
from penjing.export.gguf.blocks import GGML_TYPES, TYPES, common_type, pack, type_of
from penjing.formats import dequantize
from penjing.spec import WITH_ZERO_POINTS, Tier, WeightFormat, WeightFormatName

gguf = pytest.importorskip("gguf", reason="pip install 'penjing[dev]'")
CASES = [(name, asymmetric, "best") for name, asymmetric in TYPES]
CASES += [("layered", False, "fast"), ("layered", False, "best")]
ROUNDED = {"Q4_1", "Q5_1", "F16"}


@pytest.mark.parametrize("group_size", [32, 128])
@pytest.mark.parametrize(("name", "asymmetric", "tier"), CASES)
def test_readers_get_what_was_meant(name: str, asymmetric: bool, tier: Tier, group_size: int) -> None:
    codes = random_codes(name, asymmetric, 6, 192, group_size)
    target = type_of(codes.format, tier, 192)
    packed, written = pack(codes, tier, target, "w")
    assert packed.shape == (6, GGML_TYPES[target].row_bytes(192))
    read = gguf.dequantize(packed, gguf.GGMLQuantizationType[target])
    np.testing.assert_array_equal(read, written)
    meant = dequantize(codes, tier)
    if target in ROUNDED:
        np.testing.assert_allclose(read, meant, atol=2**-11 * np.abs(meant).max())
        assert (read != meant).any()
    else:
        np.testing.assert_array_equal(read, meant)


def test_numbers_of_types_are_those_of_ggml() -> None:
    for name, own in GGML_TYPES.items():
        theirs = gguf.GGMLQuantizationType[name]
        assert own.number == theirs.value
        assert (own.block, own.block_bytes) == gguf.GGML_QUANT_SIZES[theirs]
        prefix = "ALL" if name == "F32" else "MOSTLY"
        assert own.file_type == gguf.LlamaFileType[f"{prefix}_{name}{'_MOE' * (name == 'MXFP4')}"]


def test_rows_that_are_no_whole_blocks_become_half_precision() -> None:
    codes = random_codes("int4", False, 3, 172)
    assert type_of(codes.format, "best", 172) == "F16"
    packed, written = pack(codes, "best", "F16", "w")
    assert packed.shape == (3, 344)
    np.testing.assert_array_equal(packed.view(np.float16).astype(np.float32), written)


def test_matrices_that_share_a_type() -> None:
    assert common_type({"Q4_0"}) == "Q4_0"
    assert common_type({"Q4_0", "Q8_0", "Q5_0"}) == "Q8_0"
    assert common_type({"Q4_1", "Q8_0"}) == "F16"
    assert common_type({"BF16", "Q4_0"}) == "F32"
    codes = random_codes("int4", False, 4, 64)
    read = gguf.dequantize(pack(codes, "best", "Q8_0", "w")[0], gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(read, dequantize(codes))


def test_what_half_precision_cannot_hold_is_refused() -> None:
    codes = random_codes("int8", True, 4, 64)
    codes.scales[:] = 60000
    with pytest.raises(FormatError, match=r"blocks\.0\.up: a number of it is beyond float16"):
        pack(codes, "best", "F16", "blocks.0.up")
    fourbit = random_codes("int4", True, 4, 64)
    fourbit.scales[:] = 60000
    with pytest.raises(FormatError, match="beyond float16"):
        pack(fourbit, "best", "Q4_1", "w")


def test_every_format_has_a_type() -> None:
    for name in set(get_args(WeightFormatName)) - {"keep"}:
        for asymmetric in (False, name in WITH_ZERO_POINTS):
            format = WeightFormat.model_validate({"name": name, "asymmetric": asymmetric})
            assert type_of(format, "best", 64) in GGML_TYPES
