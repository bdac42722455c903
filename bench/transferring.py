"""What a model of half of Seedling's widths gains by beginning as its subclone and not at random.

Trains both with AdamW at each of several rates on the same batches (8 sequences of 256 tokens: the standard
library, and text that Seedling writes itself), and prints the loss on held-out text as they go: the random
start for a number of steps, the subclone until it is as good as the best of these is at the end.

    python bench/transferring.py --steps 160 --rates 0.003 0.001
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction

import torch
from quantizers.texts import calibration_windows, evaluation_windows
from torch import Tensor
from torch.nn import functional

from penjing.artifact.config import ModelConfig
from penjing.models import Checkpoint
from penjing.models.trainable import TrainableModel, random_model
from penjing.optimize.self_written import self_written
from penjing.training.loop import StepReport, Task, TrainingConfig, train
from penjing.training.optimizers import AdamW
from penjing.training.schedules import Schedule
from penjing.transfer.importance import measure_importance
from penjing.transfer.structure import scaled
from penjing.transfer.subclone import subclone

BATCH, LENGTH = 8, 256
NUM_WRITTEN, NUM_RANKING, NUM_HELD_OUT = 2000, 16, 24
EVALUATE_EVERY = 10
Curve = list[tuple[int, float]]  # steps done, held-out NLL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.003, 0.001])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = Checkpoint.open("seedling")
    learned = torch.from_numpy(calibration_windows().tokens)
    written = torch.from_numpy(self_written(source, NUM_WRITTEN, LENGTH, seed=1, threads=1))
    held_out = torch.from_numpy(evaluation_windows().tokens)[:NUM_HELD_OUT]
    target = scaled(source.config, Fraction(1, 2), len(source.config.blocks))
    begin = starts(source, target, learned[:NUM_RANKING])
    text = torch.cat([learned, written])
    ends = []
    for rate in arguments.rates:
        print(f"random, rate {rate}", flush=True)
        ends.append(trained(begin["random"](), rate, arguments.steps, text, held_out)[-1][1])
    for rate in arguments.rates:
        print(f"subclone, rate {rate}", flush=True)
        curve = trained(begin["subclone"](), rate, arguments.steps, text, held_out, goal=min(ends))
        print(verdict(curve, arguments.steps, min(ends)), flush=True)


def starts(
    source: Checkpoint, target: ModelConfig, ranking: Tensor
) -> dict[str, Callable[[], TrainableModel]]:
    """The two beginnings."""
    model = TrainableModel.of(source, LENGTH)
    tensors = subclone(source.config, model.tensors(), target, measure_importance(model.model, ranking))
    return {
        "subclone": lambda: TrainableModel(target, tensors, LENGTH),
        "random": lambda: random_model(target, LENGTH),
    }


def trained(
    model: TrainableModel, rate: float, steps: int, text: Tensor, held_out: Tensor, *, goal: float = 0.0
) -> Curve:
    """The held-out loss before training and as it goes on, until it is no more than `goal`."""

    def batch(index: int) -> Tensor:
        epoch, place = divmod(index, len(text) // BATCH)
        order = torch.randperm(len(text), generator=torch.Generator().manual_seed(epoch))
        return text[order[place * BATCH : (place + 1) * BATCH]]

    def loss(tokens: Tensor) -> Tensor:
        return functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    def evaluate() -> float:
        return loss(held_out).item()

    config = TrainingConfig(
        num_steps=steps,
        optimizer=AdamW(learning_rate=rate, weight_decay=0.1),
        schedule=Schedule("constant", warmup_steps=10),
        evaluate_every=EVALUATE_EVERY,
        log_every=EVALUATE_EVERY,
    )
    with torch.no_grad():
        before = evaluate()
    print(f"  {0:9,} tokens: {before:.4f}", flush=True)
    curve = [(0, before)]

    def report(line: StepReport) -> None:
        print(f"  {line.step * BATCH * LENGTH:9,} tokens: {line.heldout_loss:.4f}", flush=True)
        curve.append((line.step, line.heldout_loss or 0.0))

    train(Task(model, batch, loss, evaluate), config, report=report, should_stop=lambda: curve[-1][1] <= goal)
    return curve


def verdict(curve: Curve, steps: int, goal: float) -> str:
    """When the subclone was where the best random start ended."""
    ended = f"random: {goal:.4f} after {steps * BATCH * LENGTH:,} tokens"
    step, loss = curve[-1]
    if loss > goal:
        return f"{ended}; the subclone does not get there"
    return f"{ended}; subclone: {loss:.4f} after {step * BATCH * LENGTH:,} ({step / steps:.0%})"


if __name__ == "__main__":
    main()
