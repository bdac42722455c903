"""What Matrix accepts, and how the instruction set is chosen."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from tile_matrices import ISAS, random_matrix, random_rows

from penjing import kernels
from penjing.kernels import Matrix, available_isas, default_isa, linear

CODES, SCALES = np.zeros(16 * 64 // 2, np.uint8), np.zeros(2 * 16, np.uint16)
ZEROS, TABLE = np.zeros(2 * 16, np.uint8), np.zeros(16, np.int8)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (("int7", 16, 64, 32, CODES, SCALES, None), "unknown matrix format 'int7'"),
        (("int4", 0, 64, 32, CODES, SCALES, None), "rows and columns must be positive"),
        (("int4", 16, 64, 48, CODES, SCALES, None), "group_size must be 32, 64 or 128"),
        (("fp32", 16, 64, 32, CODES, None, None), "group_size must be .* 0 for floats"),
        (("int4", 16, 64, 32, CODES[:-1], SCALES, None), "codes has 511 elements, and 512"),
        (("int8", 16, 64, 32, CODES, SCALES, None), "codes has 512 elements, and 1024"),
        (("int4", 17, 64, 32, CODES, SCALES, None), "codes has 512 elements, and 1024"),
        (("int4", 16, 64, 32, CODES, SCALES[1:], None), "scales has 31 elements, and 32"),
        (("int4", 16, 64, 32, CODES, None, None), "scales is missing"),
        (("bf16", 16, 16, 0, CODES, SCALES, None), "scales does not belong"),
        (("layered", 16, 64, 32, CODES, SCALES, None), "residual is missing"),
        (("int4", 16, 64, 32, CODES, SCALES, CODES), "residual does not belong"),
        (("layered", 16, 64, 32, CODES, SCALES, CODES[1:]), "residual has 511 elements, and 512"),
        (("int5", 16, 64, 32, CODES, SCALES, None), "high is missing"),
        (("int5", 16, 64, 32, CODES, SCALES, None, CODES), "high has 512 elements, and 128"),
        (("int4", 16, 64, 32, CODES, SCALES, None, CODES), "high does not belong"),
        (("int4", 16, 64, 32, CODES, SCALES, None, None, ZEROS[1:]), "zeros has 31 elements, and 32"),
        (("nf4", 16, 64, 32, CODES, SCALES, None, None, ZEROS), "zeros does not belong"),
        (("layered", 16, 64, 32, CODES, SCALES, CODES, None, ZEROS), "zeros does not belong"),
        (("table4", 16, 64, 32, CODES, SCALES), "table is missing"),
        (("table4", 16, 64, 32, CODES, SCALES, None, None, None, TABLE[1:]), "table has 15 elements, and 16"),
        (("int4", 16, 64, 32, CODES, SCALES, None, None, None, TABLE), "table does not belong"),
        (("fp32", 1, 1, 0, np.zeros(65, np.uint8)[1:], None, None), "not aligned"),
    ],
)
def test_wrong_parts_are_refused(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        Matrix(*fields)


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError):
        Matrix("int4", 16, 64, 32, CODES.view(np.int8), SCALES)
    with pytest.raises(TypeError):
        Matrix("int4", 16, 64, 32, CODES, SCALES.view(np.float16))


def test_arrays_outlive_their_names():
    matrix, _ = random_matrix("layered", 64, 512, 64, 2)
    x = random_rows(2, 512, 2)
    before = linear(matrix, x)
    gc.collect()
    np.ones(1 << 20)
    np.testing.assert_array_equal(linear(matrix, x), before)


def test_read_only_arrays_are_taken():
    codes, scales = CODES.copy(), SCALES.copy()
    codes.flags.writeable = scales.flags.writeable = False
    matrix = Matrix("int4", 16, 64, 32, codes, scales)
    assert (matrix.format, matrix.rows, matrix.columns, matrix.group_size) == ("int4", 16, 64, 32)


def test_available_isas_are_known_and_end_with_scalar():
    names = available_isas()
    assert names[-1] == "scalar"
    assert names == [name for name in ISAS if name in names]


@pytest.fixture
def fresh_choice():
    default_isa.cache_clear()
    yield
    default_isa.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
class TestDefaultIsa:
    def test_is_the_best(self, monkeypatch, capsys):
        monkeypatch.delenv("PENJING_ISA", raising=False)
        monkeypatch.setattr(kernels, "available_isas", lambda: ["avx2", "scalar"])
        assert default_isa() == "avx2"
        assert capsys.readouterr().err == ""

    def test_follows_the_environment(self, monkeypatch, capsys):
        monkeypatch.setenv("PENJING_ISA", "scalar")
        assert default_isa() == "scalar"
        assert capsys.readouterr().err == ""

    def test_says_what_it_cannot_follow(self, monkeypatch, capsys):
        monkeypatch.setenv("PENJING_ISA", "sse9")
        assert default_isa() == available_isas()[0]
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "PENJING_ISA=sse9 cannot run here" in lines[0]

    def test_says_that_scalar_is_slow(self, monkeypatch, capsys):
        monkeypatch.delenv("PENJING_ISA", raising=False)
        monkeypatch.setattr(kernels, "available_isas", lambda: ["scalar"])
        assert default_isa() == "scalar"
        assert "many times slower" in capsys.readouterr().err


def test_an_unknown_isa_is_refused():
    matrix, _ = random_matrix("fp32", 16, 16, 0, 0)
    with pytest.raises(ValueError, match="cannot run the instruction set 'sse9'"):
        linear(matrix, random_rows(1, 16, 0), isa="sse9")
