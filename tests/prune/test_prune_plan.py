"""Plans remove what was asked for, what is worth least, and keep to multiples."""

from __future__ import annotations

import math

import pytest
import torch

from penjing.artifact.config import ModelConfig
from penjing.errors import SpecError
from penjing.models.shapes import shape
from penjing.prune.importance import Importance
from penjing.prune.plan import Shrinking, block_parameters, make_plan, schedule

CONFIG: ModelConfig = shape(
    "llama",
    vocab=64,
    hidden=256,
    inner=768,
    layers=6,
    heads=8,
    kv_heads=4,
    head_dim=32,
    positions=64,
    theta=1e4,
)


def random_importance(seed: int = 0) -> Importance:
    """Scores with nothing in common."""
    generator = torch.Generator().manual_seed(seed)
    return Importance(
        tuple(torch.rand(4, generator=generator) for _ in range(6)),
        tuple(torch.rand(768, generator=generator) for _ in range(6)),
        torch.rand(256, generator=generator),
        torch.rand(6, generator=generator),
    )


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 1 / 3])
@pytest.mark.parametrize(
    "axes", [("groups", "channels"), ("channels",), ("hidden",), ("groups", "channels", "hidden", "blocks")]
)
@pytest.mark.parametrize("spread", ["even", "ranked"])
def test_a_fraction_goes_and_little_more(fraction: float, axes: tuple[str, ...], spread: str) -> None:
    shrinking = Shrinking.model_validate({"axes": axes, "spread": spread})
    if spread == "ranked" and "hidden" in axes:
        with pytest.raises(SpecError, match="take even"):
            make_plan(CONFIG, random_importance(), fraction, shrinking)
        return
    plan = make_plan(CONFIG, random_importance(), fraction, shrinking)
    smaller = plan.config(CONFIG)
    left = block_parameters(smaller) / block_parameters(CONFIG)
    coarsest = 32 / 256 if "hidden" in axes else 0.08  # of an axis that is finest
    assert 1 - fraction - coarsest < left <= 1 - fraction + 1e-9
    assert smaller.hidden_size % 32 == 0
    for block in smaller.blocks:
        assert block.intermediate_size % 32 == 0
        assert block.num_heads == 2 * block.num_kv_heads
    if fraction == 0:
        assert smaller == CONFIG


def test_a_quarter_of_all_is_a_quarter_of_each() -> None:
    smaller = make_plan(CONFIG, random_importance(), 0.25, Shrinking()).config(CONFIG)
    assert {(block.num_heads, block.num_kv_heads, block.intermediate_size) for block in smaller.blocks} == {
        (6, 3, 576)
    }


def test_the_best_stay_in_their_order() -> None:
    scores = random_importance()
    plan = make_plan(CONFIG, scores, 0.25, Shrinking())
    for block in plan.blocks:
        for kept, values in (
            (block.groups, scores.groups[block.index]),
            (block.channels, scores.channels[block.index]),
        ):
            gone = torch.ones(len(values), dtype=torch.bool)
            gone[list(kept)] = False
            assert values[list(kept)].min() >= values[gone].max()
            assert list(kept) == sorted(kept)


def test_whole_blocks_go_by_their_score() -> None:
    scores = random_importance()
    plan = make_plan(CONFIG, scores, 1 / 3, Shrinking(axes=("blocks",)))
    worst = set(scores.blocks.argsort()[:2].tolist())
    assert {block.index for block in plan.blocks} == set(range(6)) - worst


def test_ranks_take_from_where_least_is_lost() -> None:
    scores = random_importance()
    scores.channels[2].mul_(1e-6)
    scores.groups[4][:3] = 1e-6
    plan = make_plan(CONFIG, scores, 0.15, Shrinking(spread="ranked"))
    assert len(plan.blocks[2].channels) == 32, "the best multiple stays"
    assert len(plan.blocks[4].groups) == 1
    assert len(plan.blocks[0].channels) > 600


def test_a_width_that_is_no_multiple_becomes_one() -> None:
    config = CONFIG.model_copy(
        update={
            "blocks": tuple(block.model_copy(update={"intermediate_size": 172}) for block in CONFIG.blocks)
        }
    )
    scores = random_importance()
    channels = tuple(part[:172] for part in scores.channels)
    scores = Importance(scores.groups, channels, scores.hidden, scores.blocks)
    for spread in ("even", "ranked"):
        shrinking = Shrinking.model_validate({"axes": ("channels",), "spread": spread})
        smaller = make_plan(config, scores, 0.2, shrinking).config(config)
        assert all(
            block.intermediate_size % 32 == 0 or block.intermediate_size == 172 for block in smaller.blocks
        )
        assert block_parameters(smaller) <= 0.8 * block_parameters(config)


def test_too_much_at_once_is_refused() -> None:
    with pytest.raises(SpecError, match="in steps of a third"):
        make_plan(CONFIG, random_importance(), 0.5, Shrinking())
    for spread in ("even", "ranked"):
        shrinking = Shrinking.model_validate({"axes": ("groups",), "spread": spread})
        with pytest.raises(SpecError, match="allow more axes"):
            make_plan(CONFIG, random_importance(), 0.3, shrinking)


@pytest.mark.parametrize(("fraction", "steps"), [(0.0, 1), (0.25, 1), (1 / 3, 1), (0.5, 2), (0.8, 4)])
def test_a_schedule_takes_a_third_at_most(fraction: float, steps: int) -> None:
    parts = schedule(fraction)
    assert len(parts) == steps
    assert all(part <= 1 / 3 + 1e-9 for part in parts)
    assert math.prod(1 - part for part in parts) == pytest.approx(1 - fraction)
    with pytest.raises(SpecError, match="less than 1"):
        schedule(1.0)
