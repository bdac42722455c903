"""Cross-validation: documents stay whole, and the setting that generalizes is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs torch")

from penjing.errors import DataError, SpecError  # noqa: E402
from penjing.training.cross_validation import cross_validate  # noqa: E402
from penjing.training.loop import Task, TrainingConfig, train  # noqa: E402
from penjing.training.optimizers import SGD, AdamW  # noqa: E402

DOCUMENTS, EACH, WIDTH = 20, 2, 30
GROUPS = [f"document {i // EACH}" for i in range(DOCUMENTS * EACH)]
Built = tuple[Task[int], TrainingConfig]


def noisy_examples() -> tuple[torch.Tensor, torch.Tensor]:
    """40 examples of 30 features of which one matters, with noise: plain least squares overfits."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(DOCUMENTS * EACH, WIDTH, generator=generator)
    return inputs, inputs[:, 0] + torch.randn(DOCUMENTS * EACH, generator=generator)


def build(l1_penalty: float, training: NDArray[np.int64], held: NDArray[np.int64]) -> Built:
    inputs, targets = noisy_examples()
    model = torch.nn.Linear(WIDTH, 1, bias=False)

    def losses(chosen: NDArray[np.int64]) -> torch.Tensor:
        return (model(inputs[chosen])[:, 0] - targets[chosen]).square()

    task = Task(model, lambda n: n, lambda _: losses(training).mean(), lambda: losses(held).tolist())
    return task, TrainingConfig(300, SGD(0.05), max_gradient_norm=None, l1_penalty=l1_penalty)


def test_the_better_of_two_regularization_strengths_is_chosen() -> None:
    everything = np.arange(len(GROUPS))
    fit = {}
    for l1_penalty in (0.0, 0.5):
        task, config = build(l1_penalty, everything, everything)
        train(task, config)
        fit[l1_penalty] = task.objective(0).item()
    assert fit[0.0] < fit[0.5], "by its training loss the weaker one would win"
    result = cross_validate(GROUPS, {"none": 0.0, "some": 0.5}, build)
    none, some = result.scores["none"], result.scores["some"]
    assert result.chosen == "some"
    assert some.mean + some.standard_error < none.mean
    assert len(some.fold_losses) == 5
    assert some.mean == pytest.approx(np.mean(some.fold_losses))
    assert some.standard_error == pytest.approx(np.std(some.fold_losses, ddof=1) / 5**0.5)
    assert cross_validate(GROUPS, {"none": 0.0, "some": 0.5}, build) == result


def test_every_document_is_held_once_and_never_divided() -> None:
    held_by_fold: list[set[str]] = []
    started: list[torch.Tensor] = []

    def watch(_: str, training: NDArray[np.int64], held: NDArray[np.int64]) -> Built:
        inside, outside = {GROUPS[i] for i in training}, {GROUPS[i] for i in held}
        assert not inside & outside
        assert len(training) + len(held) == len(GROUPS)
        held_by_fold.append(outside)
        model = torch.nn.Linear(2, 1)
        started.append(model.weight.detach().clone())
        return Task(model, lambda n: n, lambda _: model.weight.sum(), lambda: 1.0), TrainingConfig(1, AdamW())

    cross_validate(GROUPS, {"one": "a", "two": "b"}, watch, num_folds=4)
    assert held_by_fold[:4] == held_by_fold[4:], "candidates are compared on the same folds"
    assert sorted(group for held in held_by_fold[:4] for group in held) == sorted(set(GROUPS))
    assert all(torch.equal(weight, started[0]) for weight in started), "fresh models begin alike"


def test_with_maximize_the_highest_is_chosen() -> None:
    def constant(value: float, *_: NDArray[np.int64]) -> Built:
        model = torch.nn.Linear(1, 1)
        config = TrainingConfig(1, maximize=True)
        return Task(model, lambda n: n, lambda _: model.weight.sum(), lambda: value), config

    assert cross_validate(GROUPS, {"low": 1.0, "high": 2.0}, constant).chosen == "high"


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(SpecError, match="no candidates"):
        cross_validate(GROUPS, {}, build)
    with pytest.raises(DataError, match="cannot make 5 folds"):
        cross_validate(["a", "a", "b"], {"none": 0.0}, build)
