"""How threads share a step, as csrc/share.h, step.cpp and attention.cpp cut it: what the slowest does.

Times of a product measured on all threads are for work that is cut evenly; small products are not cut at all,
and a prompt's chunks may not come out even. Both are counted here, exactly as the core counts them.
"""

from __future__ import annotations

from typing import NamedTuple

WORTH_SHARING = 1 << 18  # multiply-adds
WORTH_SHARING_ATTENTION = 1 << 20
PIECES_OF_THREAD = 16
TILES_TOGETHER = 4
ROWS_PER_TILE = 16
ROWS_WORTH_CHUNKS = 48  # a thread
ROWS_OF_CHUNK = 36
MOST_ROWS_OF_CHUNK = 120
SPAN_TOKENS = 256
VECTORS_OF_TILE, MOST_ROWS_OF_TILE = 16, 8


class Share(NamedTuple):
    """part: of the work, what the busiest thread does. loops: 1 if threads met for it, else 0."""

    part: float
    loops: int


def share(count: int, work: int, multiple: int, threads: int) -> Share:
    """`count` pieces of `work` multiply-adds each, handed out in multiples: who does how much (share.h)."""
    if threads == 1 or count == 0:
        return Share(1.0, 0)
    least = max(count // (threads * PIECES_OF_THREAD), WORTH_SHARING // max(work, 1), 1)
    piece = -(-least // multiple) * multiple
    most = count // threads * 3 // 4 // multiple * multiple
    first = most if most > 2 * piece else 0
    rest = count - first * threads
    pieces = -(-rest // piece)
    if first == 0 and pieces <= 1:
        return Share(1.0, 0)
    rounds = -(-pieces // threads)
    longest = first + min(rounds * piece, rest - (rounds - 1) * piece * (threads - 1))
    return Share(max(longest / count, 1 / threads), 1)


def tiles(rows: int) -> int:
    """Row tiles of a matrix."""
    return -(-rows // ROWS_PER_TILE)


def in_chunks(rows: int, threads: int) -> bool:
    """Whether a step of so many rows gives each thread chunks of them."""
    return rows >= ROWS_WORTH_CHUNKS * threads


def longest_rows(rows: int, threads: int) -> int:
    """Rows that the busiest thread runs of a step in chunks (one sequence, or many of one row)."""
    wanted = min(max(rows // ROWS_OF_CHUNK, threads), 4 * threads)
    most = min(MOST_ROWS_OF_CHUNK, -(-rows // wanted))
    chunks = -(-rows // most)
    rounds = -(-chunks // threads)
    alone = chunks - (rounds - 1) * threads == 1  # the last round has one chunk, which may be a short one
    return (rounds - 1) * most + (rows - (chunks - 1) * most if alone else most)


def rows_of_tile(num_heads: int, num_kv_heads: int) -> int:
    """Consecutive tokens whose attention is computed together."""
    return min(max(VECTORS_OF_TILE * num_kv_heads // num_heads, 1), MOST_ROWS_OF_TILE)


def shares_attention(spans: int, queries: int, head_dim: int, threads: int) -> bool:
    """Whether threads share the attention of a step of few rows with so many spans over all its tiles."""
    span_work = 2 * SPAN_TOKENS * queries * head_dim
    return threads > 1 and spans > max(WORTH_SHARING_ATTENTION // span_work, 1)
