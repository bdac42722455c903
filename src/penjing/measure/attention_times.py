"""Seconds of attention over keys and values that are cached in some format, by its kernel, on one thread."""

from __future__ import annotations

import numpy as np

from penjing.kernels import _core
from penjing.measure.sharing import rows_of_tile
from penjing.measure.stopwatch import best_seconds, less
from penjing.measure.times import AttentionPair, AttentionTimes
from penjing.spec import KvFormats

SPANS = (256, 2048)  # positions of the two contexts between which attention is interpolated


def measure_attentions(
    kv: KvFormats, num_heads: int, num_kv_heads: int, head_dim: int, isa: str
) -> AttentionPair:
    """Of one token, and of as many of a prompt as are computed together."""
    queries, rows = num_heads // num_kv_heads, rows_of_tile(num_heads, num_kv_heads)
    one, tile = (
        measure_attention(kv, queries=queries, head_dim=head_dim, rows=count, isa=isa) for count in (1, rows)
    )
    return AttentionPair(one=one, tile=tile)


def measure_attention(kv: KvFormats, *, queries: int, head_dim: int, rows: int, isa: str) -> AttentionTimes:
    """One KV head, read from the caches by one thread: a tile of `rows` tokens, by its positions."""
    rng = np.random.default_rng(0)
    most = SPANS[-1]
    keys, values = rng.standard_normal((2, most, 1, head_dim), np.float32)
    pages = np.arange(most // 32, dtype=np.int32)
    cache = _core.Attention(keys, values, kv.key, kv.value, pages, isa)
    query = rng.standard_normal((rows, 1, queries, head_dim), np.float32)
    out = np.empty_like(query)

    def at(positions: int) -> float:
        first = positions - rows
        return best_seconds(lambda: cache.attend(query, first, 0, head_dim**-0.5, 0.0, rows, False, out))

    call = call_seconds(isa)
    nearest, short, long = (less(at(positions), call) for positions in (max(rows, 8), *SPANS))
    each = max(long - short, 0.0) / (SPANS[1] - SPANS[0])
    page = rng.standard_normal((32, 1, head_dim), np.float32)
    writing = sum(
        best_seconds(lambda f=name, k=is_key: _core.written_page(page, f, k, isa))  # type: ignore[misc]
        for name, is_key in ((kv.key, True), (kv.value, False))
    )
    return AttentionTimes(
        rows=rows,
        tile_seconds=min(nearest, short),
        span_seconds=max(short, each * SPANS[0]),
        position_seconds=each,
        write_seconds=writing / 32,
    )


def call_seconds(isa: str) -> float:
    """What a call from Python costs around the least of attentions."""
    least = np.zeros((32, 1, 16), np.float32)
    cache = _core.Attention(least, least, "fp32", "fp32", np.zeros(1, np.int32), isa)
    query = np.zeros((1, 1, 1, 16), np.float32)
    out = np.empty_like(query)
    return best_seconds(lambda: cache.attend(query, 0, 0, 1.0, 0.0, 1, False, out))
