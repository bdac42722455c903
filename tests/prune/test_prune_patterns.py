"""Masks have exactly the count that was asked for, group by group, ties included."""

from __future__ import annotations

import pytest
import torch

from penjing.errors import SpecError
from penjing.prune.patterns import Sparsity, highest, keep_mask


def test_a_pattern_keeps_its_number_of_neighbours_in_a_row() -> None:
    scores = torch.tensor([[4.0, 1, 3, 2, 9, 8, 7, 6], [1, 2, 3, 4, 5, 5, 5, 5]])
    kept = keep_mask(scores, Sparsity.of("2:4"))
    assert kept.int().tolist() == [[1, 0, 1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0]]
    assert keep_mask(scores, Sparsity.of("1:4")).sum() == 4, "N is what stays, not what goes"
    assert keep_mask(scores, Sparsity.of("3:4")).sum() == 12


def test_columns_are_grouped_and_not_rows() -> None:
    scores = torch.tensor([[8.0, 7, 2, 1], [6, 5, 4, 3], [3, 4, 5, 6], [1, 2, 7, 8]])
    kept = keep_mask(scores, Sparsity.of("2:4"))
    assert kept.sum(1).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("text", ["2:4", "4:8", "1:3", "0:4", "4:4"])
def test_equal_scores_do_not_let_more_stay(text: str) -> None:
    sparsity = Sparsity.of(text)
    assert sparsity.group is not None
    kept = keep_mask(torch.ones(5, 24), sparsity).view(5, -1, sparsity.group)
    number = int(text[0])
    assert torch.equal(kept.sum(-1), torch.full(kept.shape[:2], number))
    assert bool(kept[..., :number].all()), "the first among equals"


def test_a_short_last_group_keeps_its_best() -> None:
    scores = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 0, 0, 0]])
    kept = keep_mask(scores, Sparsity.of("2:4")).int().tolist()
    assert kept == [[0, 0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1, 0]]
    assert keep_mask(scores[:, :5], Sparsity.of("2:4")).sum(1).tolist() == [3, 3]


def test_a_fraction_is_kept_of_every_row() -> None:
    scores = torch.tensor([[1.0, 2, 3, 4], [10, 20, 30, 40]])
    assert keep_mask(scores, Sparsity(keep=0.25)).int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert highest(scores.reshape(-1), 3).int().tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("text", ["half", "1.5", "2:", "5:4", ":4", "2:0", "0.5:1", "nan"])
def test_what_is_no_sparsity_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="N of every M"):
        Sparsity.of(text)


def test_a_group_keeps_a_whole_number() -> None:
    with pytest.raises(ValueError, match="not a whole number"):
        Sparsity(keep=0.3, group=4)
    assert Sparsity.of("1:3") == Sparsity(keep=1 / 3, group=3)
