"""Splits are stable, seeded, and close to their shares."""

from __future__ import annotations

from collections import Counter

import pytest

from penjing.data.documents import Document
from penjing.data.splits import DEFAULT_SHARES, folds_of, split_of
from penjing.errors import DataError

GROUPS = [f"text {i}" for i in range(1000)]


def test_splits_are_near_their_shares() -> None:
    sizes = Counter(map(split_of, GROUPS))
    assert sizes.total() == len(GROUPS)
    for name, share in DEFAULT_SHARES.items():
        assert abs(sizes[name] / len(GROUPS) - share) < 0.05


def test_equal_texts_fall_together_wherever_they_come_from() -> None:
    for text in GROUPS[:100]:
        one, other = Document(text, "here"), Document(text, "a copy")
        assert split_of(one.digest) == split_of(other.digest)


def test_membership_never_changes_between_versions() -> None:
    names = [split_of(f"group {i}") for i in range(8)]
    assert names == ["stop", "calibrate", "tune", "calibrate", "calibrate", "stop", "tune", "calibrate"]


def test_seeds_differ() -> None:
    assert [split_of(group, seed=1) for group in GROUPS] != [split_of(group, seed=2) for group in GROUPS]


def test_a_zero_share_receives_nothing() -> None:
    shares = {"none": 0.0, "all": 1.0, "last": 0.0}
    assert {split_of(group, shares) for group in GROUPS} == {"all"}


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan"), "b": 1.0}])
def test_shares_must_add_up(shares: dict[str, float]) -> None:
    with pytest.raises(DataError, match="add up to 1"):
        split_of("group", shares)


def test_folds_keep_groups_whole_and_differ_by_one_group_at_most() -> None:
    groups = [f"text {i // 3}" for i in range(69)]
    folds = folds_of(groups, 5)
    assert all(
        len({fold for fold, g in zip(folds, groups, strict=True) if g == name}) == 1 for name in groups
    )
    assert sorted(Counter(folds[::3].tolist()).values()) == [4, 4, 5, 5, 5]
    assert folds.tolist() == folds_of(groups[::-1], 5)[::-1].tolist(), "their order does not matter"
    assert folds.tolist() != folds_of(groups, 5, seed=1).tolist()


@pytest.mark.parametrize("num_folds", [0, 1, 4])
def test_folds_need_a_group_each(num_folds: int) -> None:
    with pytest.raises(DataError, match="3 documents cannot make"):
        folds_of(["a", "b", "c", "a"], num_folds)
