"""The loop: exact resume, ascent, early stopping, clipping, accumulation, ranks, and refusals."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from regression import assert_same_bytes, regression_task, weights  # noqa: E402

from penjing.errors import CorruptCheckpointError, DivergedError, SpecError  # noqa: E402
from penjing.training.loop import Task, TrainingConfig, train  # noqa: E402
from penjing.training.optimizers import SGD, AdamW, Lion, Muon, OptimizerConfig  # noqa: E402
from penjing.training.reports import StepReport  # noqa: E402
from penjing.training.schedules import Schedule  # noqa: E402
from penjing.training.stopping import EarlyStopping  # noqa: E402

CONFIGS = [SGD(0.1, momentum=0.9, nesterov=True), AdamW(0.01), Lion(0.001), Muon(0.02, weight_decay=0.1)]


@pytest.mark.parametrize("optimizer", CONFIGS, ids=lambda c: type(c).__name__)
def test_a_stopped_and_resumed_run_ends_with_the_same_bytes(
    tmp_path: Path, optimizer: OptimizerConfig
) -> None:
    schedule = Schedule("trapezoid", warmup_steps=3, decay_steps=10)
    config = TrainingConfig(30, optimizer, schedule, micro_batches=2, evaluate_every=4, log_every=5)
    whole = regression_task()
    expected = train(whole, config)

    stops = iter([False] * 13 + [True])
    stopped = train(regression_task(), config, tmp_path, should_stop=lambda: next(stops))
    assert stopped.step == 13
    torch.manual_seed(99)
    resumed = regression_task()
    progress = train(resumed, config, tmp_path)
    assert_same_bytes(weights(resumed), weights(whole))
    assert progress == expected
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert [step for step, _ in curve["train"]] == [5, 10, 15, 20, 25, 30]
    assert curve["heldout"] == [list(point) for point in expected.heldout_curve]


def test_a_killed_run_repeats_the_steps_since_its_last_state(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    task = regression_task()
    config = TrainingConfig(20, save_seconds=0.0)

    def failing_batch(number: int) -> torch.Tensor:
        if number == 11:
            raise KilledError
        return task.batch(number)

    with pytest.raises(KilledError):
        train(dataclasses.replace(task, batch=failing_batch), config, tmp_path)
    assert not list(tmp_path.glob("*.unfinished"))
    resumed, whole = regression_task(), regression_task()
    train(resumed, config, tmp_path)
    train(whole, config)
    assert_same_bytes(weights(resumed), weights(whole))


@pytest.mark.parametrize("optimizer", CONFIGS, ids=lambda c: type(c).__name__)
def test_descent_descends_and_maximize_ascends(optimizer: OptimizerConfig) -> None:
    losses = {}
    for maximize in (False, True):
        task = regression_task()
        config = TrainingConfig(25, optimizer, maximize=maximize, evaluate_every=25)
        before = task.evaluate() if task.evaluate else math.nan
        losses[maximize] = train(task, config).heldout_curve[-1][1] - before
    assert losses[False] < 0 < losses[True]


def scripted_task(values: list[float]) -> Task[int]:
    """One weight that grows by 1 a step, and held-out values in a given order."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    script = iter(values)
    return Task(model, lambda number: number, lambda _: -model.weight.sum(), lambda: next(script))


@pytest.mark.parametrize(("maximize", "sign"), [(False, 1), (True, -1)])
def test_early_stopping_restores_the_best_weights(maximize: bool, sign: int) -> None:
    task = scripted_task([sign * v for v in (5.0, 3.0, 2.95, 2.0, 2.5, 1.95, 2.2, 0.0)])
    stopping = EarlyStopping(patience=3, min_delta=0.1)
    config = TrainingConfig(
        8, SGD(1.0), max_gradient_norm=None, maximize=maximize, evaluate_every=1, early_stopping=stopping
    )
    progress = train(task, config)
    assert (progress.step, progress.best_step, progress.best_losses) == (7, 4, [sign * 2.0])
    assert progress.stopped_early
    assert task.model.weight.item() == sign * 4.0


def test_a_run_that_ends_before_patience_also_restores_the_best(tmp_path: Path) -> None:
    stopping = EarlyStopping(patience=5)
    config = TrainingConfig(3, SGD(1.0), max_gradient_norm=None, evaluate_every=1, early_stopping=stopping)
    task = scripted_task([3.0, 1.0, 2.0])
    assert not train(task, config, tmp_path).stopped_early
    assert task.model.weight.item() == 2.0
    again = scripted_task([])
    train(again, config, tmp_path)
    assert again.model.weight.item() == 2.0


def test_accumulation_equals_the_large_batch() -> None:
    whole, parts = regression_task(), regression_task()
    for task in (whole, parts):
        task.model.eval()
    config = TrainingConfig(1, SGD(0.1), max_gradient_norm=None)
    both = dataclasses.replace(whole, batch=lambda n: torch.cat([whole.batch(2 * n), whole.batch(2 * n + 1)]))
    train(both, config)
    train(parts, dataclasses.replace(config, micro_batches=2))
    torch.testing.assert_close(weights(parts), weights(whole))


def test_gradients_are_clipped_to_the_norm() -> None:
    task = regression_task()
    before = weights(task)
    train(task, TrainingConfig(1, SGD(1.0), max_gradient_norm=1e-3))
    moved = torch.cat([(after - before[name]).flatten() for name, after in weights(task).items()])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_bf16_computes_the_objective_in_bf16_and_keeps_fp32_weights() -> None:
    task, seen = regression_task(), []

    def objective(inputs: torch.Tensor) -> torch.Tensor:
        outputs = task.model(inputs)
        seen.append(outputs.dtype)
        return outputs.float().square().mean()

    train(dataclasses.replace(task, objective=objective), TrainingConfig(1, bf16=True))
    assert seen == [torch.bfloat16]
    assert {tensor.dtype for tensor in weights(task).values()} == {torch.float32}


def test_reports_carry_the_mean_loss_since_the_last_report() -> None:
    lines: list[StepReport] = []
    task = scripted_task([7.0])
    config = TrainingConfig(4, SGD(1.0), max_gradient_norm=None, evaluate_every=4, log_every=2)
    train(task, config, report=lines.append)
    assert [(line.step, line.loss, line.heldout_loss) for line in lines] == [(2, -0.5, None), (4, -2.5, 7.0)]


def test_states_of_other_runs_and_broken_files_are_refused(tmp_path: Path) -> None:
    config = TrainingConfig(2, AdamW(0.01))
    train(regression_task(), config, tmp_path)
    with pytest.raises(SpecError, match="was started with"):
        train(regression_task(), dataclasses.replace(config, optimizer=AdamW(0.02)), tmp_path)
    other = dataclasses.replace(regression_task(), model=torch.nn.Linear(2, 2))
    with pytest.raises(CorruptCheckpointError, match="not a state of this run"):
        train(other, config, tmp_path)
    whole = (tmp_path / "state.pt").read_bytes()
    for broken in (b"", b"not a state", whole[: len(whole) // 2]):
        (tmp_path / "state.pt").write_bytes(broken)
        with pytest.raises(CorruptCheckpointError, match="not a state of this run"):
            train(regression_task(), config, tmp_path)


def test_impossible_settings_are_refused() -> None:
    for arguments in (
        {"num_steps": 0},
        {"num_steps": 1, "micro_batches": 0},
        {"num_steps": 1, "log_every": 0},
    ):
        with pytest.raises(SpecError, match="at least 1"):
            TrainingConfig(**arguments)
    with pytest.raises(SpecError, match="needs evaluate_every"):
        TrainingConfig(1, early_stopping=EarlyStopping(1))
    task = dataclasses.replace(regression_task(), evaluate=None)
    with pytest.raises(SpecError, match="no evaluate function"):
        train(task, TrainingConfig(1, evaluate_every=1))


def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    task = regression_task()
    before = weights(task)
    broken = dataclasses.replace(task, objective=lambda inputs: task.objective(inputs) * math.nan)
    with pytest.raises(DivergedError, match="step 0"):
        train(broken, TrainingConfig(5), tmp_path)
    assert_same_bytes(weights(task), before)
    assert not (tmp_path / "state.pt").exists()
