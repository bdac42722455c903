"""What a search chooses among: groups of matrices that share a format, and the formats each may have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from penjing.artifact import ModelConfig
from penjing.artifact.config import expected_tensors
from penjing.artifact.layout import ALIGNMENT
from penjing.measure.cost import tensor_bytes_in
from penjing.quantize.assignment import FUSED, KEEP, label
from penjing.spec import FloatFormat, GroupSize, Override, WeightFormat, WeightFormatName

OFFERED_NAMES: tuple[tuple[WeightFormatName, tuple[GroupSize, ...]], ...] = (
    ("table2", (64, 32)),
    ("table3", (64, 32)),
    ("table4", (128, 64, 32)),
    ("int5", (64,)),
    ("int6", (64,)),
    ("int8", (128, 32)),
)
# From 2.25 bits to 9, then the checkpoint's own dtype. Up to 4 bits fitted levels beat equal steps at no cost
# in size (docs/quality.md); from 5 on there is none to be had, and equal steps are faster.
OFFERED: tuple[WeightFormat, ...] = (
    *(WeightFormat(name=name, group_size=size) for name, sizes in OFFERED_NAMES for size in sizes),
    KEEP,
)


@dataclass(frozen=True)
class Choice:
    """A format that a group may have, and what it costs.

    nbytes: of all its tensors as stored. seconds: of a decoded token. loss: predicted, in nats of KL a token.
    """

    format: WeightFormat
    nbytes: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Group:
    """Matrices (canonical names) that have one format, and the formats it may be."""

    name: str
    matrices: tuple[str, ...]
    choices: tuple[Choice, ...]


def groups_of(config: ModelConfig) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(name, matrices) of every group of a model, in the order of execution.

    `embedding`, `blocks.I.query+key+value`, `blocks.I.output`, `blocks.I.gate+up`, `blocks.I.down`, and
    `head` where it is not tied; experts of a block together, as `blocks.I.experts.gate+up` and
    `blocks.I.experts.down`. A matrix that keeps its dtype is in none.
    """
    found: dict[str, list[str]] = {}
    for name, role in expected_tensors(config).items():
        if role.is_matrix and not role.keeps_dtype:
            found.setdefault(group_name(name), []).append(name)
    return tuple((name, tuple(matrices)) for name, matrices in found.items())


def group_name(matrix: str) -> str:
    """The group of a matrix."""
    prefix, _, last = matrix.rpartition(".")
    fused = next(("+".join(names) for names in FUSED if last in names), last)
    if ".experts." in prefix:
        prefix = prefix.rpartition(".")[0]
    return f"{prefix}.{fused}" if prefix else fused


def fixed_bytes(config: ModelConfig, own: Mapping[str, FloatFormat] | None = None) -> int:
    """Bytes of what is in no group: norms, biases, routers, and the header of tensors.bin."""
    chosen = {matrix for _, matrices in groups_of(config) for matrix in matrices}
    return ALIGNMENT + sum(
        tensor_bytes_in(role, KEEP, (own or {}).get(name, "fp32"))
        for name, role in expected_tensors(config).items()
        if name not in chosen
    )


def groups_with_choices(
    config: ModelConfig,
    losses: Mapping[str, Mapping[str, float]],
    formats: Sequence[WeightFormat] = OFFERED,
    *,
    seconds: Callable[[str, WeightFormat], float] | None = None,
    own: Mapping[str, FloatFormat] | None = None,
) -> tuple[Group, ...]:
    """Every group of a model with its choices.

    losses: predicted loss by group and by format label (`label`); a format without a finite one is not a
    choice, and `keep` loses nothing. seconds: of a decoded token, by group and format; 0 without it.
    """
    groups = []
    roles = expected_tensors(config)
    for name, matrices in groups_of(config):
        choices = []
        for format in formats:
            loss = 0.0 if format == KEEP else losses[name].get(label(format))
            if loss is not None and math.isfinite(loss):
                nbytes = sum(
                    tensor_bytes_in(roles[one], format, (own or {}).get(one, "fp32")) for one in matrices
                )
                choices.append(Choice(format, nbytes, seconds(name, format) if seconds else 0.0, loss))
        groups.append(Group(name, matrices, tuple(choices)))
    return tuple(groups)


def overrides_of(formats: Iterable[tuple[str, WeightFormat]]) -> tuple[Override, ...]:
    """A recipe's overrides that give groups, by name, their formats."""
    return tuple(
        Override(match=match, weights=format) for name, format in formats for match in patterns_of(name)
    )


def patterns_of(group: str) -> tuple[str, ...]:
    """Globs that match the matrices of a group, and no other."""
    prefix, _, last = group.rpartition(".")
    inside = f"{prefix}.*." if prefix.endswith(".experts") else f"{prefix}." if prefix else ""
    return tuple(inside + name for name in last.split("+"))


def block_of(group: str) -> int | None:
    """The number of the block that a group is in; None for embedding and head."""
    return int(group.split(".")[1]) if group.startswith("blocks.") else None
