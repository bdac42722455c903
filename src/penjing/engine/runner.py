"""The runner for this machine's processors: hands weights and steps to the compiled core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.config import BlockConfig, ModelConfig, block_tensors
from penjing.artifact.rope import inverse_frequencies
from penjing.engine.memory import affordable_pages
from penjing.engine.step import StepSequence
from penjing.errors import CapacityError, EngineError
from penjing.formats import Encoded
from penjing.kernels import Matrix, _core, default_isa
from penjing.measure.machine import usable_cores
from penjing.spec import TIERS, Tier

ATTENTION = ("query", "key", "value", "output")
FEED_FORWARD = ("gate", "up", "down")


class WeightSource(Protocol):
    """What a runner needs of an artifact: tensors by canonical name (see artifact/config.py)."""

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""

    def matrix(self, name: str) -> Encoded:
        """A matrix in tile order."""

    def vector(self, name: str, tier: Tier) -> NDArray[np.float32]:
        """A vector as `tier` reads it, float32."""


class CpuRunner:
    """Implements `step.Runner` in the compiled core.

    threads: of one step, this one included; by default as many as the affinity mask and the control group
    allow. isa: see `kernels.available_isas`. Weights are not copied, and arrays are kept alive. The lock
    on Python is released while a step computes; one step runs at a time.
    Raises EngineError for a thread count or an instruction set that cannot be, UnsupportedConfigError for a
    rotary embedding outside rope.py, ValueError for weights that do not fit the configuration.
    """

    def __init__(self, artifact: WeightSource, *, threads: int | None = None, isa: str | None = None) -> None:
        self.threads = usable_cores() if threads is None else threads
        self.isa = default_isa() if isa is None else isa
        if self.threads < 1:
            raise EngineError(f"threads must be at least 1, not {threads}")
        if self.isa not in _core.available_kernels():
            choices = ", ".join(_core.available_kernels())
            raise EngineError(f"instruction set {isa} cannot run on this processor; choose among {choices}")
        self._vocab_size = artifact.config.vocab_size
        self._model = load_model(artifact, self.threads, self.isa)

    @property
    def capacity(self) -> int:
        """Pages that fit a quarter of the available memory."""
        return affordable_pages(self.kv_bytes_per_page)

    @property
    def num_pages(self) -> int:
        """Pages allocated; ids are 0 .. num_pages - 1."""
        return self._model.num_pages

    @property
    def kv_bytes_per_page(self) -> int:
        """Bytes of one page over all blocks, padding included."""
        return self._model.bytes_per_page

    def allocate(self, num_pages: int) -> None:
        """Allocate (or re-allocate) the KV memory; everything cached is lost.

        Memory is spent as pages are first written. Raises CapacityError if the system refuses it, and then
        there are no pages; ValueError for a negative number.
        """
        try:
            self._model.allocate(num_pages)
        except MemoryError:
            raise CapacityError(
                f"{num_pages} KV pages of {self.kv_bytes_per_page} bytes cannot be allocated; ask for fewer"
            ) from None

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole pages, (source, target) each, in order. Raises ValueError for an unknown page."""
        for source, target in pairs:
            self._model.copy_page(source, target)

    def step(
        self, sequences: Sequence[StepSequence], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Run one step: logits float32 [sum of wanted, vocab_size], in the order of sequences and wanted.

        out: an array of that shape to write to and return; None makes a new one. Large new ones cost a page
        fault for every 4 KiB, so that who runs many steps brings one along.
        If the model produces NaN or Inf for a sequence, in any hidden state or wanted logit, all its rows are
        NaN and the other sequences are as they would be without it. Raises EngineError for an adapter, and
        ValueError for anything out of range, before anything is written: no tokens, tokens outside the
        vocabulary, positions outside the context, pages that are unknown, too few or written by another
        sequence of this step, wanted rows that do not ascend.
        """
        num_wanted = sum(len(sequence.wanted) for sequence in sequences)
        logits = np.empty((num_wanted, self._vocab_size), np.float32) if out is None else out
        self._model.step([check_types(sequence) for sequence in sequences], logits)
        return logits


def check_types(sequence: StepSequence) -> _core.Sequence:
    """The sequence as the core takes it, which looks at values. ValueError for other types or dimensions."""
    if sequence.adapter != 0:
        raise EngineError(f"adapter {sequence.adapter} is unknown: this runner has no adapters; use 0")
    for name in ("tokens", "pages", "wanted"):
        array = getattr(sequence, name)
        if not isinstance(array, np.ndarray) or array.dtype != np.int32 or array.ndim != 1:
            raise ValueError(f"{name} of a step must be a one-dimensional int32 array, not {array!r:.80}")
    allowed = sequence.allowed
    if allowed is not None:
        if not isinstance(allowed, np.ndarray) or allowed.dtype != np.bool_ or allowed.ndim != 1:
            raise ValueError("allowed must be None or a one-dimensional bool array")
        allowed = np.ascontiguousarray(allowed)
    return _core.Sequence(
        np.ascontiguousarray(sequence.tokens),
        sequence.first_position,
        np.ascontiguousarray(sequence.pages),
        np.ascontiguousarray(sequence.wanted),
        sequence.tier,
        allowed,
    )


def load_model(source: WeightSource, threads: int, isa: str) -> _core.Model:
    """Wire an artifact's tensors into the core."""
    config = source.config
    rotations = [inverse_frequencies(rope, config.head_dim) for rope in config.ropes]
    embedding = load_matrix(source, "embedding")
    return _core.Model(
        isa=isa,
        threads=threads,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        head_dim=config.head_dim,
        max_positions=config.max_positions,
        norm_eps=config.norm_eps,
        embedding_scale=config.embedding_scale,
        logit_softcap=config.logit_softcap,
        activation=config.activation,
        rotations=[(frequencies.tolist(), factor) for frequencies, factor in rotations],
        embedding=embedding,
        head=embedding if config.tied_head else load_matrix(source, "head"),
        final_norm=load_norm(source, "final_norm"),
        blocks=[load_block(source, index, block) for index, block in enumerate(config.blocks)],
    )


def load_block(source: WeightSource, index: int, block: BlockConfig) -> _core.Block:
    """One decoder layer; which tensors it has is a matter of the configuration."""
    config, prefix = source.config, f"blocks.{index}."
    present = block_tensors(config, block)
    experts = [f"experts.{expert}." for expert in range(block.num_experts)]

    def optional_norm(name: str) -> NDArray[np.float32] | None:
        return load_norm(source, prefix + name) if name in present else None

    def projection(name: str) -> _core.Projection:
        bias = load_vector(source, f"{prefix}{name}_bias") if f"{name}_bias" in present else None
        return _core.Projection(load_matrix(source, prefix + name), bias)

    return _core.Block(
        num_heads=block.num_heads,
        num_kv_heads=block.num_kv_heads,
        intermediate_size=block.intermediate_size,
        sliding_window=block.sliding_window,
        rotation=config.rope_index(block),
        attention_scale=1.0 / math.sqrt(config.attention_scalar or config.head_dim),
        attention_softcap=config.attention_softcap,
        key_format=block.key_format,
        value_format=block.value_format,
        attention_norm=load_norm(source, prefix + "attention_norm"),
        feed_forward_norm=load_norm(source, prefix + "feed_forward_norm"),
        post_attention_norm=optional_norm("post_attention_norm"),
        post_feed_forward_norm=optional_norm("post_feed_forward_norm"),
        query_norm=optional_norm("query_norm"),
        key_norm=optional_norm("key_norm"),
        projections=[projection(name) for name in ATTENTION],
        feed_forwards=[[projection(expert + name) for name in FEED_FORWARD] for expert in experts or [""]],
        router=projection("router") if experts else None,
        experts_per_token=block.experts_per_token,
        normalize_experts=block.normalize_experts,
    )


def load_matrix(source: WeightSource, name: str) -> Matrix:
    """A view for the kernels; ValueError for lengths that do not fit the shape."""
    encoded = source.matrix(name)
    return Matrix(
        encoded.format,
        encoded.rows,
        encoded.columns,
        encoded.group_size,
        encoded.codes,
        encoded.scales,
        encoded.residual,
        encoded.high,
        encoded.zeros,
        encoded.table,
    )


def load_vector(source: WeightSource, name: str) -> NDArray[np.float32]:
    """A norm or bias at both tiers, as the core reads it: float32 [2, length], fast first."""
    return np.stack([source.vector(name, tier) for tier in TIERS], dtype=np.float32)


def load_norm(source: WeightSource, name: str) -> NDArray[np.float32]:
    """A norm's weights as they multiply: what is stored, and the family's offset."""
    return load_vector(source, name) + np.float32(source.config.norm_offset)
