"""Objectives of language models: next-token cross-entropy, in nats per token."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from penjing.errors import EmptyDataError, SpecError


def next_token_loss(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of `logits` [..., vocabulary] against `targets` [...] int64, a float32 scalar.

    With label smoothing e (Szegedy et al., 2016) a target is 1 - e of the true token and e of the uniform
    distribution. `mask` [...] bool selects the positions that count; others are left out before anything is
    computed, so that what stands there cannot spread. Raises EmptyDataError where none counts, SpecError
    for a smoothing outside [0, 1).
    """
    if not 0.0 <= smoothing < 1.0:
        raise SpecError(f"label smoothing is {smoothing}: it must be in [0, 1)")
    if mask is not None:
        logits, targets = logits[mask], targets[mask]
    if not targets.numel():
        raise EmptyDataError("no position counts in the loss: the mask leaves none")
    rows = logits.reshape(-1, logits.shape[-1]).float()
    return functional.cross_entropy(rows, targets.reshape(-1), label_smoothing=smoothing)


def sequence_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of each sequence, [n] float32, of logits [n, length, vocabulary]: what early
    stopping pairs.
    """
    losses = functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    return losses.mean(dim=1)


def next_token_objective(
    model: Callable[[Tensor], Tensor], smoothing: float = 0.0
) -> Callable[[Tensor], Tensor]:
    """The objective of a task whose batches are blocks of tokens [n, length + 1] int64 (data.packing).

    `model` maps tokens [n, length] to logits [n, length, vocabulary].
    """

    def objective(tokens: Tensor) -> Tensor:
        return next_token_loss(model(tokens[:, :-1]), tokens[:, 1:], smoothing=smoothing)

    return objective
