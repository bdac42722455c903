"""How long a run is, what it keeps its best weights by, and what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import LLAMA, write_checkpoint

from penjing.errors import CorruptCheckpointError
from penjing.models import Checkpoint
from penjing.models.trainable import TrainableModel
from penjing.optimize.distilling import Distilling, distill, divergences
from penjing.optimize.learning import Learned, forward_flops, steps_of
from penjing.optimize.order import Order
from penjing.optimize.training import Training
from penjing.optimize.transferring import transfer
from penjing.spec import DistillStep, TrainStep, TransferStep
from penjing.training.loop import Task
from penjing.training.optimizers import AdamW

LEARNED = Learned(steps=1, tokens_trained=64, seconds=1.0, flop_utilisation=0.5)


def small_task() -> Task[Any]:
    """One weight, drawn to 1; every batch takes a while."""
    model = torch.nn.Linear(1, 1)

    def objective(number: int) -> torch.Tensor:
        return (model.weight - 1).square().mean() + 0 * number

    return Task(model, lambda number: number, objective, lambda: objective(0).item())


def test_minutes_are_settled_once(tmp_path: Path) -> None:
    """The number of steps stays with the state: a run that goes on has the same."""
    timed, state = TrainStep(minutes=0.0005), tmp_path / "state"
    steps = steps_of(timed, state, small_task)
    assert steps >= 1
    (state / "steps").write_text("7\n")
    assert steps_of(timed, state, lambda: pytest.fail("it is known")) == 7
    assert steps_of(TrainStep(steps=5), state, lambda: pytest.fail("it is said")) == 5
    assert steps_of(TrainStep(), None, lambda: pytest.fail("it is the default")) == 200
    (state / "steps").write_text("many")
    with pytest.raises(CorruptCheckpointError, match="no number of steps"):
        steps_of(timed, state, small_task)


def test_operations_of_a_step(tmp_path: Path) -> None:
    """Two for every weight and token, and attention to all before."""
    config = Checkpoint.open(write_checkpoint(tmp_path / "model", LLAMA)).config
    matrices = 2 * (48 * 48 * 2 + 48 * 24 * 2 + 48 * 100 * 3) + 50 * 48
    attention = 2 * sum(4 * 48 * seen for seen in range(1, 17))
    assert forward_flops(config, 16) == 16 * 2 * matrices + attention


def test_a_run_says_what_it_took(checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []
    order = Order(tmp_path / "out", say=said.append)
    step = TrainStep(batch=2, sequence_tokens=8)
    run = Training(Checkpoint.open(checkpoint), step, order, tmp_path / "state")
    done = run.learn(small_task(), AdamW(0.1), 20)
    assert (done.steps, done.tokens_trained) == (20, 320)
    assert done.seconds > 0
    assert 0 < done.flop_utilisation < 1
    assert len(said) == 10
    assert "% of the float32 rate" in said[-1]
    assert " tokens/s, " in said[-1]
    again = run.learn(small_task(), AdamW(0.1), 20)
    assert again.seconds == done.seconds, "nothing is left to do, and time is that of all resumptions"


def test_the_best_weights_are_those_nearest_to_the_teacher(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a store, which has no logits for this text, those of the least loss."""
    small = Path(transfer(checkpoint, tmp_path / "half", TransferStep(layers=1), [own_text], threads=1).path)
    seen: list[float] = []

    def look(self: Distilling, task: Task[object], *_: object) -> Learned:
        assert task.evaluate is not None
        seen.append(float(np.mean(task.evaluate())))
        return LEARNED

    monkeypatch.setattr(Distilling, "learn", look)
    step = DistillStep(steps=1, batch=2, sequence_tokens=16)
    shaped = distill(small, checkpoint, tmp_path / "a", step, [own_text], threads=1)
    hard = step.model_copy(update={"soft_weight": 0.0, "hard_weight": 1.0})
    distill(small, checkpoint, tmp_path / "b", hard, [own_text], threads=1)
    distill(small, checkpoint, tmp_path / "c", step, [own_text], store=tmp_path / "store", threads=1)
    assert shaped.before.kl is not None
    assert seen[0] == pytest.approx(shaped.before.kl, rel=0.3)
    assert seen[1] == seen[2] == pytest.approx(shaped.before.loss, rel=0.3)
    assert (shaped.flop_utilisation, shaped.tokens_per_second) == (0.5, 64.0)
    assert shaped.peak_memory_bytes > 1e6


def test_divergence_is_by_block(checkpoint: Path) -> None:
    model = TrainableModel.of(Checkpoint.open(checkpoint), 8)
    other = TrainableModel.of(Checkpoint.open(checkpoint), 8)
    with torch.no_grad():
        other.tensor("final_norm").mul_(1.1)
    blocks = np.random.default_rng(0).integers(0, 24, (6, 9))
    found = divergences(model, other, blocks)
    with torch.no_grad():
        inputs = torch.from_numpy(blocks[:, :-1])
        log_p, log_q = model(inputs).log_softmax(-1), other(inputs).log_softmax(-1)
        meant = (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)
    assert found == pytest.approx(meant.tolist(), rel=1e-3)
