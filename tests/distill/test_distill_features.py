"""Features: what is compared with what, and a projection that learns."""

from __future__ import annotations

import pytest
import torch

from penjing.distill.features import FeatureLoss, matched_blocks
from penjing.errors import DataError


def states(width: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 7, width, generator=generator) * (1 + 10 * index) for index in range(2)]


def test_equal_widths_are_compared_relative_to_the_teacher() -> None:
    teacher = states(6, 0)
    loss = FeatureLoss(6, 6)
    assert not list(loss.parameters())
    assert loss(teacher, teacher, None).item() == 0
    assert loss([torch.zeros_like(t) for t in teacher], teacher, None).item() == pytest.approx(1)
    scaled = loss([1.1 * t for t in teacher], teacher, None)
    assert scaled.item() == pytest.approx(0.01, rel=1e-4)  # the second pair is 11 times as large


def test_the_projection_trains_along() -> None:
    student = states(4, 1)
    truth = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    teacher = [s @ truth.T for s in student]
    loss = FeatureLoss(4, 6, seed=3)
    assert torch.equal(loss.projection, FeatureLoss(4, 6, seed=3).projection)
    assert torch.allclose(loss.projection.T @ loss.projection, torch.eye(4), atol=1e-5)
    optimizer = torch.optim.Adam(loss.parameters(), 0.05)
    first = loss(student, teacher, None).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss(student, teacher, None).backward()
        optimizer.step()
    assert loss(student, teacher, None).item() < 1e-3 * first


def test_masked_positions_do_not_count() -> None:
    student, teacher = states(4, 1), states(4, 2)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[0, :3] = True
    expected = FeatureLoss(4, 4)([s[:1, :3] for s in student], [t[:1, :3] for t in teacher], None)
    student[0][1] = teacher[1][0, 3:] = float("nan")
    leaf = student[0].requires_grad_()
    loss = FeatureLoss(4, 4)(student, teacher, mask)
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert torch.isfinite(leaf.grad).all()
    with pytest.raises(DataError, match="no positions count"):
        FeatureLoss(4, 4)(student, teacher, torch.zeros_like(mask))


def test_blocks_are_matched_evenly_and_last_with_last() -> None:
    assert matched_blocks(3, 6) == [1, 3, 5]
    assert matched_blocks(6, 6) == list(range(6))
    assert matched_blocks(2, 5) == [2, 4]
    assert matched_blocks(1, 9) == [8]
