"""Activation checkpointing: the same numbers, less kept."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import LLAMA, write_checkpoint  # noqa: E402

from penjing.models import Checkpoint  # noqa: E402
from penjing.models.trainable import TrainableModel  # noqa: E402
from penjing.training.activations import checkpointed  # noqa: E402
from penjing.training.objectives import next_token_objective  # noqa: E402


def gradients_and_kept(is_checkpointed: bool) -> tuple[list[torch.Tensor], int]:
    """Gradients of a deep network with dropout, and how many numbers its forward pass keeps."""
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(
        torch.nn.Sequential(
            torch.nn.Linear(8, 64), torch.nn.GELU(), torch.nn.Dropout(0.3), torch.nn.Linear(64, 8)
        )
        for _ in range(4)
    )
    hidden, kept = torch.randn(5, 8), 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for block in blocks:
            step = checkpointed(block) if is_checkpointed else block
            hidden = hidden + step(hidden)
        loss = hidden.square().mean()
    loss.backward()
    return [parameter.grad for parameter in blocks.parameters()], kept


def test_gradients_are_the_same_bits_and_less_is_kept() -> None:
    plain, kept = gradients_and_kept(is_checkpointed=False)
    recomputed, kept_less = gradients_and_kept(is_checkpointed=True)
    assert all(torch.equal(left, right) for left, right in zip(plain, recomputed, strict=True))
    assert kept_less < kept / 4


def test_without_gradients_nothing_changes() -> None:
    layer = torch.nn.Linear(3, 3)
    with torch.no_grad():
        assert torch.equal(checkpointed(layer)(torch.ones(2, 3)), layer(torch.ones(2, 3)))


def test_the_blocks_of_a_model_can_be_recomputed(tmp_path: Path) -> None:
    source = Checkpoint.open(write_checkpoint(tmp_path / "m", LLAMA))
    tokens = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    gradients = []
    for is_checkpointed in (False, True):
        model = TrainableModel.of(source, 8, dropout=0.1)
        if is_checkpointed:
            model.after_block = checkpointed(model.after_block)
        torch.manual_seed(1)
        next_token_objective(model)(tokens).backward()
        gradients.append({name: tensor.grad for name, tensor in model.tensors().items()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
