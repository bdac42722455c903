"""Wanda against its definition, and where its textbook form goes wrong."""

from __future__ import annotations

import pytest
import torch
from pruning_samples import random_layer

from penjing.errors import DataError
from penjing.models.statistics import InputStatistics
from penjing.prune.patterns import Sparsity
from penjing.prune.wanda import wanda


@pytest.mark.parametrize("text", ["0.5", "0.25", "2:4"])
def test_the_least_magnitude_times_input_norm_goes_in_every_row(text: str) -> None:
    weight, statistics = random_layer(6, 16)
    sparsity = Sparsity.of(text)
    pruned = wanda(weight, statistics, sparsity)
    group = sparsity.group or 16
    norms = statistics.gram.diagonal().sqrt()
    for row in range(6):
        for first in range(0, 16, group):
            costs = [(abs(float(weight[row, j] * norms[j])), j) for j in range(first, first + group)]
            gone = {j for _, j in sorted(costs)[: group - round(sparsity.keep * group)]}
            assert {j for j in range(first, first + group) if pruned[row, j] == 0} == gone
    assert torch.equal(pruned[pruned != 0], weight[pruned != 0])


def test_inputs_that_never_fired_go_first_and_by_magnitude() -> None:
    weight = torch.tensor([[0.1, 5.0, 7.0, 6.0]])
    pruned = wanda(weight, InputStatistics(torch.diag(torch.tensor([1.0, 0, 0, 0])), None, 9), Sparsity())
    assert torch.equal(pruned, torch.tensor([[0.1, 0.0, 7.0, 0.0]]))
    silent = wanda(weight, InputStatistics(torch.zeros(4, 4), None, 0), Sparsity())
    assert torch.equal(silent, torch.tensor([[0.0, 0.0, 7.0, 6.0]]))


def test_statistics_of_other_inputs_are_refused() -> None:
    weight, statistics = random_layer(4, 8)
    with pytest.raises(DataError, match="8 columns"):
        wanda(weight, InputStatistics(torch.eye(7), None, 5), Sparsity())
    statistics.gram[0, 0] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        wanda(weight, statistics, Sparsity())
