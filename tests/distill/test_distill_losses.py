"""Losses against torch's own, their limits, and masks that let nothing through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from penjing.distill import (
    DistillationLoss,
    distillation_loss,
    jensen_shannon,
    logit_mse,
    reverse_kl,
    sampled_cross_entropy,
    temperature_kl,
)
from penjing.errors import DataError

KINDS = ["kl", "reverse_kl", "js", "mse"]


def logits(seed: int) -> torch.Tensor:
    return torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_torchs_with_the_factor_of_hinton(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    expected = functional.kl_div(
        functional.log_softmax(student / temperature, -1).reshape(-1, 11),
        functional.log_softmax(teacher / temperature, -1).reshape(-1, 11),
        reduction="batchmean",
        log_target=True,
    )
    ours = temperature_kl(student, teacher, temperature)
    assert ours.item() == pytest.approx(temperature**2 * expected.item(), rel=1e-12)
    assert temperature_kl(student.numpy(), teacher.numpy(), temperature) == pytest.approx(
        ours.item(), rel=1e-12
    )
    assert temperature_kl(student, student, temperature).item() == pytest.approx(0, abs=1e-12)


def test_mse_is_twice_the_limit_of_kl_at_high_temperature() -> None:
    student, teacher = logits(0), logits(1)
    limit = temperature_kl(student, teacher, 1e4).item()
    assert 2 * limit == pytest.approx(logit_mse(student, teacher).item(), rel=1e-3)


def test_mse_does_not_see_a_constant_that_softmax_does_not_see() -> None:
    student, teacher = logits(0), logits(1)
    assert logit_mse(student + 7, teacher).item() == pytest.approx(logit_mse(student, teacher).item())


@pytest.mark.parametrize("kind", KINDS)
def test_masked_positions_reach_neither_loss_nor_gradient(kind: str) -> None:
    config = DistillationLoss.model_validate({"kind": kind, "temperature": 2.0})
    student, teacher = logits(0), logits(1)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, :2] = mask[2, 4] = True
    expected = distillation_loss(student[mask], teacher[mask], config)
    student[~mask], teacher[1] = float("nan"), float("inf")
    student.requires_grad_()
    loss = distillation_loss(student, teacher, config, mask)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert torch.equal(student.grad.abs().sum(-1) > 0, mask)


def test_tokens_the_teacher_forbids_cost_nothing() -> None:
    student, teacher = logits(0), logits(1)
    teacher[..., 3:] = -float("inf")
    expected = (
        teacher.softmax(-1)[..., :3] * (teacher.log_softmax(-1) - student.log_softmax(-1))[..., :3]
    ).sum(-1)
    student.requires_grad_()
    loss = temperature_kl(student, teacher, 1.0)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-12)
    loss.backward()
    assert student.grad is not None
    assert torch.allclose(student.grad, (student.softmax(-1) - teacher.softmax(-1)).detach() / 15)
    assert np.isfinite(temperature_kl(student.detach().numpy(), teacher.numpy(), 1.0))


def test_large_logits_do_not_overflow() -> None:
    student = np.array([[1e4, 0.0]], np.float32)
    teacher = np.array([[0.0, 1e4]], np.float32)
    assert temperature_kl(student, teacher, 1.0) == pytest.approx(1e4)


def test_what_does_not_belong_together_is_refused() -> None:
    student = np.zeros((2, 3, 4), np.float32)
    with pytest.raises(DataError, match="do not belong together"):
        logit_mse(student, student[:, :2])
    with pytest.raises(DataError, match="do not belong together"):
        logit_mse(student, student, np.ones(2, np.bool_))
    with pytest.raises(DataError, match="no positions count"):
        temperature_kl(student, student, 1.0, np.zeros((2, 3), np.bool_))


def brute_force(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """KL(p || q) of one position, a sum in a loop."""
    total = 0.0
    for a, b in zip(log_p, log_q, strict=True):
        if np.exp(a) > 0:
            total += np.exp(a) * (a - b)
    return total


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_reverse_kl_and_jensen_shannon_are_their_sums(temperature: float, beta: float) -> None:
    student, teacher = logits(0), logits(1)
    student[..., 2] = -float("inf")
    pairs = [
        (t.log_softmax(-1).numpy(), s.log_softmax(-1).numpy())
        for s, t in zip(
            (student / temperature).reshape(-1, 11), (teacher / temperature).reshape(-1, 11), strict=True
        )
    ]
    reverse = np.mean([brute_force(s, t) for t, s in pairs]) * temperature**2
    ours = reverse_kl(student, teacher, temperature)
    assert ours.item() == pytest.approx(reverse, rel=1e-12)
    mixed = 0.0
    for t, s in pairs:
        middle = np.log(beta * np.exp(t) + (1 - beta) * np.exp(s))
        mixed += beta * brute_force(t, middle) + (1 - beta) * brute_force(s, middle)
    js = jensen_shannon(student, teacher, beta, temperature)
    assert js.item() == pytest.approx(mixed / len(pairs) * temperature**2, rel=1e-12)
    for loss, value in ((reverse_kl, ours), (lambda *given: jensen_shannon(*given[:2], beta, given[2]), js)):
        assert loss(student.numpy(), teacher.numpy(), temperature) == pytest.approx(value.item(), rel=1e-12)


def test_jensen_shannon_lies_between_the_two_kls() -> None:
    student, teacher = logits(0), logits(1)
    nearly = 1e-6
    forward = jensen_shannon(student, teacher, nearly).item() / nearly
    backward = jensen_shannon(student, teacher, 1 - nearly).item() / nearly
    assert forward == pytest.approx(temperature_kl(student, teacher).item(), rel=1e-3)
    assert backward == pytest.approx(reverse_kl(student, teacher).item(), rel=1e-3)
    student[..., :5], teacher[..., 5:] = -float("inf"), -float("inf")
    student.requires_grad_()
    loss = jensen_shannon(student, teacher)
    assert loss.item() == pytest.approx(np.log(2)), "nothing in common, and still finite"
    loss.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences_and_vanish_at_agreement(kind: str) -> None:
    config = DistillationLoss.model_validate({"kind": kind, "temperature": 2.0, "beta": 0.3})
    student, teacher = logits(0), logits(1)
    if kind in ("kl", "js"):
        teacher[..., 3] = -float("inf")
    assert torch.autograd.gradcheck(
        lambda z: distillation_loss(z, teacher, config), (student.requires_grad_(),), atol=1e-6
    )
    agreeing = logits(1).requires_grad_()
    loss = distillation_loss(agreeing, logits(1) + 5, config)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert agreeing.grad is not None
    assert agreeing.grad.abs().max() < 1e-12


def test_what_the_student_cannot_say_has_no_gradient_in_reverse() -> None:
    student, teacher = logits(0), logits(1)
    student[..., 4] = teacher[..., 4] = -float("inf")
    student.requires_grad_()
    loss = reverse_kl(student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert not student.grad[..., 4].any()
    assert reverse_kl(logits(0), teacher).item() == float("inf"), "said, and ruled out by the teacher"


def test_cross_entropy_of_all_tokens_in_their_shares_is_that_of_the_distribution() -> None:
    student, shares = logits(0), torch.randint(0, 9, (3, 5, 11), generator=torch.Generator().manual_seed(2))
    ids = torch.arange(11).expand(3, 5, 11)
    chances = shares / shares.sum(-1, keepdim=True)
    expected = functional.cross_entropy(student.reshape(-1, 11), chances.reshape(-1, 11).double())
    ours = sampled_cross_entropy(student, ids, shares.double())
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)
    array = sampled_cross_entropy(student.numpy(), ids.numpy(), shares.double().numpy())
    assert array == pytest.approx(ours.item(), rel=1e-12)
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(3)) > 0.5
    student[~mask] = float("nan")
    student.requires_grad_()
    masked = sampled_cross_entropy(student, ids, shares.double(), mask)
    masked.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert torch.allclose(
        student.grad[mask] * mask.sum(), (student[mask].softmax(-1) - chances[mask]).detach(), atol=1e-6
    )
    with pytest.raises(DataError, match="do not belong together"):
        sampled_cross_entropy(student, ids[:2], shares.double())
