"""SHA-256 of bytes and files, and how many threads a checksum may use."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

READ_BYTES = 1 << 22


def available_threads() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no affinity masks


def sha256_of(buffer: NDArray[Any]) -> str:
    """SHA-256 (hex) of a contiguous array's bytes."""
    return hashlib.sha256(buffer.data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file, read a few megabytes at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
