"""One body for two libraries: grid functions call only what numpy and torch spell and round alike."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any  # a numpy array or a torch tensor; a function returns the kind that it was given


def namespace(array: Array) -> Any:
    """The module, numpy or torch, whose functions apply to `array`. Never imports torch itself."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(array, torch.Tensor) else np


def round_to_half(array: Array) -> Array:
    """Float32 values rounded to the nearest float16 (ties to even), still held as float32."""
    xp = namespace(array)
    return xp.asarray(xp.asarray(array, dtype=xp.float16), dtype=xp.float32)


def sum_rows(array: Array) -> Array:
    """Sum a float [2^m, n] array over its first axis, overwriting it; returns [n].

    Halves are folded onto each other, so the order of additions is the same in both libraries and for any n:
    library reductions choose theirs by shape and processor, which would let a tie between two scales fall
    differently in another chunk. Folding is also more accurate than adding one row after another.
    """
    xp = namespace(array)
    rows = array.shape[0]
    assert rows & (rows - 1) == 0, "a group size is a power of two"
    while rows > 1:
        rows //= 2
        xp.add(array[:rows], array[rows : 2 * rows], out=array[:rows])
    return array[0]


def take_columns(array: Array, columns: Array) -> Array:
    """A copy [rows, c] of the columns of these indices, row-major (numpy's own indexing would turn it)."""
    return np.take(array, columns, axis=1) if namespace(array) is np else array[:, columns]


def sorted_values(array: Array) -> Array:
    """All elements in ascending order, 1-D."""
    xp = namespace(array)
    flat = array.reshape(-1)
    return np.sort(flat) if xp is np else xp.sort(flat).values


def is_finite(array: Array) -> bool:
    """No NaN and no Inf."""
    return bool(namespace(array).isfinite(array).all())


def as_integers(codes: Array, bits: int, signed: bool) -> Array:
    """Whole numbers in the narrowest container both libraries compute with: 8 bits, or int32 beyond."""
    xp = namespace(codes)
    narrow = xp.int8 if signed else xp.uint8
    return xp.asarray(codes, dtype=narrow if bits <= 8 else xp.int32)
