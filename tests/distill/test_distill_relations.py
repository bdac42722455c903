"""Relations: the model's own attention, models of different widths, and masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import LLAMA, QWEN3, write_checkpoint

from penjing.distill.relations import attention_vectors, log_relation, relation_loss
from penjing.errors import DataError, SpecError
from penjing.models import Checkpoint
from penjing.models.trainable import TrainableModel

TOKENS = torch.arange(18).view(2, 9) % 50


def random_vectors(width: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, 9, width, generator=generator) for name in ("query", "key", "value")}


@pytest.mark.parametrize("config", [LLAMA, QWEN3], ids=["llama", "qwen3"])
def test_attention_with_the_models_own_heads_is_its_attention(
    tmp_path: Path, config: dict[str, object]
) -> None:
    model = TrainableModel.of(Checkpoint.open(write_checkpoint(tmp_path / "m", config)), 9)
    hidden = model.hidden_states(TOKENS)[1]
    vectors = attention_vectors(model, 1, hidden)
    chances = log_relation(vectors, "attention", 4, None).exp()
    values = vectors["value"].view(2, 9, 4, 12).transpose(1, 2)
    block, weights = model.model.block(1), model.model.block_weights(1)
    expected = block.attention(weights, block.attention_input(weights, hidden))
    ours = (chances @ values).transpose(1, 2).flatten(2)
    assert torch.allclose(ours, expected, atol=1e-5)


def test_relations_are_those_of_a_loop() -> None:
    student, teacher = random_vectors(12, 0), random_vectors(20, 1)
    ours = relation_loss(student, teacher, ("query", "value"), 4)
    total, count = 0.0, 0
    for relation in ("query", "value"):
        for sequence in range(2):
            for head in range(4):
                for row in range(9):
                    logs = []
                    for vectors, width in ((teacher, 5), (student, 3)):
                        part = vectors[relation][sequence, :, head * width : (head + 1) * width]
                        logs.append((part[: row + 1] @ part[row] / width**0.5).log_softmax(-1))
                    total += (logs[0].exp() * (logs[0] - logs[1])).sum().item()
                    count += 1
    assert ours.item() == pytest.approx(total / count, rel=1e-4)
    assert relation_loss(teacher, teacher, ("attention",), 4).item() == pytest.approx(0, abs=1e-6)


def test_masked_positions_neither_relate_nor_are_related_to() -> None:
    student, teacher = random_vectors(12, 0), random_vectors(20, 1)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 3] = mask[:, 7:] = False
    kept = mask[0]
    expected = relation_loss(
        {name: part[:, kept] for name, part in student.items()},
        {name: part[:, kept] for name, part in teacher.items()},
        ("attention", "value"),
        4,
    )
    for part in (*student.values(), *teacher.values()):
        part[~mask] = float("nan")
    leaf = student["value"].requires_grad_()
    loss = relation_loss(student, teacher, ("attention", "value"), 4, mask)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert torch.isfinite(leaf.grad).all()
    assert torch.equal(leaf.grad.abs().sum(-1) > 0, mask)
    with pytest.raises(DataError, match="no positions count"):
        relation_loss(student, teacher, ("value",), 4, ~(mask | True))
    with pytest.raises(SpecError, match="5 relation heads do not divide 12"):
        relation_loss(student, teacher, ("value",), 5, mask)
