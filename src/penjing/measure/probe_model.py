"""Models of constant codes that are there to be timed: the compiled core's own steps, any shape and format.

Speed does not depend on what weights say, so every byte of a plane is the same; but each matrix has memory of
its own, so that a model larger than the caches comes from memory at every step, as it does when it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.layout import ALIGNMENT, padding_after
from penjing.formats import part_sizes
from penjing.kernels import Matrix, _core
from penjing.kernels.memory import huge_memory
from penjing.spec import KvFormat

PAGE_TOKENS = 32
CODE_BYTE = 0x99  # a code near the middle of every grid
SMALL = 0x1400  # 2^-10 in fp16
MOST_PLANES = 6  # of a matrix


@dataclass(frozen=True)
class Stored:
    """A matrix's format as stored: its or a float's name, its groups (0 for floats), zero points."""

    name: str
    group_size: int
    asymmetric: bool = False

    @property
    def label(self) -> str:
        """As in file names: `int4/64+` has zero points."""
        return f"{self.name}/{self.group_size}{'+' if self.asymmetric else ''}"

    @property
    def is_integer(self) -> bool:
        """Whether it multiplies rows of int8."""
        return self.group_size > 0 and self.name not in ("nf4", "mxfp4", "fp8")

    def nbytes(self, rows: int, columns: int) -> int:
        """Bytes of all its planes."""
        return part_sizes(self.name, rows, columns, self.group_size, self.asymmetric).total


@dataclass(frozen=True)
class ProbeShape:
    """A decoder of `blocks` equal blocks, whose vocabulary of 64 costs nothing."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    blocks: int

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of a block's matrices: query, key, value, output, gate, up, down."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        into = [(rows, self.hidden) for rows in (query, key, key)]
        wide = [(self.inner, self.hidden)] * 2
        return (*into, (self.hidden, query), *wide, (self.hidden, self.inner))

    @property
    def weights(self) -> int:
        """Elements of the matrices of all blocks."""
        return self.blocks * sum(rows * columns for rows, columns in self.matrices)

    def filling(self, nbytes: float, bytes_per_weight: float) -> ProbeShape:
        """With as many blocks as hold so many bytes, at least one."""
        one = replace(self, blocks=1).weights * bytes_per_weight
        return replace(self, blocks=max(1, round(nbytes / one)))


class Planes:
    """Memory for planes of constant bytes, in a row and in huge pages, as an artifact's are read into."""

    def __init__(self, nbytes: int) -> None:
        self.free = huge_memory(nbytes)

    def filled(self, nbytes: int, byte: int = CODE_BYTE) -> NDArray[np.uint8]:
        """The next plane, written so that it is there."""
        plane, self.free = self.free[:nbytes], self.free[nbytes + padding_after(nbytes) :]
        plane[:] = byte
        return plane


def constant_matrix(stored: Stored, rows: int, columns: int, planes: Planes) -> Matrix:
    """A matrix of one code."""
    sizes = part_sizes(stored.name, rows, columns, stored.group_size, stored.asymmetric)
    if sizes.scales == 0:  # floats
        return Matrix(stored.name, rows, columns, 0, planes.filled(sizes.codes, 0))

    def plane(size: int) -> NDArray[np.uint8] | None:
        return planes.filled(size) if size else None

    codes, scales = planes.filled(sizes.codes), planes.filled(sizes.scales).view(np.uint16)
    scales[:] = SMALL
    return Matrix(
        stored.name,
        rows,
        columns,
        stored.group_size,
        codes,
        scales,
        plane(sizes.residual),
        plane(sizes.high),
        plane(sizes.zeros),
        np.arange(-120, 120, 15).astype(np.int8) if sizes.table else None,
    )


def probe_model(
    shape: ProbeShape, stored: Stored, threads: int, isa: str, *, rows: int, kv: KvFormat = "int8"
) -> _core.Model:
    """The model, with a page for each of `rows` sequences. Raises MemoryError if it does not fit."""
    vocabulary = Stored("int8", 64)
    each = [(vocabulary, 64, shape.hidden)] + shape.blocks * [(stored, *size) for size in shape.matrices]
    planes = Planes(sum(kind.nbytes(*size) + MOST_PLANES * ALIGNMENT for kind, *size in each))
    small = constant_matrix(vocabulary, 64, shape.hidden, planes)
    model = _core.Model(
        isa=isa,
        threads=threads,
        vocab_size=64,
        hidden_size=shape.hidden,
        head_dim=shape.head_dim,
        max_positions=PAGE_TOKENS,
        norm_eps=1e-5,
        embedding_scale=1.0,
        logit_softcap=None,
        activation="silu",
        rotations=[(np.ones(shape.head_dim // 2).tolist(), 1.0)],
        embedding=small,
        head=small,
        final_norm=np.ones((2, shape.hidden), np.float32),
        blocks=[probe_block(shape, stored, kv, planes) for _ in range(shape.blocks)],
    )
    model.allocate(rows)
    return model


def probe_block(shape: ProbeShape, stored: Stored, kv: KvFormat, planes: Planes) -> _core.Block:
    """One decoder layer with matrices of its own."""
    hidden, inner = shape.hidden, shape.inner
    projections = [_core.Projection(constant_matrix(stored, *size, planes), None) for size in shape.matrices]
    norm = np.ones((2, hidden), np.float32)
    return _core.Block(
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        intermediate_size=inner,
        sliding_window=None,
        rotation=0,
        attention_scale=shape.head_dim**-0.5,
        attention_softcap=None,
        key_format=kv,
        value_format=kv,
        attention_norm=norm,
        feed_forward_norm=norm,
        post_attention_norm=None,
        post_feed_forward_norm=None,
        query_norm=None,
        key_norm=None,
        projections=projections[:4],
        feed_forwards=[projections[4:]],
        router=None,
        experts_per_token=0,
        normalize_experts=False,
    )


def step_of(model: _core.Model, rows: int, tokens: int = 1) -> Callable[[], None]:
    """A step of sequences of so many tokens each (at most a page), one of which wants its logits."""
    ids, none = np.zeros(tokens, np.int32), np.zeros(0, np.int32)
    sequences = [
        _core.Sequence(ids, 0, np.array([index], np.int32), none if index else ids[:1], "best", None)
        for index in range(rows // tokens)
    ]
    logits = np.empty((1, 64), np.float32)
    return lambda: model.step(sequences, logits)
