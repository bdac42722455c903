"""Splits are disjoint, stable, grouped, and close to their shares."""

from __future__ import annotations

import random

import pytest

from penjing.data.documents import Document
from penjing.data.splits import DEFAULT_SHARES, split_documents, split_of
from penjing.errors import DataError, EmptyDataError

DOCUMENTS = [Document(f"text {i}", f"file{i // 10}") for i in range(1000)]


def test_splits_cover_all_documents_once_near_their_shares() -> None:
    splits = split_documents(DOCUMENTS)
    assert sorted(d.text for part in splits.values() for d in part) == sorted(d.text for d in DOCUMENTS)
    for name, share in DEFAULT_SHARES.items():
        assert abs(len(splits[name]) / len(DOCUMENTS) - share) < 0.05


def test_membership_ignores_order_other_documents_and_copies() -> None:
    whole = {d.text: name for name, part in split_documents(DOCUMENTS).items() for d in part}
    shuffled = DOCUMENTS[::3] + [Document(d.text, "a copy") for d in DOCUMENTS[::2]]
    random.Random(0).shuffle(shuffled)
    for name, part in split_documents(shuffled).items():
        assert all(whole[document.text] == name for document in part)


def test_membership_never_changes_between_versions() -> None:
    names = [split_of(f"group {i}", DEFAULT_SHARES) for i in range(8)]
    assert names == ["stop", "calibrate", "tune", "calibrate", "calibrate", "stop", "tune", "calibrate"]


def test_groups_stay_together_and_seeds_differ() -> None:
    splits = split_documents(DOCUMENTS, group=lambda d: d.source)
    sources = [{d.source for d in part} for part in splits.values()]
    assert sum(map(len, sources)) == len(set.union(*sources)) == 100
    assert split_documents(DOCUMENTS, seed=1) != split_documents(DOCUMENTS, seed=2)


def test_an_empty_split_is_an_error_and_a_zero_share_is_not() -> None:
    with pytest.raises(EmptyDataError, match="leave nothing for"):
        split_documents(DOCUMENTS[:1])
    splits = split_documents(DOCUMENTS, {"none": 0.0, "all": 1.0, "last": 0.0})
    assert {name: len(part) for name, part in splits.items()} == {"none": 0, "all": 1000, "last": 0}


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan"), "b": 1.0}])
def test_shares_must_add_up(shares: dict[str, float]) -> None:
    with pytest.raises(DataError, match="add up to 1"):
        split_documents(DOCUMENTS, shares)
