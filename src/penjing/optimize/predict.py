"""How fast a model would be served on this machine, and in how much memory, before it is made.

Everything follows from shapes, formats and the table of measured costs (measure/cost_table.py). What memory
sets is as fast as memory was when the table was measured; on a machine whose memory is fast at one moment and
slow at the next, hand in what a probe says now (`measure.machine.measure_read_bandwidth`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from penjing.artifact import Artifact, ModelConfig, expected_tensors
from penjing.artifact.layout import padding_after
from penjing.engine.pages import pages_for
from penjing.engine.step import PAGE_TOKENS
from penjing.measure.cost import kv_bytes_per_token
from penjing.measure.cost_table import CostTable
from penjing.measure.probe_model import Stored
from penjing.measure.step_cost import product
from penjing.measure.step_time import Load, StepTimer, stored_formats
from penjing.optimize.host_times import host_times
from penjing.optimize.reference import cache_directory
from penjing.spec import FloatFormat, KvFormats, Spec, Tier, WeightFormat

STEP_TOKENS = 512  # of a prompt in a step: the engine's own default
FLOAT_BYTES = 4
AWAKE_SECONDS = 4e-5  # that threads wait for work before they sleep, about (csrc/threads.cpp)


class Predicted(Spec):
    """One model, one load. prefill_seconds: from a prompt's submission to its first token, alone.
    decode_seconds_per_token: between a stream's tokens, when `streams` decode at `context_tokens`.
    tokens_per_second: of all of them together. peak_memory_bytes: of a process that serves this load.
    tensor_bytes: of the matrices and vectors that the tier reads. decode_parts: where a step's time goes."""

    threads: int
    context_tokens: int
    prompt_tokens: int
    streams: int
    prefill_seconds: float
    decode_seconds_per_token: float
    tokens_per_second: float
    peak_memory_bytes: int
    tensor_bytes: int
    decode_parts: dict[str, float]

    @property
    def prefill_tokens_per_second(self) -> float:
        """Of one prompt alone."""
        return self.prompt_tokens / self.prefill_seconds


def cost_table(threads: int | None = None, isa: str | None = None) -> CostTable:
    """This machine's table in the user's cache."""
    return CostTable.open(cache_directory() / "costs", threads, isa)


def predict(
    config: ModelConfig,
    formats: Mapping[str, WeightFormat],
    kv: KvFormats | None,
    table: CostTable,
    *,
    context: int = 512,
    prompt: int = 256,
    streams: int = 1,
    own: Mapping[str, FloatFormat] | None = None,
    tier: Tier = "best",
    read_bytes_per_second: float | None = None,
) -> Predicted:
    """Latency, throughput and memory of serving, from the table; what it lacks is measured now.

    formats: of every matrix by canonical name (`quantize.assignment.assign_formats`). kv: None for the
    configuration's own. context: positions that a decoding stream has before it. own: the checkpoint's dtypes
    of matrices that keep theirs (default bf16). read_bytes_per_second: of memory now; None: as when measured.
    """
    stored = stored_formats(config, formats, own, tier)
    timer = StepTimer(config, stored, kv, table, read_bytes_per_second)
    parts = decode_parts(timer, Load(streams, 1, context))
    decode = sum(parts.values())
    tensor_bytes = bytes_of_tensors(config, stored)
    working = working_bytes(config, kv, max(context, prompt), min(prompt, STEP_TOKENS), streams)
    return Predicted(
        threads=table.key.threads,
        context_tokens=context,
        prompt_tokens=prompt,
        streams=streams,
        prefill_seconds=prefill_seconds(timer, prompt),
        decode_seconds_per_token=decode,
        tokens_per_second=streams / decode,
        peak_memory_bytes=host_times(table).process_bytes + tensor_bytes + working,
        tensor_bytes=tensor_bytes,
        decode_parts=parts,
    )


def decode_parts(timer: StepTimer, load: Load) -> dict[str, float]:
    """Seconds of a step of the engine, its own work (`host`) included."""
    host = host_times(timer.table)
    parts = timer.parts(load)
    each = host.stream_seconds * (load.sequences - 1)
    each += host.logit_seconds * timer.config.vocab_size * load.sequences
    between = host.step_seconds + each
    parts["host"] = between + waking_seconds(timer, load, between)
    return parts


def prefill_seconds(timer: StepTimer, prompt: int) -> float:
    """From a prompt's submission to its first token."""
    host = host_times(timer.table)
    loads = [Load(1, min(STEP_TOKENS, prompt - first), first) for first in range(0, prompt, STEP_TOKENS)]
    total = host.prompt_seconds * prompt + host.logit_seconds * timer.config.vocab_size
    return total + sum(
        timer.seconds(load) + host.step_seconds + waking_seconds(timer, load, math.inf) for load in loads
    )


def waking_seconds(timer: StepTimer, load: Load, between: float) -> float:
    """Of threads that went to sleep while the engine worked between steps for so many seconds."""
    sleep = between > AWAKE_SECONDS and timer.meets(load)
    return timer.table.rows.wake_seconds if sleep else 0.0


def predict_artifact(
    artifact: str | Path | Artifact,
    table: CostTable,
    *,
    context: int = 512,
    prompt: int = 256,
    streams: int = 1,
    tier: Tier | None = None,
    read_bytes_per_second: float | None = None,
) -> Predicted:
    """The same of an artifact as it stands, at its best tier by default. Raises ArtifactError."""
    opened = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact, verify="none")
    formats, own = formats_of(opened)
    return predict(
        opened.config,
        formats,
        None,
        table,
        context=context,
        prompt=prompt,
        streams=streams,
        own=own,
        tier=tier or opened.tiers[-1],
        read_bytes_per_second=read_bytes_per_second,
    )


def formats_of(artifact: Artifact) -> tuple[dict[str, WeightFormat], dict[str, FloatFormat]]:
    """Of every matrix its format, and the dtype of those that keep theirs."""
    formats: dict[str, WeightFormat] = {}
    own: dict[str, FloatFormat] = {}
    for name, role in expected_tensors(artifact.config).items():
        if not role.is_matrix:
            continue
        entry = artifact.entry(name)
        if entry.format in ("fp32", "fp16", "bf16"):
            formats[name] = WeightFormat(name="keep")
            own[name] = entry.format
        else:
            asked = {"name": entry.format, "group_size": entry.group_size}
            formats[name] = WeightFormat.model_validate(asked | {"asymmetric": "zeros" in entry.parts})
    return formats, own


def seconds_of(
    shapes: tuple[tuple[int, int], ...],
    format: WeightFormat,
    table: CostTable,
    *,
    rows: int = 1,
    own: FloatFormat = "bf16",
    step_bytes: int | None = None,
    read_bytes_per_second: float | None = None,
) -> float:
    """Seconds of the products of fused matrices ([outputs, inputs] each, the same inputs) with so many rows:
    what a choice among formats costs a step.

    step_bytes: what a step of the whole model reads, which decides whether weights stay in the caches; None
    for so much that all come from memory.
    """
    stored = Stored(own, 0) if format.name == "keep" else Stored(*stored_name(format))
    found = product(sum(shape[0] for shape in shapes), shapes[0][1], rows, table.key.threads)
    times = table.product(stored)
    coldness = 1.0 if step_bytes is None else table.memory.coldness_of(step_bytes)
    each = times.seconds_per_weight(rows, table.key.threads, coldness, read_bytes_per_second)
    return each * found.busy(rows, table.key.threads)


def stored_name(format: WeightFormat) -> tuple[str, int, bool]:
    """The fields of `Stored`."""
    return format.name, format.group_size, format.asymmetric


def bytes_of_tensors(config: ModelConfig, stored: Mapping[str, Stored]) -> int:
    """Of all tensors, padding included."""
    total = 0
    for name, role in expected_tensors(config).items():
        size = FLOAT_BYTES * math.prod(role.shape)
        if role.is_matrix:
            size = stored[name].nbytes(role.shape[0], role.shape[1])
        total += size + padding_after(size)
    return total


def working_bytes(
    config: ModelConfig, kv: KvFormats | None, positions: int, step_rows: int, streams: int
) -> int:
    """Keys and values of all streams in whole pages, rows of a step, rows of logits."""
    asked = {} if kv is None else {"key_format": kv.key, "value_format": kv.value}
    each = sum(kv_bytes_per_token(config, block.model_copy(update=asked)) for block in config.blocks)
    widest = max(block.intermediate_size + block.num_heads * config.head_dim for block in config.blocks)
    rows = FLOAT_BYTES * max(step_rows, streams) * (4 * config.hidden_size + 3 * widest)
    logits = FLOAT_BYTES * streams * config.vocab_size
    return streams * (pages_for(positions) + 1) * PAGE_TOKENS * each + rows + logits
