"""Bounded ascent: never outside the ball, no step too long, and at the maximum that lies within reach."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from regression import assert_same_bytes, regression_task, weights  # noqa: E402

from penjing.errors import SpecError  # noqa: E402
from penjing.training.bounds import Bounds, confine  # noqa: E402
from penjing.training.loop import Task, TrainingConfig, train  # noqa: E402
from penjing.training.optimizers import SGD, AdamW, Lion, Muon, OptimizerConfig  # noqa: E402
from penjing.training.ranks import SINGLE  # noqa: E402

PEAK = torch.tensor([[3.0, -4.0, 0.0, 12.0]])  # 13 from the origin


def hill() -> Task[int]:
    """A concave objective -|w - PEAK|^2 over one matrix that begins at 0."""
    model = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    return Task(model, lambda number: number, lambda _: -(model.weight - PEAK).square().sum())


def flat(task: Task[int]) -> torch.Tensor:
    """All parameters as one vector in float64."""
    return torch.cat([parameter.detach().flatten().double() for parameter in task.model.parameters()])


def test_ascent_reaches_the_maximum() -> None:
    task = hill()
    train(task, TrainingConfig(200, SGD(0.1), maximize=True, max_gradient_norm=None))
    torch.testing.assert_close(task.model.weight.detach(), PEAK, rtol=0, atol=1e-4)


def test_bounded_ascent_reaches_the_highest_point_of_the_ball() -> None:
    task = hill()
    train(task, TrainingConfig(200, SGD(0.1), maximize=True, max_gradient_norm=None, bounds=Bounds(6.5)))
    torch.testing.assert_close(task.model.weight.detach(), PEAK / 2, rtol=0, atol=1e-4)


@pytest.mark.parametrize("optimizer", [SGD(5.0, momentum=0.9), AdamW(0.3), Lion(0.1), Muon(0.5)])
def test_no_step_leaves_the_ball_or_is_too_long(optimizer: OptimizerConfig) -> None:
    task = regression_task()
    positions = [flat(task)]
    observed = Task(task.model, lambda n: positions.append(flat(task)) or task.batch(n), task.objective)
    bounds = Bounds(radius=0.5, step_length=0.11)
    train(observed, TrainingConfig(40, optimizer, maximize=True, max_gradient_norm=None, bounds=bounds))
    positions.append(flat(task))
    distances = [(position - positions[0]).norm().item() for position in positions]
    steps = [(after - before).norm().item() for before, after in itertools.pairwise(positions)]
    assert max(distances) <= 0.5
    assert max(steps) <= 0.11 * (1 + 1e-5)
    assert max(distances) > 0.49, "the bound was never reached, so nothing was tested"
    assert max(steps) > 0.1


def test_a_ball_smaller_than_the_spacing_of_numbers_holds_too() -> None:
    origin = torch.full((100,), 1000.0)
    moved = origin + torch.linspace(-1, 1, 100)
    confine([moved], [origin], 1e-3, SINGLE)
    assert (moved.double() - origin.double()).norm().item() <= 1e-3


def test_what_lies_within_is_left_alone() -> None:
    inside = torch.tensor([0.3, 0.4])
    confine([inside], [torch.zeros(2)], 0.5001, SINGLE)
    assert inside.tolist() == torch.tensor([0.3, 0.4]).tolist()


def test_a_resumed_run_keeps_its_centre(tmp_path: Path) -> None:
    config = TrainingConfig(30, AdamW(0.1), maximize=True, bounds=Bounds(0.3))
    whole, stopped, resumed = (regression_task() for _ in range(3))
    train(whole, config)
    stops = iter([False] * 17 + [True])
    train(stopped, config, tmp_path, should_stop=lambda: next(stops))
    train(resumed, config, tmp_path)
    assert_same_bytes(weights(resumed), weights(whole))


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_bounds_must_be_positive(limit: float) -> None:
    for bounds in ({"radius": limit}, {"step_length": limit}):
        with pytest.raises(SpecError, match="positive"):
            Bounds(**bounds)
