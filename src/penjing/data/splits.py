"""Disjoint splits of documents: what calibrates, tunes or stops never judges.

A document's split is a function of a hash of its group (its own text unless told otherwise) and the seed.
So equal texts fall together, the order of documents does not matter, other documents do not matter, and a
text that appears in two data sets has the same role in both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from penjing.data.documents import Document
from penjing.errors import DataError, EmptyDataError

DEFAULT_SHARES: Mapping[str, float] = MappingProxyType(
    {"calibrate": 0.4, "tune": 0.2, "stop": 0.1, "report": 0.3}
)


def own_group(document: Document) -> str:
    """Every text is a group of its own."""
    return document.digest


def split_documents(
    documents: Iterable[Document],
    shares: Mapping[str, float] = DEFAULT_SHARES,
    group: Callable[[Document], str] = own_group,
    seed: int = 0,
) -> dict[str, list[Document]]:
    """Documents by split, each list in the order of the input.

    `shares` are expected fractions of the groups and add up to 1. Raises DataError for shares that do not,
    and EmptyDataError when a split with a positive share receives no document.
    """
    check_shares(shares)
    splits: dict[str, list[Document]] = {name: [] for name in shares}
    for document in documents:
        splits[split_of(group(document), shares, seed)].append(document)
    empty = [name for name, share in shares.items() if share > 0 and not splits[name]]
    if empty:
        total = sum(map(len, splits.values()))
        raise EmptyDataError(
            f"{total} documents leave nothing for {', '.join(empty)}: give more, shorter documents"
        )
    return splits


def split_of(group: str, shares: Mapping[str, float], seed: int = 0) -> str:
    """The split of a group: the one whose interval of cumulative shares holds the group's place in [0, 1)."""
    digest = hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:6], "big") / 2**48
    chosen, reached = "", 0.0
    for name, share in shares.items():
        if share > 0 and (not chosen or place >= reached):
            chosen = name
        reached += share
    return chosen


def check_shares(shares: Mapping[str, float]) -> None:
    is_valid = all(0 <= share <= 1 for share in shares.values()) and math.isclose(sum(shares.values()), 1.0)
    if not is_valid:
        raise DataError(f"the shares of splits must be fractions that add up to 1, not {dict(shares)}")
