"""A step in parts, as csrc/step.cpp runs it: products as shares of threads, the row-wise rest in seconds."""

from __future__ import annotations

from typing import NamedTuple

from penjing.measure.probe_model import ProbeShape
from penjing.measure.sharing import (
    ROWS_PER_TILE,
    TILES_TOGETHER,
    Share,
    in_chunks,
    longest_rows,
    share,
    tiles,
)
from penjing.measure.times import RowTimes

QUANTIZED_PIECE = 128  # columns
WORK_OF_FLOAT = 8  # multiply-adds that a float of row-wise work counts for


class Widths(NamedTuple):
    """Of a block: hidden elements, those of all query heads and of all key heads, and of the feed-forward."""

    hidden: int
    query: int
    key: int
    inner: int


class Product(NamedTuple):
    """Matrices computed together: their weights, and how threads share their rows."""

    weights: int
    share: Share

    def busy(self, rows: int, threads: int) -> float:
        """What to multiply seconds a weight (`times.ProductTimes`) by: weights, as if shared evenly, or in
        chunks weights times the rows of the busiest thread."""
        if in_chunks(rows, threads):
            return self.weights * longest_rows(rows, threads)
        return self.weights * self.share.part * threads


def product(rows_of_matrices: int, columns: int, rows: int, threads: int, at_once: int = 1) -> Product:
    """at_once: matrices whose tiles are computed side by side (gate and up)."""
    work = at_once * ROWS_PER_TILE * columns * rows
    shared = share(tiles(rows_of_matrices // at_once), work, TILES_TOGETHER, threads)
    return Product(rows_of_matrices * columns, shared)


def attention_products(widths: Widths, rows: int, threads: int) -> dict[str, Product]:
    """Of the projections around attention."""
    return {
        "query+key+value": product(widths.query + 2 * widths.key, widths.hidden, rows, threads),
        "output": product(widths.hidden, widths.query, rows, threads),
    }


def feed_forward_products(widths: Widths, rows: int, threads: int) -> dict[str, Product]:
    """Of a dense feed-forward."""
    return {
        "gate+up": product(2 * widths.inner, widths.hidden, rows, threads, at_once=2),
        "down": product(widths.hidden, widths.inner, rows, threads),
    }


def rest_of_block(
    widths: Widths,
    rows: int,
    times: RowTimes,
    threads: int,
    quantizes: bool = True,
    *,
    is_prompt: bool = False,
) -> float:
    """Seconds of a block outside products and attention: norms, rotation, quantization, gating, meeting.

    is_prompt: whether rows are successive tokens, and not each of another sequence.
    """
    hidden, query, key, inner = widths
    quantize = times.quantize if quantizes else 0.0
    parts = [  # floats of a row, seconds a float, and whether shared by columns
        (hidden, times.norm, False),
        (hidden, quantize, True),
        (query + 2 * key, times.rotate, False),
        (query, quantize, True),
        (hidden, times.norm, False),
        (hidden, quantize, True),
        (inner, times.gate, True),
        (inner, quantize, True),
    ]
    if in_chunks(rows, threads):
        each = sum(floats * seconds for floats, seconds, _ in parts) + times.block_row_seconds
        return times.block_seconds + 2 * times.loop_seconds + longest_rows(rows, threads) * each
    total = times.block_seconds + (rows - 1) * times.block_row_seconds
    for floats, seconds, by_columns in parts:
        shared = row_share(floats, rows, threads, by_columns)
        total += rows * floats * seconds * shared.part + shared.loops * times.loop_seconds
    shares = attention_products(widths, rows, threads) | feed_forward_products(widths, rows, threads)
    loops = sum(found.share.loops for found in shares.values())
    exchanged = rows * exchanged_floats(widths) * loops / len(shares)
    return total + times.loop_seconds * loops + times.exchange_of(hidden, is_prompt) * exchanged


def exchanged_floats(widths: Widths) -> int:
    """Floats of a row that threads hand to each other in a block."""
    return 4 * widths.hidden + 2 * (widths.query + widths.key) + 3 * widths.inner


def row_share(floats: int, rows: int, threads: int, by_columns: bool) -> Share:
    """How threads share row-wise work."""
    if by_columns:
        return share(-(-floats // QUANTIZED_PIECE), WORK_OF_FLOAT * QUANTIZED_PIECE * rows, 1, threads)
    return share(rows, WORK_OF_FLOAT * floats, 1, threads)


def rest_of_step(hidden: int, rows: int, wanted: int, times: RowTimes, threads: int) -> float:
    """Seconds of a step outside its blocks and the head's product: beginning, embedding, last norm."""
    each = 3 * hidden * times.norm / min(threads, max(rows, 1))
    total = times.step_seconds + (rows - 1) * times.step_row_seconds + rows * each
    return total + wanted * hidden * (times.norm + times.quantize)


def widths_of(shape: ProbeShape) -> Widths:
    """Of a probe's blocks."""
    key = shape.kv_heads * shape.head_dim
    return Widths(shape.hidden, shape.heads * shape.head_dim, key, shape.inner)


def probe_products(shape: ProbeShape, rows: int, threads: int) -> float:
    """What seconds a weight are multiplied by in a probe's step."""
    widths = widths_of(shape)
    found = attention_products(widths, rows, threads) | feed_forward_products(widths, rows, threads)
    return shape.blocks * sum(part.busy(rows, threads) for part in found.values())


def probe_loops(shape: ProbeShape, rows: int, threads: int) -> int:
    """How often threads meet for a probe's products, at least once."""
    widths = widths_of(shape)
    found = attention_products(widths, rows, threads) | feed_forward_products(widths, rows, threads)
    return max(1, shape.blocks * sum(part.share.loops for part in found.values()))


def probe_rest(shape: ProbeShape, rows: int, times: RowTimes, threads: int, quantizes: bool = True) -> float:
    """Seconds of a probe's step outside products; its attention is that of tokens that see themselves."""
    block = rest_of_block(widths_of(shape), rows, times, threads, quantizes)
    attention = rows * shape.kv_heads * times.tile_seconds
    if in_chunks(rows, threads):
        attention = longest_rows(rows, threads) * shape.kv_heads * times.tile_seconds
    step = rest_of_step(shape.hidden, rows, 1, times, threads)
    return step + shape.blocks * (block + attention)
