"""Losses against torch's own, their limits, and masks that let nothing through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from penjing.distill import DistillationLoss, distillation_loss, logit_mse, temperature_kl
from penjing.errors import DataError


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


@pytest.mark.parametrize("kind", ["kl", "mse"])
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
