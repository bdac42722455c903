"""What computes nothing is removed and nothing changes, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import GEMMA3, LLAMA, MISTRAL, PHI3, QWEN2, QWEN3, QWEN3_MOE
from pruning_samples import TOKENS, loaded, logits

from penjing.artifact.config import expected_tensors
from penjing.errors import UnsupportedConfigError
from penjing.models.writing import write_checkpoint
from penjing.prune.plan import BlockPlan, Plan
from penjing.prune.removal import norm_energies, remove

BIASED = LLAMA | {"attention_bias": True, "mlp_bias": True}
DENSE = [LLAMA, BIASED, MISTRAL, QWEN2, QWEN3, PHI3, GEMMA3]
UNUSED = range(5, 21)  # hidden elements, of 48
WHOLE = BlockPlan(0, (0, 1), tuple(range(100)))


@pytest.mark.parametrize(
    "family", DENSE, ids=["llama", "biased", "mistral", "qwen2", "qwen3", "phi3", "gemma3"]
)
def test_unused_units_leave_logits_as_they_are(tmp_path: Path, family: dict[str, Any]) -> None:
    config, tensors = loaded(tmp_path, family)
    silence(tensors, len(config.blocks))
    kept = tuple(index for index in range(48) if index not in UNUSED)
    blocks = [
        BlockPlan(0, (1,), tuple(range(100))),
        BlockPlan(1, (0, 1), tuple(index for index in range(100) if index % 3)),
    ]
    blocks += [BlockPlan(index, (0, 1), tuple(range(100))) for index in range(2, len(config.blocks))]
    energies = norm_energies(config, tensors, TOKENS)
    smaller, left = remove(config, tensors, Plan(kept, tuple(blocks)), energies)
    assert smaller.hidden_size == 32
    assert [block.num_heads for block in smaller.blocks][:2] == [2, 4]
    assert [block.intermediate_size for block in smaller.blocks][:2] == [100, 66]
    for name, role in expected_tensors(smaller).items():
        assert tuple(left[name].shape) == role.shape, name
    assert sorted(left) == sorted(expected_tensors(smaller))
    original = logits(config, tensors)
    assert (logits(smaller, left) - original).abs().max() < 2e-3 * original.abs().max()
    plain = logits(*remove(config, tensors, Plan(kept, tuple(blocks))))
    assert (plain - original).abs().max() > 2e-2 * original.abs().max(), "norms see fewer elements"


def silence(tensors: dict[str, torch.Tensor], num_blocks: int) -> None:
    """Let hidden elements UNUSED, a group of block 0 and a third of block 1's channels do nothing."""
    unused = list(UNUSED)
    tensors["embedding"][:, unused] = 0
    for index in range(num_blocks):
        for name in ("output", "down", "output_bias", "down_bias"):
            if f"blocks.{index}.{name}" in tensors:
                tensors[f"blocks.{index}.{name}"][unused] = 0
    tensors["blocks.0.output"][:, :24] = 0
    tensors["blocks.1.down"][:, ::3] = 0


def test_blocks_that_add_nothing_go(tmp_path: Path) -> None:
    config, tensors = loaded(tmp_path, GEMMA3)
    for name in ("post_attention_norm", "post_feed_forward_norm"):
        tensors[f"blocks.1.{name}"][:] = -config.norm_offset
    plan = Plan(tuple(range(48)), (WHOLE, BlockPlan(2, WHOLE.groups, WHOLE.channels)))
    smaller, left = remove(config, tensors, plan)
    assert len(smaller.blocks) == 2
    assert smaller.blocks[1] == config.blocks[2]
    assert torch.equal(logits(smaller, left), logits(config, tensors))


@pytest.mark.parametrize(
    "family", DENSE, ids=["llama", "biased", "mistral", "qwen2", "qwen3", "phi3", "gemma3"]
)
def test_what_is_left_is_written_and_read_again(tmp_path: Path, family: dict[str, Any]) -> None:
    config, tensors = loaded(tmp_path / "source", family)
    blocks = tuple(BlockPlan(index, (1,), tuple(range(0, 64))) for index in range(len(config.blocks)))
    smaller, left = remove(config, tensors, Plan(tuple(range(16, 48)), blocks))
    written = write_checkpoint(tmp_path / "written", smaller, left)
    again = {name: torch.from_numpy(written.read(name).copy()) for name in written.tensors}
    assert (logits(written.config, again) - logits(smaller, left)).abs().max() < 1e-5


def test_the_source_is_left_alone_and_nothing_is_shared(tmp_path: Path) -> None:
    config, tensors = loaded(tmp_path, LLAMA)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    blocks = tuple(BlockPlan(index, WHOLE.groups, WHOLE.channels) for index in range(2))
    smaller, left = remove(config, tensors, Plan(tuple(range(48)), blocks))
    assert smaller == config
    for name, tensor in left.items():
        assert torch.equal(tensor, tensors[name])
        tensor.zero_()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())


def test_experts_are_refused_by_name(tmp_path: Path) -> None:
    config, tensors = loaded(tmp_path, QWEN3_MOE)
    with pytest.raises(UnsupportedConfigError, match="qwen3_moe: block 0 has experts"):
        remove(config, tensors, Plan(tuple(range(48)), (WHOLE,)))
