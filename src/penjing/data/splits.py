"""Disjoint splits and folds of documents: what calibrates, tunes or stops never judges.

A document's split is a function of a hash of its group (usually its own text, `Document.digest`) and the
seed. So equal texts fall together, the order of documents does not matter, other documents do not matter,
and a text that appears in two data sets has the same role in both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from penjing.errors import DataError

DEFAULT_SHARES: Mapping[str, float] = MappingProxyType(
    {"calibrate": 0.4, "tune": 0.2, "stop": 0.1, "report": 0.3}
)


def split_of(group: str, shares: Mapping[str, float] = DEFAULT_SHARES, seed: int = 0) -> str:
    """The split of a group: the one whose interval of cumulative shares holds the group's place in [0, 1).

    `shares` are expected fractions of the groups. Raises DataError unless they add up to 1.
    """
    check_shares(shares)
    place = int.from_bytes(seeded_digest(group, seed)[:6], "big") / 2**48
    chosen, reached = "", 0.0
    for name, share in shares.items():
        if share > 0 and (not chosen or place >= reached):
            chosen = name
        reached += share
    return chosen


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises DataError unless the shares are fractions that add up to 1."""
    is_valid = all(0 <= share <= 1 for share in shares.values()) and math.isclose(sum(shares.values()), 1.0)
    if not is_valid:
        raise DataError(f"the shares of splits must be fractions that add up to 1, not {dict(shares)}")


def seeded_digest(group: str, seed: int) -> bytes:
    """32 bytes that depend on the group and the seed only."""
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogatepass")).digest()


def folds_of(groups: Sequence[str], num_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """The fold in [0, num_folds) of every example, [len(groups)] int64; a group is never divided.

    Groups are dealt out in the order of their hashes, so that folds differ by at most one group. Raises
    DataError for fewer than two folds, or fewer groups than folds.
    """
    distinct = sorted(set(groups), key=lambda group: seeded_digest(group, seed))
    if num_folds < 2 or len(distinct) < num_folds:
        raise DataError(f"{len(distinct)} documents cannot make {num_folds} folds: 2 up to one a document")
    fold_of = {group: number % num_folds for number, group in enumerate(distinct)}
    return np.array([fold_of[group] for group in groups], np.int64)
