"""Paired early stopping: a gain counts only where it exceeds its own noise."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from penjing.errors import EmptyDataError, SpecError  # noqa: E402
from penjing.training.loop import Task, TrainingConfig, train  # noqa: E402
from penjing.training.optimizers import SGD  # noqa: E402
from penjing.training.stopping import EarlyStopping, standard_error  # noqa: E402


def scripted_task(evaluations: list[list[float]]) -> Task[int]:
    """One weight that grows by 1 a step, and held-out losses in a given order."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    script = iter(evaluations)
    return Task(model, lambda number: number, lambda _: -model.weight.sum(), lambda: next(script))


def config(num_steps: int, stopping: EarlyStopping) -> TrainingConfig:
    return TrainingConfig(
        num_steps, SGD(1.0), max_gradient_norm=None, evaluate_every=1, early_stopping=stopping
    )


def test_the_standard_error_is_that_of_the_mean() -> None:
    assert standard_error([1.0, 2.0, 3.0, 6.0]) == pytest.approx((14 / 3 / 4) ** 0.5)
    assert standard_error([5.0]) == 0.0


def test_a_consistent_gain_counts_and_a_noisy_one_of_the_same_mean_does_not() -> None:
    stopping = EarlyStopping(patience=1)
    before = [1.0, 5.0, 9.0, 2.0]  # documents differ far more than any gain: pairing removes that
    assert stopping.is_better([0.9, 4.9, 8.9, 1.91], before, maximize=False)
    noisy = [1.9, 4.1, 8.9, 1.71]
    assert sum(noisy) == pytest.approx(sum([0.9, 4.9, 8.9, 1.91]))
    assert not stopping.is_better(noisy, before, maximize=False)
    assert EarlyStopping(1, standard_errors=0.1).is_better(noisy, before, maximize=False)
    assert not EarlyStopping(1, min_delta=0.2).is_better([0.9, 4.9, 8.9, 1.91], before, maximize=False)


def test_with_maximize_higher_is_better() -> None:
    stopping = EarlyStopping(patience=1)
    assert stopping.is_better([2.0, 3.0], [1.0, 2.0], maximize=True)
    assert not stopping.is_better([1.0, 2.0], [2.0, 3.0], maximize=True)


def test_noise_does_not_count_as_progress_and_the_best_weights_come_back() -> None:
    evaluations = [[4.0, 6.0, 8.0], [3.0, 5.1, 7.0], [1.9, 6.0, 6.9], [4.0, 3.0, 7.9], [0.0, 0.0, 0.0]]
    task = scripted_task(evaluations)
    progress = train(task, config(5, EarlyStopping(patience=2)))
    assert (progress.step, progress.best_step, progress.stopped_early) == (4, 2, True)
    assert task.model.weight.item() == 2.0
    assert progress.heldout_curve[1] == (2, pytest.approx(15.1 / 3))


def test_other_numbers_of_losses_and_none_are_refused() -> None:
    with pytest.raises(SpecError, match="has 2 losses, one before it 3"):
        train(scripted_task([[1.0, 2.0, 3.0], [1.0, 2.0]]), config(2, EarlyStopping(1)))
    with pytest.raises(EmptyDataError, match="no losses"):
        train(scripted_task([[]]), config(1, EarlyStopping(1)))
    for arguments in ({"patience": 0}, {"patience": 1, "min_delta": -1.0}):
        with pytest.raises(SpecError, match="patience must be"):
            EarlyStopping(**arguments)
