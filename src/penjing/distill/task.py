"""Distillation as a task of the training loop: a student, a teacher or its stored knowledge, and losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from penjing.distill.features import FeatureLoss, matched_blocks
from penjing.distill.lessons import Lesson, Lessons
from penjing.distill.losses import DistillationLoss, distillation_loss, sampled_cross_entropy
from penjing.distill.on_policy import OnPolicy, Writer, write_continuations, written_lesson
from penjing.distill.relations import Relation, attention_vectors, relation_loss
from penjing.distill.store import KnowledgeStore, text_hash
from penjing.distill.vocabulary import check_vocabulary_sizes
from penjing.errors import DivergedError, SpecError
from penjing.models.torch_model import TorchModel
from penjing.models.trainable import TrainableModel
from penjing.spec import Spec
from penjing.training.loop import Task

Teacher: TypeAlias = TrainableModel | TorchModel | KnowledgeStore


class Distillation(Spec):
    """The losses and their weights; 0 leaves a loss out.

    soft: against the teacher's logits. hard: cross-entropy with the text's next token. feature: `FeatureLoss`
    after every block of the student. relation: `relation_loss` of the last blocks. on_policy: batches that
    the student writes and the teacher grades, by `soft_weight`.
    """

    soft: DistillationLoss = DistillationLoss()
    soft_weight: float = Field(default=1.0, ge=0)
    hard_weight: float = Field(default=0.0, ge=0)
    feature_weight: float = Field(default=0.0, ge=0)
    relation_weight: float = Field(default=0.0, ge=0)
    relations: tuple[Relation, ...] = Field(default=("attention", "value"), min_length=1)
    relation_heads: int = Field(default=8, gt=0)
    on_policy: OnPolicy | None = None

    @model_validator(mode="after")
    def check_weights(self) -> Self:
        """Something must be learned."""
        if not (self.soft_weight or self.hard_weight or self.needs_states):
            raise ValueError("all weights are 0: nothing would be learned")
        if self.on_policy is not None and not self.soft_weight:
            raise ValueError("what the student writes is graded by soft_weight, which is 0")
        return self

    @property
    def needs_states(self) -> bool:
        """Whether the teacher's hidden states are wanted, beside its logits."""
        return bool(self.feature_weight or self.relation_weight)


class Distiller(nn.Module):
    """What trains: the student, and the projection of its features if they need one."""

    def __init__(self, student: TrainableModel, features: FeatureLoss | None) -> None:
        super().__init__()
        self.student = student
        self.features = features


@dataclass(frozen=True, eq=False)
class Objective:
    """The weighted sum of a lesson's losses. The teacher is a constant."""

    distiller: Distiller
    teacher: Teacher
    config: Distillation

    def __call__(self, lesson: Lesson) -> Tensor:
        """A scalar in nats. Raises DivergedError, naming the loss that is not finite."""
        total = torch.zeros(())
        for name, (weight, loss) in self.losses(lesson).items():
            if not loss.isfinite():
                raise DivergedError(
                    f"the {name} loss is {loss.item()}: lower the learning rate or its weight"
                )
            total = total + weight * loss
        return total

    def losses(self, lesson: Lesson) -> dict[str, tuple[float, Tensor]]:
        """Each loss by name, with its weight. A lesson of the student's own has no hard targets."""
        config, student = self.config, self.distiller.student
        states = student.hidden_states(lesson.inputs)
        logits = student.model.logits(states[-1])
        found = {}
        if config.hard_weight and not lesson.is_own:
            found["hard"] = config.hard_weight, hard_loss(logits, lesson)
        if isinstance(self.teacher, KnowledgeStore):
            ids, counts = self.teacher.draws(lesson.numbers)
            found["soft"] = config.soft_weight, sampled_cross_entropy(logits, ids, counts, lesson.mask)
            return found
        if not (config.soft_weight or config.needs_states):
            return found
        with torch.no_grad():
            teacher_states, teacher_logits = answers(self.teacher, lesson.inputs)
        if config.soft_weight:
            kind = config.on_policy.loss if lesson.is_own and config.on_policy else config.soft
            soft = distillation_loss(logits, teacher_logits, kind, lesson.mask)
            found["soft"] = config.soft_weight, soft
        if self.distiller.features is not None:
            found["feature"] = config.feature_weight, self.feature(states, teacher_states, lesson.mask)
        if config.relation_weight:
            found["relation"] = config.relation_weight, self.relation(states, teacher_states, lesson.mask)
        return found

    def feature(self, states: list[Tensor], teacher_states: list[Tensor], mask: Tensor | None) -> Tensor:
        """The residual stream after every block of the student, against the teacher's."""
        assert self.distiller.features is not None
        matched = matched_blocks(len(states) - 1, len(teacher_states) - 1)
        goals = [teacher_states[index + 1] for index in matched]
        loss: Tensor = self.distiller.features(states[1:], goals, mask)
        return loss

    def relation(self, states: list[Tensor], teacher_states: list[Tensor], mask: Tensor | None) -> Tensor:
        """The relations of the last blocks."""
        assert isinstance(self.teacher, TrainableModel)
        with torch.no_grad():
            goal = attention_vectors(self.teacher, len(teacher_states) - 2, teacher_states[-2])
        mine = attention_vectors(self.distiller.student, len(states) - 2, states[-2])
        return relation_loss(mine, goal, self.config.relations, self.config.relation_heads, mask)


def distillation_task(
    student: TrainableModel,
    teacher: Teacher,
    lessons: Lessons,
    config: Distillation,
    *,
    evaluate: Callable[[], float | Sequence[float]] | None = None,
    write: Writer | None = None,
) -> Task[Lesson]:
    """The task of training `student`, in place.

    teacher: a model in memory, one read block by block (logits only), or a store written of the same text in
    blocks of the same length. write: how the student's own text is written; `write_continuations` if None.
    Raises VocabularyMismatchError, KnowledgeStoreError for another text's store, and SpecError for losses
    that such a teacher cannot give.
    """
    check_teacher(student, teacher, lessons, config)
    features = None
    if config.feature_weight:
        assert isinstance(teacher, TrainableModel)
        features = FeatureLoss(student.config.hidden_size, teacher.config.hidden_size)
    if isinstance(teacher, TrainableModel):
        teacher.eval()
    objective = Objective(Distiller(student, features), teacher, config)
    on_policy = config.on_policy

    def batch(number: int) -> Lesson:
        lesson = lessons(number)
        if on_policy is None or not on_policy.is_turn(number):
            return lesson
        return written_lesson(lesson, number, on_policy, write or own_hand)

    def own_hand(prompts: Tensor, num_tokens: int, seed: int) -> Tensor:
        return write_continuations(student, prompts, num_tokens, seed)

    return Task(objective.distiller, batch, objective, evaluate)


def check_teacher(student: TrainableModel, teacher: Teacher, lessons: Lessons, config: Distillation) -> None:
    """Whether this teacher can teach this student by these losses; raises like `distillation_task`."""
    if isinstance(teacher, KnowledgeStore):
        check_vocabulary_sizes(teacher.knowledge.vocabulary_size, student.config.vocab_size)
        teacher.require(text=text_hash(lessons.text.tokens), length=lessons.length)
        plain = config.soft.kind == "kl" and config.soft.temperature == 1.0 and config.soft_weight > 0
        if not plain or config.needs_states or config.on_policy is not None:
            raise SpecError(
                "a store has tokens drawn at temperature 1: it gives the loss kl at that temperature, and no "
                "features, relations or grades; use the teacher itself"
            )
        return
    check_vocabulary_sizes(teacher.config.vocab_size, student.config.vocab_size)
    if config.needs_states and not isinstance(teacher, TrainableModel):
        raise SpecError("feature and relation losses need the whole teacher in memory, a TrainableModel")
    if config.on_policy is not None:
        wanted = config.on_policy.prompt_length + config.on_policy.written_length
        if wanted > lessons.length + 1:
            raise SpecError(
                f"prompts and what the student writes are {wanted} tokens, of {lessons.length} + 1"
            )


def answers(teacher: TrainableModel | TorchModel, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """A teacher's hidden states (none of one read block by block) and logits."""
    if isinstance(teacher, TorchModel):
        return [], teacher(inputs)
    states = teacher.hidden_states(inputs)
    return states, teacher.model.logits(states[-1])


def hard_loss(logits: Tensor, lesson: Lesson) -> Tensor:
    """Cross-entropy with the next token in nats, the mean over the positions that count."""
    targets = lesson.targets
    if lesson.mask is not None:
        logits, targets = logits[lesson.mask], targets[lesson.mask]
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
