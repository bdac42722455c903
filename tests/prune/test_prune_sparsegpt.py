"""SparseGPT against the inverse it stands for, computed anew for every column."""

from __future__ import annotations

import pytest
import torch
from pruning_samples import random_layer
from torch import Tensor

from penjing.models.statistics import InputStatistics, damped, gram_errors
from penjing.prune import sparsegpt as module
from penjing.prune.patterns import Sparsity, highest, keep_mask
from penjing.prune.sparsegpt import DAMPING, sparsegpt
from penjing.prune.walk import magnitude
from penjing.prune.wanda import wanda


def by_inverses(weight: Tensor, gram: Tensor, sparsity: Sparsity) -> Tensor:
    """One column after another, each with the inverse of the Gram of the columns that are left."""
    matrix, rest = damped(gram, DAMPING), weight.double().clone()
    columns = weight.shape[1]
    inverses = [torch.linalg.inv(matrix[j:, j:]) for j in range(columns)]
    variances = torch.stack([inverse[0, 0] for inverse in inverses])
    count = round(sparsity.keep * weight.numel())
    kept = highest((rest.square() / variances).t().reshape(-1), count).view(columns, -1).t().clone()
    for j in range(columns):
        if sparsity.group is not None and j % sparsity.group == 0:
            near = slice(j, j + sparsity.group)
            kept[:, near] = keep_mask(rest[:, near].square() / variances[near], sparsity)
        lost = torch.where(kept[:, j], 0.0, rest[:, j])
        rest[:, j:] -= lost[:, None] * inverses[j][0] / inverses[j][0, 0]
        rest[:, j] = torch.where(kept[:, j], rest[:, j], 0.0)
    return rest


@pytest.mark.parametrize("text", ["0.5", "0.3", "2:4", "1:3"])
def test_it_is_what_inverses_say(text: str) -> None:
    weight, statistics = random_layer(5, 18)
    pruned = sparsegpt(weight, statistics, Sparsity.of(text))
    expected = by_inverses(weight, statistics.gram, Sparsity.of(text))
    assert (pruned - expected).abs().max() < 1e-4
    assert torch.equal(pruned == 0, expected.abs() < 1e-12)


@pytest.mark.parametrize("text", ["0.5", "0.123", "0", "1", "2:4", "5:7"])
def test_counts_are_exact_across_blocks_of_columns(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_COLUMNS", 16)
    weight, statistics = random_layer(6, 56)
    sparsity = Sparsity.of(text)
    pruned = sparsegpt(weight, statistics, sparsity)
    assert int((pruned != 0).sum()) == round(sparsity.keep * weight.numel())
    if sparsity.group is not None:
        kept = (pruned != 0).view(6, -1, sparsity.group).sum(-1)
        assert torch.equal(kept, torch.full_like(kept, int(text[0])))
    if text == "1":
        assert torch.equal(pruned, weight)


def test_blocks_of_columns_change_nothing_but_when_masks_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, statistics = random_layer(6, 56)
    whole = sparsegpt(weight, statistics, Sparsity.of("2:4"))
    monkeypatch.setattr(module, "BLOCK_COLUMNS", 8)
    assert (sparsegpt(weight, statistics, Sparsity.of("2:4")) - whole).abs().max() < 1e-4


@pytest.mark.parametrize("text", ["0.5", "2:4"])
def test_outputs_are_kept_better_than_without_feedback(text: str) -> None:
    weight, statistics = random_layer(32, 64)
    sparsity = Sparsity.of(text)

    def error(pruned: Tensor) -> float:
        return float(gram_errors(pruned - weight, statistics.gram).sum())

    by_size, by_input, fed_back = (
        error(prune(weight, statistics, sparsity)) for prune in (magnitude, wanda, sparsegpt)
    )
    assert fed_back < 0.7 * by_input < 0.7 * by_size


def test_inputs_that_never_fired_are_survived() -> None:
    weight, statistics = random_layer(4, 12)
    gram = statistics.gram.clone()
    gram[3], gram[:, 3] = 0, 0
    pruned = sparsegpt(weight, InputStatistics(gram, None, 48), Sparsity())
    assert bool((pruned[:, 3] == 0).all())
    assert bool(torch.isfinite(sparsegpt(weight, InputStatistics(gram * 0, None, 0), Sparsity())).all())
