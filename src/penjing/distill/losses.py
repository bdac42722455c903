"""Distillation losses on logits, for numpy arrays and (differentiable) torch tensors alike.

Student and teacher logits are [..., vocab]; `mask` is bool [...], True where a position counts, or None for
all. Masked positions are left out before anything is computed, so NaN or Inf there reaches neither the loss
nor its gradient, and the mean is over the positions that count, never over padding. The teacher is a
constant: hand it in detached.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from penjing.errors import DataError
from penjing.formats.namespace import Array, namespace
from penjing.spec import Spec


class DistillationLoss(Spec):
    """kind: `kl` (Hinton et al. 2015) or `mse` (Ba and Caruana 2014). temperature: of `kl` only."""

    kind: Literal["kl", "mse"] = "kl"
    temperature: float = Field(default=1.0, gt=0)


def distillation_loss(
    student: Array, teacher: Array, config: DistillationLoss, mask: Array | None = None
) -> Array:
    """The configured loss, a scalar."""
    if config.kind == "mse":
        return logit_mse(student, teacher, mask)
    return temperature_kl(student, teacher, config.temperature, mask)


def logit_mse(student: Array, teacher: Array, mask: Array | None = None) -> Array:
    """Mean over positions and vocabulary of (z_s - z_t)^2, each position's logits centred first.

    Softmax ignores a constant added to all logits; uncentred MSE would spend capacity on matching it.
    Centred, this is twice the limit of `temperature_kl` for T -> infinity.
    """
    student, teacher = counted(student, teacher, mask)
    difference = student - teacher
    difference = difference - difference.mean(-1)[..., None]
    return (difference * difference).mean()


def temperature_kl(student: Array, teacher: Array, temperature: float, mask: Array | None = None) -> Array:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)) in nats, the mean over positions.

    T^2 makes up for the gradient's 1 / T^2, so that the balance with a hard-label loss does not move with T.
    Where the teacher gives probability 0 (a logit of -inf) a term is 0, whatever the student says.
    """
    student, teacher = counted(student, teacher, mask)
    xp = namespace(student)
    log_student, log_teacher = log_softmax(student / temperature), log_softmax(teacher / temperature)
    probability = xp.exp(log_teacher)
    possible = probability > 0
    log_ratio = xp.where(possible, log_teacher, 0.0) - xp.where(possible, log_student, 0.0)
    return temperature**2 * (probability * log_ratio).sum(-1).mean()


def log_softmax(logits: Array) -> Array:
    """log softmax over the last axis, shifted by its maximum so that exp cannot overflow."""
    xp = namespace(logits)
    shifted = logits - xp.amax(logits, -1)[..., None]
    return shifted - xp.log(xp.exp(shifted).sum(-1))[..., None]


def counted(student: Array, teacher: Array, mask: Array | None) -> tuple[Array, Array]:
    """Logits at the positions that count. Raises DataError if shapes differ or no position counts."""
    if student.shape != teacher.shape or (mask is not None and mask.shape != student.shape[:-1]):
        shapes = [list(array.shape) for array in (student, teacher, mask) if array is not None]
        raise DataError(f"logits and mask do not belong together: shapes {shapes}")
    if mask is not None:
        student, teacher = student[mask], teacher[mask]
    if 0 in student.shape:
        raise DataError("no positions count: the mask is false everywhere, or there are no logits")
    return student, teacher
