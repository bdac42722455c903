"""Whether a manifest's table of tensors can be true: complete, the right shapes, nothing overlapping."""

from __future__ import annotations

from pathlib import Path

from penjing.artifact.config import TensorRole, expected_tensors
from penjing.artifact.layout import (
    ALIGNMENT,
    BEST_TIER_PARTS,
    RESIDUAL_FILE,
    TENSORS_FILE,
    TensorFile,
    expected_parts,
    file_of,
)
from penjing.artifact.manifest import Manifest, TensorEntry
from penjing.errors import ManifestError, MissingTensorError, TensorShapeError
from penjing.formats.encoded import PLANE_BITS
from penjing.spec import WITH_ZERO_POINTS


def check_structure(directory: Path, manifest: Manifest) -> None:
    """Check everything that can be known without reading a tensor.

    Raises MissingTensorError for a tensor too few or too many, TensorShapeError for a shape or size that the
    configuration contradicts, ManifestError for bytes in impossible places.
    """
    experts = sum(block.num_experts for block in manifest.config.blocks)
    if experts > len(manifest.tensors):  # or a wrong number would be counted out first
        raise MissingTensorError(
            f"{directory}: lacks most of its {experts} experts; write the artifact again"
        )
    expected = expected_tensors(manifest.config)
    missing = [name for name in expected if name not in manifest.tensors]
    extra = [name for name in manifest.tensors if name not in expected]
    if missing or extra:
        what = f"lacks the tensor {missing[0]}" if missing else f"holds an unexpected tensor {extra[0]}"
        raise MissingTensorError(f"{directory}: {what}; write the artifact again")
    for name, role in expected.items():
        check_entry(directory, name, role, manifest.tensors[name])
    check_tiers(directory, manifest)
    check_places(directory, manifest)
    check_files(directory, manifest)


def check_entry(directory: Path, name: str, role: TensorRole, entry: TensorEntry) -> None:
    """A tensor's shape, format, and the sizes of its parts."""
    shape = role.shape
    if entry.shape != shape:
        raise TensorShapeError(
            f"{directory}: {name} is {list(entry.shape)}, and the configuration says {list(shape)}; "
            "write the artifact again"
        )
    grouped = entry.format in PLANE_BITS
    impossible = entry.format != "fp32" if not role.is_matrix else grouped and role.keeps_dtype
    if grouped != (entry.group_size > 0) or impossible:
        raise ManifestError(
            f"{directory}: {name} cannot be {entry.format} in groups of {entry.group_size}; "
            "write the artifact again"
        )
    asymmetric = "zeros" in entry.parts
    if asymmetric and entry.format not in WITH_ZERO_POINTS:
        raise ManifestError(
            f"{directory}: {name} cannot be {entry.format} with zero points; write the artifact again"
        )
    sizes = expected_parts(entry.format, entry.group_size, shape, "best" in entry.parts, asymmetric)
    stored = {part: record.nbytes for part, record in entry.parts.items()}
    if stored != sizes:
        raise TensorShapeError(
            f"{directory}: parts of {name} have {stored} bytes, and {sizes} are expected; "
            "write the artifact again"
        )


def check_tiers(directory: Path, manifest: Manifest) -> None:
    """Vectors may differ by tier only where there are tiers: if a matrix is layered."""
    layered = any("residual" in entry.parts for entry in manifest.tensors.values())
    for name, entry in manifest.tensors.items():
        if "best" in entry.parts and not layered:
            raise ManifestError(
                f"{directory}: {name} differs by tier, and no matrix is layered; write the artifact again"
            )


def check_places(directory: Path, manifest: Manifest) -> None:
    """Every part aligned in the right file, outside the header and apart from all others."""
    spans: list[tuple[TensorFile, int, int, str]] = []
    for name, entry in manifest.tensors.items():
        for part, record in entry.parts.items():
            if record.file != file_of(part) or record.offset % ALIGNMENT:
                raise ManifestError(
                    f"{directory}: {part} of {name} may not lie at {record.offset} of {record.file}; "
                    "write the artifact again"
                )
            spans.append((record.file, record.offset, record.offset + record.nbytes, name))
    ends: dict[TensorFile, int] = {}
    for file, begin, end, name in sorted(spans):
        listed = manifest.files.get(file)
        if begin < ends.get(file, ALIGNMENT) or listed is None or end > listed.nbytes:
            raise ManifestError(
                f"{directory}: {name} overlaps the header, another tensor or the end of {file}; "
                "write the artifact again"
            )
        ends[file] = end


def check_files(directory: Path, manifest: Manifest) -> None:
    """Only plain names beside the tensor files, and residual.bin only if something is in it."""
    for name in manifest.files:
        unused = name == RESIDUAL_FILE and name not in tensor_files(manifest)
        if Path(name).name != name or unused:
            raise ManifestError(f"{directory}: {name!r} cannot be a file of it; write the artifact again")


def tensor_files(manifest: Manifest) -> list[TensorFile]:
    """tensors.bin, and residual.bin if a tensor has anything in it."""
    tiered = any(BEST_TIER_PARTS & entry.parts.keys() for entry in manifest.tensors.values())
    return [TENSORS_FILE, RESIDUAL_FILE] if tiered else [TENSORS_FILE]
