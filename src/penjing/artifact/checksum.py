"""Checksums of the bytes on disk: CRC32C for every load, SHA-256 for proof."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from penjing.kernels import crc32c as _crc32c
except ImportError:
    _crc32c = None

READ_BYTES = 1 << 22

_TABLE = []
for _i in range(256):
    _c = _i
    for _ in range(8):
        _c = (_c >> 1) ^ (0x82F63B78 if _c & 1 else 0)
    _TABLE.append(_c)


def crc32c(buffer: NDArray[Any], threads: int = 1) -> int:
    if _crc32c is not None:
        return int(_crc32c(np.ascontiguousarray(buffer).view(np.uint8), threads))
    c = 0xFFFFFFFF
    for b in buffer.tobytes():
        c = _TABLE[(c ^ b) & 255] ^ (c >> 8)
    return c ^ 0xFFFFFFFF


def available_threads() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def sha256_of(buffer: NDArray[Any]) -> str:
    """SHA-256 (hex) of an array's bytes."""
    return hashlib.sha256(buffer.data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file, read a few megabytes at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
