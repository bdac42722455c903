"""CRC-32C against known answers, the bitwise oracle, and itself cut in other ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.kernels import _core, crc32c
from penjing.kernels import reference as oracle

# RFC 3720, B.4, and the check value of the CRC catalogue.
KNOWN = [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
]


@pytest.mark.parametrize(("data", "expected"), KNOWN)
def test_known_answers(data, expected):
    assert crc32c(data) == expected
    assert oracle.crc32c(data) == expected
    assert _core.crc32c_portable(np.frombuffer(data, np.uint8)) == expected


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=600), skip=st.integers(0, 7))
def test_short_buffers_at_any_alignment(data, skip):
    assert crc32c(memoryview(data)[skip:]) == oracle.crc32c(data[skip:])


@pytest.mark.parametrize(
    "size", [12287, 12288, 12289, 40001, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_500_017]
)
def test_streams_chunks_and_threads_combine(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    expected = _core.crc32c_portable(data)
    for threads in (1, 2, 3):
        assert crc32c(data, threads) == expected


def test_a_flipped_bit_shows_and_any_dtype_is_taken():
    data = np.arange(1 << 19, dtype=np.float32)
    before = crc32c(data, 2)
    data.view(np.uint8)[1_234_567] ^= 4
    assert crc32c(data, 2) != before
