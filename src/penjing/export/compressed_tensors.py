"""An artifact in the layout of compressed-tensors, for transformers and vLLM: codes packed in int32.

`pack-quantized` of https://github.com/vllm-project/compressed-tensors: of a matrix [N, K] with b-bit codes
q + 2^(b-1), the first in the lowest bits, `weight_packed` int32 [N, K b / 32]; `weight_scale` [N, groups];
`weight_shape` int64 [2]; and where it has zero points, `weight_zero_point`, packed along N: int32
[ceil(N b / 32), groups]. w = scale (q - zero). Readers know 4 and 8 bits, so other codes go into the next of
these that holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penjing.artifact import Artifact
from penjing.errors import SpecError
from penjing.export.conversion import Exported, Ledger
from penjing.export.safetensors import dequantized, embedding_notes
from penjing.export.source import chosen_tier, text_files
from penjing.export.steps import Steps, steps_of, tensor_text
from penjing.formats import decode, unpack
from penjing.formats.packing import format_of
from penjing.models.layout import Published, published_tensors
from penjing.models.publishing import rebuild_config
from penjing.models.weights_file import DTYPES, WeightsTensor, rounded, write_directory
from penjing.spec import Tier

PackedDtype = Literal["bf16", "fp16"]
WEIGHT = ".weight"
NOT_LINEAR = ("embedding", "head", "router")
# Bits, and whether there are zero points, by format and whether it has any.
SCHEMES = {
    ("int2", False): (4, False),
    ("int2", True): (4, False),
    ("int3", False): (4, False),
    ("int3", True): (4, False),
    ("int4", False): (4, False),
    ("int4", True): (4, True),
    ("int5", False): (8, False),
    ("int5", True): (8, False),
    ("int6", False): (8, False),
    ("int6", True): (8, False),
    ("int8", False): (8, False),
    ("int8", True): (8, True),
    ("table2", False): (8, False),
    ("table3", False): (8, False),
    ("table4", False): (8, False),
}


@dataclass(frozen=True, order=True)
class Scheme:
    """How a matrix is packed."""

    bits: int
    zeros: bool
    group_size: int

    def __str__(self) -> str:
        return f"int{self.bits} g{self.group_size}{' asymmetric' if self.zeros else ''}"

    def quantization(self) -> dict[str, Any]:
        """The arguments as config.json has them."""
        return {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": not self.zeros,
            "group_size": self.group_size,
            "strategy": "group",
            "dynamic": False,
            "actorder": None,
            "block_structure": None,
            "observer": "minmax",
            "observer_kwargs": {},
        }


def export_compressed_tensors(
    source: str | Path,
    out: str | Path,
    *,
    dtype: PackedDtype = "fp16",
    tier: Tier | None = None,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Exported:
    """Write the artifact at `source` as a pack-quantized checkpoint at `out`.

    dtype: of scales, and of what stays a float: embedding, head, routers, norms, and matrices that no scheme
    holds. Scales of an artifact are fp16, so bf16 rounds them. Raises ArtifactError, OutputError,
    UnsupportedConfigError, SpecError (a tier that the artifact lacks, nothing to pack), FormatError (a number
    beyond fp16).
    """
    out, artifact = Path(out), Artifact.open(source)
    chosen, ledger = chosen_tier(artifact, tier), Ledger()
    config = rebuild_config(artifact.config, DTYPES[dtype][1], artifact.path)
    tensors: list[WeightsTensor] = []
    schemes: dict[str, Scheme] = {}
    floats = ["lm_head"] if artifact.config.tied_head else []  # a linear module, though no tensor
    for tensor in published_tensors(artifact.config):
        scheme = scheme_of(artifact, tensor, chosen)
        module = tensor.name.removesuffix(WEIGHT)
        if scheme is None:
            tensors.append(dequantized(artifact, tensor, dtype, chosen, ledger))
            floats += [module] if is_linear(tensor) else []
        else:
            tensors += PackedMatrix(artifact, tensor, scheme, dtype, chosen).tensors(ledger)
            schemes[module] = scheme
    if not schemes:
        raise SpecError(f"{artifact.path}: no matrix of it can be packed; export to safetensors or gguf")
    config["quantization_config"] = quantization_config(schemes, floats)
    write_directory(
        out, config, tensors, text_files(artifact), source=artifact.hash, force=force, progress=progress
    )
    return Exported(out, ledger.conversions(), tuple(embedding_notes(artifact, dtype)))


def is_linear(tensor: Published) -> bool:
    """Whether a reader has a linear module for it."""
    return len(tensor.shape) == 2 and tensor.parts[0] != "embedding"


def scheme_of(artifact: Artifact, tensor: Published, tier: Tier) -> Scheme | None:
    """How to pack a published tensor; None for what stays a float."""
    if len(tensor.shape) != 2 or tensor.parts[0].rpartition(".")[2] in NOT_LINEAR:
        return None
    found: set[Scheme | None] = set()
    for part in tensor.parts:
        encoded = artifact.matrix(part)
        bits_and_zeros = None
        if encoded.scales is not None and encoded.columns % encoded.group_size == 0:
            format = format_of(encoded)
            key = ("int4" if tier == "fast" else "int8") if format.name == "layered" else format.name
            bits_and_zeros = SCHEMES.get((key, format.asymmetric))
        found.add(bits_and_zeros and Scheme(*bits_and_zeros, encoded.group_size))
    return next(iter(found)) if len(found) == 1 else None


def quantization_config(schemes: dict[str, Scheme], floats: list[str]) -> dict[str, Any]:
    """`quantization_config` of config.json: all linear modules but some; if schemes differ, each by name."""
    groups = {}
    kinds = sorted(set(schemes.values()))
    for index, kind in enumerate(kinds):
        named = [module for module, scheme in schemes.items() if scheme == kind]
        groups[f"group_{index}"] = {
            "targets": ["Linear"] if len(kinds) == 1 else named,
            "weights": kind.quantization(),
            "input_activations": None,
            "output_activations": None,
            "format": "pack-quantized",
        }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": floats,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


@dataclass(frozen=True)
class PackedMatrix:
    """A published matrix as the tensors that stand for it. Parts of a fused one lie below one another."""

    artifact: Artifact
    published: Published
    scheme: Scheme
    dtype: PackedDtype
    tier: Tier

    def tensors(self, ledger: Ledger) -> Iterator[WeightsTensor]:
        """Codes, scales, shape, and zero points if there are any."""
        (rows, columns), scheme = self.published.shape, self.scheme
        base, groups = self.published.name.removesuffix(WEIGHT), columns // scheme.group_size
        dtype = DTYPES[self.dtype][0]
        words = (rows, columns * scheme.bits // 32)
        yield WeightsTensor(f"{base}.weight_packed", "I32", words, lambda: self.codes(ledger))
        yield WeightsTensor(f"{base}.weight_scale", dtype, (rows, groups), self.scales)
        shape = np.array([rows, columns], np.int64)
        yield WeightsTensor(f"{base}.weight_shape", "I64", (2,), lambda: iter([shape]))
        if scheme.zeros:
            words = (-(-rows * scheme.bits // 32), groups)
            yield WeightsTensor(f"{base}.weight_zero_point", "I32", words, self.zeros)

    def steps(self, part: str) -> Steps:
        """A part as what is packed."""
        found = steps_of(unpack(self.artifact.matrix(part)), self.tier)
        return found if self.scheme.zeros else found.without_zeros()

    def rounded_scales(self, part: str, steps: Steps) -> NDArray[Any]:
        """A part's scales as they are written."""
        return rounded(steps.scales, self.dtype, f"{self.artifact.path}: {part}")

    def codes(self, ledger: Ledger) -> Iterator[NDArray[np.int32]]:
        """Packed codes of each part; what is lost is entered in the ledger."""
        offset = 0 if self.scheme.zeros else 2 ** (self.scheme.bits - 1)
        for part in self.published.parts:
            encoded, steps = self.artifact.matrix(part), self.steps(part)
            written = self.rounded_scales(part, steps).astype(np.float32)
            loss = ledger.open(tensor_text(encoded, self.tier), f"packed {self.scheme}, {self.dtype} scales")
            loss.add(decode(encoded, self.tier), steps.without_zeros().values(written))
            yield pack_words(steps.levels + offset, self.scheme.bits)

    def scales(self) -> Iterator[NDArray[Any]]:
        """Scales of each part."""
        for part in self.published.parts:
            yield self.rounded_scales(part, self.steps(part))

    def zeros(self) -> Iterator[NDArray[np.int32]]:
        """Zero points of all parts, packed along the rows."""
        each = [self.steps(part).zeros for part in self.published.parts]
        stacked = np.concatenate([zeros for zeros in each if zeros is not None])
        yield pack_words(stacked.T, self.scheme.bits).T


def pack_words(codes: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Codes [N, K] below 2^bits to int32 [N, ceil(K bits / 32)], the first in the lowest bits."""
    each = 32 // bits
    padded = np.zeros((codes.shape[0], -(-codes.shape[1] // each) * each), np.uint32)
    padded[:, : codes.shape[1]] = codes
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    words: NDArray[np.uint32] = np.bitwise_or.reduce(
        padded.reshape(codes.shape[0], -1, each) << shifts, axis=2
    )
    return words.view(np.int32)
