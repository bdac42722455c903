"""What a student of half the blocks regains by fine-tuning, from its teacher, and from the teacher's store.

    python bench/distilling.py --steps 200 --seeds 0 1 --directory /tmp/distilling

The teacher is Seedling; the student begins with every second of its blocks. All ways take the same batches of
4 x 256 tokens of the standard library, which Seedling learned from, in the same order; the loss is that of
Seedling's held-out text, in nats a token.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from quantizers.texts import calibration_texts, evaluation_windows

from penjing.data.packing import PackedTokens, pack
from penjing.distill.lessons import Lesson, Lessons
from penjing.distill.losses import DistillationLoss
from penjing.distill.on_policy import OnPolicy
from penjing.distill.store import Knowledge, KnowledgeStore
from penjing.distill.store_writing import write_store
from penjing.distill.task import Distillation, Teacher, distillation_task, hard_loss
from penjing.models import Checkpoint
from penjing.models.embedded import SEEDLING
from penjing.models.trainable import TrainableModel
from penjing.text import Tokenizer
from penjing.training.loop import TrainingConfig, train
from penjing.training.optimizers import AdamW
from penjing.training.schedules import Schedule

LENGTH, BATCH_SIZE, KEPT_BLOCKS = 256, 4, (0, 2, 4)
WAYS = {
    "fine-tuning": Distillation(soft_weight=0, hard_weight=1),
    "teacher, KL": Distillation(),
    "store, 12 draws": Distillation(),
    "teacher, KL and features": Distillation(feature_weight=1),
    "teacher, KL and relations": Distillation(relation_weight=1),
    "teacher, Jensen-Shannon": Distillation(soft=DistillationLoss(kind="js")),
    "teacher, a quarter on policy": Distillation(on_policy=OnPolicy(fraction=0.25)),
}


def main() -> None:
    """One line a seed and way: the loss, what it is above the teacher's, and the time of a step."""
    options = parse_options()
    torch.set_num_threads(1)
    options.directory.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint.open("seedling")
    teacher = TrainableModel.of(checkpoint, LENGTH)
    held_out = torch.from_numpy(evaluation_windows().tokens)
    least = held_out_loss(teacher, held_out)
    text = packed_text(options.directory, options.steps * BATCH_SIZE)
    print(f"teacher {least:.4f}; student before {held_out_loss(halved(teacher), held_out):.4f}", flush=True)
    print(
        "| seed | way | loss | above the teacher | CPU seconds a step |\n|---|---|---:|---:|---:|", flush=True
    )
    for seed in options.seeds:
        for way in options.ways:
            teaches: Teacher = teacher
            if way.startswith("store"):
                teaches = stored(options.directory / f"store-{seed}", checkpoint, teacher, text, seed)
            student = halved(teacher)
            task = distillation_task(student, teaches, Lessons(text, LENGTH, BATCH_SIZE, seed), WAYS[way])
            schedule = Schedule("cosine", warmup_steps=10)
            started = time.thread_time()
            train(task, TrainingConfig(options.steps, AdamW(options.rate), schedule, seed=seed))
            seconds = (time.thread_time() - started) / options.steps
            loss = held_out_loss(student, held_out)
            print(f"| {seed} | {way} | {loss:.4f} | {loss - least:.4f} | {seconds:.2f} |", flush=True)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS)[:3])
    parser.add_argument("--directory", type=Path, required=True, help="for the text and the stores")
    return parser.parse_args()


def packed_text(directory: Path, num_blocks: int) -> PackedTokens:
    """Files of the standard library, until there are `num_blocks` blocks."""
    tokenizer = Tokenizer.load(SEEDLING)

    def documents() -> Iterator[list[int]]:
        missing = num_blocks * LENGTH + 1
        for text in calibration_texts():
            tokens = tokenizer.encode(text.text)[:missing]
            yield tokens
            missing -= len(tokens) + 1
            if missing <= 0:
                return

    return pack(documents(), directory / "text.bin", tokenizer.backend.get_vocab_size(), tokenizer.eos_ids[0])


def stored(
    path: Path, checkpoint: Checkpoint, teacher: TrainableModel, text: PackedTokens, seed: int
) -> KnowledgeStore:
    """The teacher's store of the text; says what it takes."""
    knowledge = Knowledge.of(checkpoint, text, LENGTH, seed=seed)
    started = time.thread_time()
    store = write_store(path, knowledge, lambda number: text.blocks([number], LENGTH)[0, :-1], teacher)
    seconds = (time.thread_time() - started) / knowledge.num_blocks
    print(f"store: {store.bytes_per_position:.1f} bytes a position, {seconds:.2f} CPU seconds a block")
    return store


def halved(teacher: TrainableModel) -> TrainableModel:
    """A copy with every second block."""
    blocks = tuple(teacher.config.blocks[index] for index in KEPT_BLOCKS)
    tensors = {name: tensor for name, tensor in teacher.tensors().items() if not name.startswith("blocks.")}
    for place, index in enumerate(KEPT_BLOCKS):
        prefix = f"blocks.{index}."
        for name, tensor in teacher.tensors().items():
            if name.startswith(prefix):
                tensors[f"blocks.{place}.{name.removeprefix(prefix)}"] = tensor
    return TrainableModel(teacher.config.model_copy(update={"blocks": blocks}), tensors, LENGTH)


@torch.no_grad()
def held_out_loss(model: TrainableModel, windows: torch.Tensor) -> float:
    """Mean cross-entropy in nats of windows [n, 256]."""
    model.eval()
    parts = [Lesson(np.arange(len(part)), part) for part in windows.split(8)]
    total = sum(hard_loss(model(part.inputs), part).item() * len(part.tokens) for part in parts)
    return total / len(windows)


if __name__ == "__main__":
    main()
