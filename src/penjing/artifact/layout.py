"""Where bytes lie in tensors.bin and residual.bin: headers, alignment, and the parts of every tensor."""

from __future__ import annotations

import struct
from typing import Literal

from penjing.formats import part_sizes
from penjing.spec import CodedFormatName, FloatFormat

StoredFormat = Literal[FloatFormat, CodedFormatName]
TensorFile = Literal["tensors.bin", "residual.bin"]
PartName = Literal["data", "codes", "high", "scales", "zeros", "table", "residual", "best"]

# Parts of a matrix of codes, in the order they are written.
CODED_PARTS: tuple[PartName, ...] = ("codes", "high", "scales", "zeros", "table", "residual")

ALIGNMENT = 64  # bytes; one cache line, one AVX-512 register
FORMAT_VERSION = 1
MAGIC = b"PENJING\0"
TENSORS_FILE: TensorFile = "tensors.bin"
RESIDUAL_FILE: TensorFile = "residual.bin"
MANIFEST_FILE = "manifest.json"
CERTIFICATE_FILE = "certificate.json"
REPORT_FILE = "report.json"  # what the search behind the certificate found
PAGE_FILE = "report.html"  # the same for people
BESIDE_THE_MANIFEST = frozenset({CERTIFICATE_FILE, REPORT_FILE, PAGE_FILE})  # no part of the artifact's hash

BEST_TIER_PARTS = frozenset({"residual", "best"})  # planes of matrices; vectors that differ by tier

FILE_KIND: dict[TensorFile, int] = {TENSORS_FILE: 0, RESIDUAL_FILE: 1}


def header(file: TensorFile) -> bytes:
    """The first 64 bytes of a tensor file: magic, version, kind of file, zeros."""
    return struct.pack("<8sII", MAGIC, FORMAT_VERSION, FILE_KIND[file]).ljust(ALIGNMENT, b"\0")


def file_of(part: PartName) -> TensorFile:
    """What only the best tier reads has a file of its own."""
    return RESIDUAL_FILE if part in BEST_TIER_PARTS else TENSORS_FILE


def padding_after(num_bytes: int) -> int:
    """Zero bytes that bring a length up to the next multiple of the alignment."""
    return -num_bytes % ALIGNMENT


def expected_parts(
    format: StoredFormat,
    group_size: int,
    shape: tuple[int, ...],
    by_tier: bool = False,
    asymmetric: bool = False,
) -> dict[PartName, int]:
    """Bytes of each part of a tensor, in the order they are written; padding of tiles and groups included.

    by_tier: whether a vector has other values at the best tier. asymmetric: whether a matrix has zero points.
    Raises FormatError for a format that cannot have them.
    """
    if len(shape) == 1:
        length = 4 * shape[0]
        return {"data": length, "best": length} if by_tier else {"data": length}
    sizes = part_sizes(format, shape[0], shape[1], group_size, asymmetric)
    if sizes.scales == 0:
        return {"data": sizes.codes}
    parts: dict[PartName, int] = {part: getattr(sizes, part) for part in CODED_PARTS}
    return {part: size for part, size in parts.items() if size}
