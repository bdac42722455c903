"""Distillation losses on logits, for numpy arrays and (differentiable) torch tensors alike.

Student and teacher logits are [..., vocab]; `mask` is bool [...], True where a position counts, or None for
all. Masked positions are left out before anything is computed, so NaN or Inf there reaches neither the loss
nor its gradient, and the mean is over the positions that count, never over padding. The teacher is a
constant: hand it in detached.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from penjing.errors import DataError
from penjing.formats.namespace import Array, namespace
from penjing.spec import Spec

LEAST_LOG_PROBABILITY = -1e4  # stands for log 0 inside a mixture; exp of it is 0 in every dtype


class DistillationLoss(Spec):
    """kind: `kl` (Hinton et al. 2015) makes the student cover all that the teacher says, `reverse_kl` (Gu et
    al. 2024) keeps it from saying what the teacher would not, `js` (Agarwal et al. 2024) lies between, `mse`
    (Ba and Caruana 2014) compares logits. temperature: of all but `mse`. beta: of `js` only, the teacher's
    part in the mixture.
    """

    kind: Literal["kl", "reverse_kl", "js", "mse"] = "kl"
    temperature: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.5, gt=0, lt=1)


def distillation_loss(
    student: Array, teacher: Array, config: DistillationLoss, mask: Array | None = None
) -> Array:
    """The configured loss, a scalar."""
    if config.kind == "mse":
        return logit_mse(student, teacher, mask)
    if config.kind == "js":
        return jensen_shannon(student, teacher, config.beta, config.temperature, mask)
    divergence = temperature_kl if config.kind == "kl" else reverse_kl
    return divergence(student, teacher, config.temperature, mask)


def logit_mse(student: Array, teacher: Array, mask: Array | None = None) -> Array:
    """Mean over positions and vocabulary of (z_s - z_t)^2, each position's logits centred first.

    Softmax ignores a constant added to all logits; uncentred MSE would spend capacity on matching it.
    Centred, this is twice the limit of `temperature_kl` for T -> infinity.
    """
    student, teacher = counted(student, teacher, mask)
    difference = student - teacher
    difference = difference - difference.mean(-1)[..., None]
    return (difference * difference).mean()


def temperature_kl(
    student: Array, teacher: Array, temperature: float = 1.0, mask: Array | None = None
) -> Array:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)) in nats, the mean over positions.

    T^2 makes up for the gradient's 1 / T^2, so that the balance with a hard-label loss does not move with T.
    Where the teacher gives probability 0 (a logit of -inf) a term is 0, whatever the student says.
    """
    log_student, log_teacher = softened(student, teacher, temperature, mask)
    return temperature**2 * divergence(log_teacher, log_student).mean()


def reverse_kl(student: Array, teacher: Array, temperature: float = 1.0, mask: Array | None = None) -> Array:
    """T^2 KL(softmax(z_s / T) || softmax(z_t / T)) in nats, the mean over positions.

    Infinite where the student gives probability to what the teacher rules out (a logit of -inf).
    """
    log_student, log_teacher = softened(student, teacher, temperature, mask)
    return temperature**2 * divergence(log_student, log_teacher).mean()


def jensen_shannon(
    student: Array, teacher: Array, beta: float = 0.5, temperature: float = 1.0, mask: Array | None = None
) -> Array:
    """T^2 (b KL(p || m) + (1 - b) KL(q || m)), m = b p + (1 - b) q, of teacher p and student q at T; the mean
    over positions (Agarwal et al. 2024, equation 1).

    At most T^2 ln 2, whatever either rules out. Divided by b it becomes the KL for b -> 0, divided by 1 - b
    the reverse KL for b -> 1.
    """
    log_student, log_teacher = softened(student, teacher, temperature, mask)
    xp = namespace(student)
    log_mixture = xp.logaddexp(
        xp.clip(log_teacher, LEAST_LOG_PROBABILITY, None) + math.log(beta),
        xp.clip(log_student, LEAST_LOG_PROBABILITY, None) + math.log1p(-beta),
    )
    of_teacher, of_student = divergence(log_teacher, log_mixture), divergence(log_student, log_mixture)
    return temperature**2 * (beta * of_teacher + (1 - beta) * of_student).mean()


def sampled_cross_entropy(student: Array, ids: Array, counts: Array, mask: Array | None = None) -> Array:
    """- sum_j (n_j / n) log q(id_j) in nats, the mean over positions, q = softmax(student [..., vocab]).

    ids: int64 [..., slots]; counts: of the student's dtype [..., slots], how often each was drawn, 0 in
    slots that are not in use. Where the draws come from a teacher p, this is an unbiased estimate of the
    cross-entropy of p and q, and its gradient of that of KL(p || q). Raises DataError like the other losses.
    """
    if ids.shape != counts.shape or ids.shape[:-1] != student.shape[:-1]:
        shapes = [list(array.shape) for array in (student, ids, counts)]
        raise DataError(f"logits, drawn ids and their counts do not belong together: shapes {shapes}")
    student, _ = counted(student, student, mask)
    if mask is not None:
        ids, counts = ids[mask], counts[mask]
    xp = namespace(student)
    log_student = log_softmax(student)
    drawn = np.take_along_axis(log_student, ids, -1) if xp is np else log_student.gather(-1, ids)
    drawn = xp.where(counts > 0, drawn, 0.0)
    return -((counts * drawn).sum(-1) / counts.sum(-1)).mean()


def softened(student: Array, teacher: Array, temperature: float, mask: Array | None) -> tuple[Array, Array]:
    """log softmax(z / T) of both, at the positions that count."""
    student, teacher = counted(student, teacher, mask)
    return log_softmax(student / temperature), log_softmax(teacher / temperature)


def divergence(log_p: Array, log_q: Array) -> Array:
    """KL(p || q) over the last axis; 0 log 0 is 0, in the gradient as well."""
    xp = namespace(log_p)
    probability = xp.exp(log_p)
    possible = probability > 0
    log_ratio = xp.where(possible, log_p, 0.0) - xp.where(possible, log_q, 0.0)
    return (probability * log_ratio).sum(-1)


def log_softmax(logits: Array) -> Array:
    """log softmax over the last axis, shifted by its maximum so that exp cannot overflow.

    Torch's own takes one pass over memory where the plain form takes six.
    """
    xp = namespace(logits)
    if xp is not np:
        return xp.log_softmax(logits, -1)
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
