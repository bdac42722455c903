"""Seconds of a step of any model in any formats, put together from the table of measured costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from penjing.artifact.config import BlockConfig, ModelConfig, expected_tensors
from penjing.measure.cost import kv_bytes_per_token
from penjing.measure.cost_table import CostTable
from penjing.measure.probe_model import Stored
from penjing.measure.sharing import SPAN_TOKENS, in_chunks, longest_rows, share, shares_attention, tiles
from penjing.measure.step_cost import (
    Product,
    Widths,
    attention_products,
    feed_forward_products,
    product,
    rest_of_block,
    rest_of_step,
)
from penjing.spec import FloatFormat, KvFormats, Tier, WeightFormat

ATTENTION_POINTS = 8  # at which the attention of a prompt's chunk is sampled
FEED_FORWARD = ("gate", "up", "down")


@dataclass(frozen=True)
class Load:
    """What a step runs: `sequences` of `tokens` each, which begin at position `first` of their own."""

    sequences: int
    tokens: int
    first: int

    @property
    def rows(self) -> int:
        """Of the step."""
        return self.sequences * self.tokens


def stored_formats(
    config: ModelConfig,
    formats: Mapping[str, WeightFormat],
    own: Mapping[str, FloatFormat] | None = None,
    tier: Tier = "best",
) -> dict[str, Stored]:
    """How each matrix is stored, by canonical name. own: the checkpoint's format of one that keeps it, bf16
    for those that are not named. At the fast tier a layered matrix is its int4 plane."""
    found = {}
    for name, role in expected_tensors(config).items():
        if not role.is_matrix:
            continue
        format = WeightFormat(name="keep") if role.keeps_dtype else formats[name]
        if format.name == "keep":
            found[name] = Stored((own or {}).get(name, "bf16"), 0)
        else:
            plane = "int4" if format.name == "layered" and tier == "fast" else format.name
            found[name] = Stored(plane, format.group_size, format.asymmetric)
    return found


@dataclass(frozen=True)
class StepTimer:
    """One model on one machine. read_bytes_per_second: of memory now, None for as it was when measured."""

    config: ModelConfig
    stored: Mapping[str, Stored]
    kv: KvFormats | None
    table: CostTable
    read_bytes_per_second: float | None = None

    def parts(self, load: Load) -> dict[str, float]:
        """Seconds of products (by group: `query+key+value`, `output`, `gate+up`, `down`, `head`), of
        `attention`, and of the `rest`. The last token of each sequence wants its logits."""
        found: defaultdict[str, float] = defaultdict(float)
        coldness = self.table.memory.coldness_of(self.bytes_read(load))
        for index, block in enumerate(self.config.blocks):
            for name, seconds in self.block_parts(index, block, load, coldness).items():
                found[name] += seconds
        config, rows, threads = self.config, self.table.rows, self.table.key.threads
        head = product(config.vocab_size, config.hidden_size, load.sequences, threads)
        found["head"] = self.product_seconds(
            "embedding" if config.tied_head else "head", head, load.sequences, coldness
        )
        found["rest"] += rest_of_step(config.hidden_size, load.rows, load.sequences, rows, threads)
        return dict(found)

    def seconds(self, load: Load) -> float:
        """Of the whole step."""
        return sum(self.parts(load).values())

    def meets(self, load: Load) -> bool:
        """Whether threads meet for anything in the step; if not, they may sleep on."""
        if in_chunks(load.rows, self.table.key.threads):
            return self.table.key.threads > 1
        widths = widths_of(self.config, self.config.blocks[0])
        hidden, vocabulary = self.config.hidden_size, self.config.vocab_size
        found = feed_forward_products(widths, load.rows, self.table.key.threads)
        found["head"] = product(vocabulary, hidden, load.sequences, self.table.key.threads)
        return any(part.share.loops for part in found.values())

    def block_parts(self, index: int, block: BlockConfig, load: Load, coldness: float) -> dict[str, float]:
        """Of one decoder layer."""
        threads, rows = self.table.key.threads, load.rows
        widths = widths_of(self.config, block)
        prefix = f"blocks.{index}."
        first = self.stored[f"{prefix}query"]
        seconds = {
            name: self.product_seconds(prefix + name.partition("+")[0], found, rows, coldness)
            for name, found in attention_products(widths, rows, threads).items()
        }
        seconds["attention"] = self.attention_seconds(block, load, coldness)
        if block.feed_forward == "dense":
            for name, found in feed_forward_products(widths, rows, threads).items():
                matrix = prefix + name.partition("+")[0]
                seconds[name] = self.product_seconds(matrix, found, rows, coldness)
            seconds["rest"] = rest_of_block(
                widths, rows, self.table.rows, threads, first.is_integer, is_prompt=load.tokens > 1
            )
            if self.config.qk_norm:
                each = (widths.query + widths.key) * self.table.rows.norm
                seconds["rest"] += each * rows / threads
        else:
            seconds |= self.expert_seconds(prefix, block, widths, rows, coldness)
        return seconds

    def product_seconds(self, matrix: str, found: Product, rows: int, coldness: float) -> float:
        """Of the product of fused matrices, the first of which is named."""
        times = self.table.product(self.stored[matrix])
        threads = self.table.key.threads
        each = times.seconds_per_weight(rows, threads, coldness, self.read_bytes_per_second)
        return each * found.busy(rows, threads)

    def expert_seconds(
        self, prefix: str, block: BlockConfig, widths: Widths, rows: int, coldness: float
    ) -> dict[str, float]:
        """A feed-forward of experts, each as likely as the next: those in use run their rows together."""
        threads = self.table.key.threads
        used, each = experts_in_use(block, rows)
        seconds = {}
        for name, found in feed_forward_products(widths, each, threads).items():
            matrix = f"{prefix}experts.0.{name.partition('+')[0]}"
            times = self.table.product(self.stored[matrix])
            few = min(each, 48 * threads - 1)  # chunks are for dense blocks
            weight = times.seconds_per_weight(few, threads, coldness, self.read_bytes_per_second)
            part = share(tiles(found.weights // widths.hidden) * round(used), 1 << 18, 4, threads).part
            seconds[name] = weight * each / few * used * found.weights * part * threads
        copies = Widths(widths.hidden, widths.query, widths.key, block.experts_per_token * widths.inner)
        seconds["rest"] = rest_of_block(copies, rows, self.table.rows, threads)
        return seconds

    def attention_seconds(self, block: BlockConfig, load: Load, coldness: float) -> float:
        """Keys and values written and attended to."""
        kv = self.kv or KvFormats(key=block.key_format, value=block.value_format)
        head_dim, threads = self.config.head_dim, self.table.key.threads
        pair = self.table.attention(kv, block.num_heads, block.num_kv_heads, head_dim)
        one_by_one = load.tokens == 1
        times = pair.one if one_by_one else pair.tile
        step = load.tokens / ATTENTION_POINTS
        ends = [load.first + step * (point + 0.5) for point in range(ATTENTION_POINTS)]
        if one_by_one:
            ends = [load.first + 1.0]
        seen = [min(end, block.sliding_window or end) for end in ends]
        mean = sum(times.seconds(positions) for positions in seen) / len(seen)
        num_tiles = load.sequences * block.num_kv_heads * math.ceil(load.tokens / times.rows)
        spans = num_tiles * math.ceil(sum(seen) / len(seen) / SPAN_TOKENS)
        work = num_tiles * mean + load.rows * block.num_kv_heads * pair.one.write_seconds
        if in_chunks(load.rows, threads):
            work *= longest_rows(load.rows, threads) / load.rows
        elif shares_attention(spans, block.num_heads // block.num_kv_heads, head_dim, threads):
            work = work / threads + self.table.rows.loop_seconds
        return max(work, coldness * self.kv_bytes_read(block, load) / self.bandwidth)

    @property
    def bandwidth(self) -> float:
        """Bytes a second from memory: as given, or as when the first product was measured."""
        if self.read_bytes_per_second is not None:
            return self.read_bytes_per_second
        return self.table.product(self.stored["embedding"]).read_bytes_per_second

    def kv_bytes_read(self, block: BlockConfig, load: Load) -> int:
        """Of a block's cache in a step of tokens one by one; a prompt's are read from the caches."""
        if load.tokens > 1:
            return 0
        in_cache = block
        if self.kv is not None:
            in_cache = block.model_copy(update={"key_format": self.kv.key, "value_format": self.kv.value})
        seen = min(load.first + 1, block.sliding_window or load.first + 1)
        return load.sequences * seen * kv_bytes_per_token(self.config, in_cache)

    def bytes_read(self, load: Load) -> float:
        """What a step reads of weights, keys and values: whether that fits the caches decides their speed."""
        total = 0.0
        for name, role in expected_tensors(self.config).items():
            if not role.is_matrix or (name == "embedding" and not self.config.tied_head):
                continue
            part = 1.0
            if ".experts." in name:
                block = self.config.blocks[int(name.split(".")[1])]
                part = experts_in_use(block, load.rows)[0] / block.num_experts
            total += part * self.stored[name].nbytes(role.shape[0], role.shape[1])
        return total + sum(self.kv_bytes_read(block, load) for block in self.config.blocks)


def widths_of(config: ModelConfig, block: BlockConfig) -> Widths:
    """Of one decoder layer."""
    query, key = block.num_heads * config.head_dim, block.num_kv_heads * config.head_dim
    return Widths(config.hidden_size, query, key, block.intermediate_size)


def experts_in_use(block: BlockConfig, rows: int) -> tuple[float, int]:
    """How many experts a step of so many rows asks, and rows of each, if all are equally likely."""
    idle = (1 - block.experts_per_token / block.num_experts) ** rows
    used = max(block.num_experts * (1 - idle), 1.0)
    return used, max(1, round(rows * block.experts_per_token / used))
