"""The task: what each loss is made of, students that learn, runs that resume, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import LLAMA, QWEN3, write_checkpoint
from pydantic import ValidationError
from torch.nn import functional

from penjing.data.packing import PackedTokens, pack
from penjing.distill.lessons import Lesson, Lessons
from penjing.distill.losses import DistillationLoss, reverse_kl, temperature_kl
from penjing.distill.on_policy import OnPolicy, write_continuations, written_lesson
from penjing.distill.store import Knowledge, KnowledgeStore
from penjing.distill.store_writing import write_store
from penjing.distill.task import Distillation, Objective, Teacher, distillation_task
from penjing.errors import (
    DivergedError,
    EmptyDataError,
    KnowledgeStoreError,
    SpecError,
    VocabularyMismatchError,
)
from penjing.models import Checkpoint
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.models.trainable import TrainableModel, random_model
from penjing.training.loop import TrainingConfig, train
from penjing.training.optimizers import AdamW

LENGTH = 12
SMALLER = QWEN3 | {"hidden_size": 32, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedTokens:
    documents = np.random.default_rng(0).integers(3, 50, (8, 40)).tolist()
    return pack(documents, tmp_path_factory.mktemp("text") / "text.bin", 50, 2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(write_checkpoint(tmp_path_factory.mktemp("models") / "teacher", LLAMA))


@pytest.fixture(scope="module")
def teacher(checkpoint: Checkpoint) -> TrainableModel:
    return TrainableModel.of(checkpoint, LENGTH)


def student_model(tmp_path: Path, config: dict[str, object] = SMALLER) -> TrainableModel:
    path = tmp_path / "student"
    return TrainableModel.of(Checkpoint.open(write_checkpoint(path, config, seed=7)), LENGTH)


def stored(path: Path, checkpoint: Checkpoint, text: PackedTokens, num_draws: int = 12) -> KnowledgeStore:
    knowledge = Knowledge.of(checkpoint, text, LENGTH, num_draws=num_draws)
    teacher = TrainableModel.of(checkpoint, LENGTH)
    return write_store(path, knowledge, lambda number: text.blocks([number], LENGTH)[0, :-1], teacher)


def test_lessons_are_the_blocks_of_the_text_once_an_epoch(text: PackedTokens) -> None:
    lessons = Lessons(text, LENGTH, 4, seed=1)
    num_batches = text.num_blocks(LENGTH) // 4
    epoch = [lessons(batch) for batch in range(num_batches)]
    numbers = np.concatenate([lesson.numbers for lesson in epoch])
    assert len(set(numbers.tolist())) == len(numbers) == num_batches * 4
    lesson = lessons(2)
    assert torch.equal(lesson.inputs, torch.from_numpy(text.blocks(lesson.numbers, LENGTH)[:, :-1]))
    assert torch.equal(lesson.targets[:, :-1], lesson.inputs[:, 1:])
    assert not np.array_equal(lessons(0).numbers, lessons(num_batches).numbers), (
        "another epoch, another order"
    )
    with pytest.raises(EmptyDataError, match="a batch takes 100"):
        Lessons(text, LENGTH, 100)


def test_every_loss_is_what_it_says(tmp_path: Path, text: PackedTokens, teacher: TrainableModel) -> None:
    student, lessons = student_model(tmp_path), Lessons(text, LENGTH, 3)
    config = Distillation(hard_weight=0.5, feature_weight=2, relation_weight=3, relation_heads=4)
    task = distillation_task(student, teacher, lessons, config)
    lesson = task.batch(0)
    assert isinstance(task.objective, Objective)
    parts = task.objective.losses(lesson)
    logits, goal = student(lesson.inputs), teacher(lesson.inputs).detach()
    assert {name: weight for name, (weight, _) in parts.items()} == {
        "hard": 0.5,
        "soft": 1,
        "feature": 2,
        "relation": 3,
    }
    hard = functional.cross_entropy(logits.flatten(0, 1), lesson.targets.flatten())
    assert torch.allclose(parts["hard"][1], hard)
    assert torch.allclose(parts["soft"][1], temperature_kl(logits, goal))
    total = task.objective(lesson)
    assert total.item() == pytest.approx(
        sum(weight * loss.item() for weight, loss in parts.values()), rel=1e-5
    )
    total.backward()
    trained = dict(task.model.named_parameters())
    assert "features.projection" in trained
    assert all(parameter.grad is not None for parameter in trained.values())
    assert all(parameter.grad is None for parameter in teacher.parameters()), "the teacher is a constant"
    mask = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(0)) > 0.4
    masked = task.objective.losses(Lesson(lesson.numbers, lesson.tokens, mask))
    assert torch.allclose(masked["soft"][1], temperature_kl(logits, goal, mask=mask))
    assert torch.allclose(masked["hard"][1], functional.cross_entropy(logits[mask], lesson.targets[mask]))


def test_a_teacher_read_block_by_block_teaches_the_same(
    tmp_path: Path, text: PackedTokens, teacher: TrainableModel, checkpoint: Checkpoint
) -> None:
    student, lessons = student_model(tmp_path), Lessons(text, LENGTH, 3)
    streamed = TorchModel(checkpoint.config, lambda name: tensor_of(checkpoint.read(name)).float(), LENGTH)
    losses = [
        distillation_task(student, given, lessons, Distillation()).objective(lessons(0))
        for given in (teacher, streamed)
    ]
    assert torch.equal(*losses)
    with pytest.raises(SpecError, match="need the whole teacher in memory"):
        distillation_task(student, streamed, lessons, Distillation(feature_weight=1))


def test_a_store_teaches_what_its_teacher_does(
    tmp_path: Path, text: PackedTokens, teacher: TrainableModel, checkpoint: Checkpoint
) -> None:
    student, lessons = student_model(tmp_path), Lessons(text, LENGTH, 3)
    store = stored(tmp_path / "store", checkpoint, text, num_draws=255)
    lesson = lessons(1)
    goal = teacher(lesson.inputs).softmax(-1).detach()
    exact = functional.cross_entropy(student(lesson.inputs).flatten(0, 1), goal.flatten(0, 1))
    sampled = distillation_task(student, store, lessons, Distillation()).objective(lesson)
    assert sampled.item() == pytest.approx(exact.item(), rel=0.01), "255 draws leave little to chance"
    with pytest.raises(KnowledgeStoreError, match="another length"):
        distillation_task(student, store, Lessons(text, LENGTH // 2, 3), Distillation())
    for config in (
        Distillation(soft=DistillationLoss(kind="js")),
        Distillation(soft=DistillationLoss(temperature=2)),
        Distillation(relation_weight=1),
        Distillation(on_policy=OnPolicy(prompt_length=4, written_length=4)),
        Distillation(soft_weight=0, hard_weight=1),
    ):
        with pytest.raises(SpecError, match="a store has tokens drawn at temperature 1"):
            distillation_task(student, store, lessons, config)


@pytest.mark.parametrize("way", ["teacher", "store", "on policy"])
def test_a_student_learns_and_a_resumed_run_ends_with_the_same_bytes(
    tmp_path: Path, text: PackedTokens, teacher: TrainableModel, checkpoint: Checkpoint, way: str
) -> None:
    lessons = Lessons(text, LENGTH, 4)
    teaches: Teacher = stored(tmp_path / "store", checkpoint, text, 200) if way == "store" else teacher
    on_policy = OnPolicy(fraction=0.5, prompt_length=4, written_length=5) if way == "on policy" else None
    config = Distillation(on_policy=on_policy)
    settings = TrainingConfig(24, AdamW(0.01))
    tokens = lessons(0).inputs
    goal = teacher(tokens).detach()

    def student() -> TrainableModel:
        return random_model(teacher.config, LENGTH, seed=3)

    whole = student()
    before = temperature_kl(whole(tokens), goal).item()
    train(distillation_task(whole, teaches, lessons, config), settings)
    assert temperature_kl(whole(tokens), goal).item() < 0.9 * before
    stops = iter([False] * 9 + [True])
    stopped = student()
    train(
        distillation_task(stopped, teaches, lessons, config),
        settings,
        tmp_path / "run",
        should_stop=lambda: next(stops),
    )
    resumed = student()
    train(distillation_task(resumed, teaches, lessons, config), settings, tmp_path / "run")
    assert all(
        torch.equal(mine, other) for mine, other in zip(whole.parameters(), resumed.parameters(), strict=True)
    )
    assert not torch.equal(whole.tensor("head"), stopped.tensor("head"))


def test_what_the_student_writes_is_graded(
    tmp_path: Path, text: PackedTokens, teacher: TrainableModel
) -> None:
    student, lessons = student_model(tmp_path), Lessons(text, LENGTH, 3)
    on_policy = OnPolicy(fraction=0.5, prompt_length=4, written_length=6)
    config = Distillation(hard_weight=1, on_policy=on_policy)
    task = distillation_task(student, teacher, lessons, config)
    assert [on_policy.is_turn(batch) for batch in range(4)] == [False, True, False, True]
    assert task.batch(0).mask is None
    lesson = task.batch(1)
    assert torch.equal(lesson.tokens, task.batch(1).tokens), "seeded"
    assert lesson.tokens.shape == (3, 10)
    assert torch.equal(lesson.tokens[:, :4], lessons(1).tokens[:, :4])
    assert lesson.mask is not None
    assert lesson.mask[0].tolist() == [False] * 3 + [True] * 6, "the positions that predict what was written"
    assert isinstance(task.objective, Objective)
    parts = task.objective.losses(lesson)
    assert list(parts) == ["soft"], "no hard targets: nobody else wrote them"
    expected = reverse_kl(student(lesson.inputs), teacher(lesson.inputs), mask=lesson.mask)
    assert torch.allclose(parts["soft"][1], expected)
    asked: list[tuple[int, int]] = []

    def write(prompts: torch.Tensor, num_tokens: int, seed: int) -> torch.Tensor:
        asked.append((num_tokens, seed))
        return torch.cat([prompts, torch.full((len(prompts), num_tokens), 9)], 1)

    handed = distillation_task(student, teacher, lessons, config, write=write)
    assert (handed.batch(3).tokens[:, 4:] == 9).all()
    handed.batch(1)
    assert asked[0][0] == 6
    assert asked[0][1] != asked[1][1], "every batch has a seed of its own"
    with pytest.raises(SpecError, match="must return its prompts"):
        written_lesson(lessons(1), 1, on_policy, lambda prompts, n, seed: write(prompts, n - 1, seed))
    too_long = Distillation(on_policy=OnPolicy(prompt_length=10, written_length=10))
    with pytest.raises(SpecError, match=r"are 20 tokens, of 12 \+ 1"):
        distillation_task(student, teacher, lessons, too_long)


def test_continuations_follow_the_students_distribution(tmp_path: Path) -> None:
    student = student_model(tmp_path)
    prompts = torch.tensor([[5, 8, 13]]).expand(4000, -1)
    written = write_continuations(student, prompts, 1, seed=4)
    assert torch.equal(written, write_continuations(student, prompts, 1, seed=4))
    assert student.training, "as it was"
    found = torch.bincount(written[:, 3], minlength=50) / 4000
    chances = student(prompts[:1])[0, -1].softmax(-1).detach()
    assert (found - chances).abs().max() < 4.5 * (chances * (1 - chances) / 4000).sqrt().max()


def test_what_is_refused(tmp_path: Path, text: PackedTokens, teacher: TrainableModel) -> None:
    lessons = Lessons(text, LENGTH, 3)
    with pytest.raises(VocabularyMismatchError, match="50 tokens and the student 60"):
        distillation_task(
            student_model(tmp_path, LLAMA | {"vocab_size": 60}), teacher, lessons, Distillation()
        )
    with pytest.raises(ValidationError, match="nothing would be learned"):
        Distillation(soft_weight=0)
    with pytest.raises(ValidationError, match="graded by soft_weight"):
        Distillation(soft_weight=0, hard_weight=1, on_policy=OnPolicy())
    student = student_model(tmp_path)
    with torch.no_grad():
        student.tensor("final_norm").fill_(float("nan"))
    task = distillation_task(student, teacher, lessons, Distillation(hard_weight=1))
    with pytest.raises(DivergedError, match="the hard loss is nan: lower the learning rate or its weight"):
        train(task, TrainingConfig(1))
