"""Which units stay, so that a fraction of the blocks' parameters goes."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from penjing.artifact.config import ModelConfig, block_tensors
from penjing.errors import SpecError
from penjing.prune.axes import check_dense
from penjing.prune.importance import Importance
from penjing.spec import Spec
from penjing.spec.steps import Axis

MOST_AT_ONCE = 1 / 3  # of the parameters: what stays is judged anew before more of it goes
RATIOS = 1024  # how finely a width is told from the next


class Shrinking(Spec):
    """axes: what may become smaller. multiple: feed-forward and hidden widths stay multiples of it.

    spread: `even` takes the same part of every axis and block; `ranked`, of groups and channels, whatever is
    worth least a parameter anywhere.
    """

    axes: tuple[Axis, ...] = Field(default=("groups", "channels"), min_length=1)
    multiple: int = Field(default=32, gt=0)
    spread: Literal["even", "ranked"] = "even"


@dataclass(frozen=True)
class BlockPlan:
    """A block of the source that stays, and its groups and channels that do, ascending."""

    index: int
    groups: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The blocks that stay, and the hidden elements that do, ascending."""

    hidden: tuple[int, ...]
    blocks: tuple[BlockPlan, ...]

    def config(self, source: ModelConfig) -> ModelConfig:
        """The shape of what is left; heads keep their number a group."""
        blocks = []
        for plan in self.blocks:
            block = source.blocks[plan.index]
            shared = block.num_heads // block.num_kv_heads
            widths = {
                "num_heads": shared * len(plan.groups),
                "num_kv_heads": len(plan.groups),
                "intermediate_size": len(plan.channels),
            }
            blocks.append(block.model_copy(update=widths))
        return source.model_copy(update={"hidden_size": len(self.hidden), "blocks": tuple(blocks)})

    def parts(self, source: ModelConfig) -> tuple[Plan, Plan]:
        """The same in two plans, one after the other: blocks and hidden elements; groups and channels."""
        whole = [
            BlockPlan(plan.index, tuple(range(block.num_kv_heads)), tuple(range(block.intermediate_size)))
            for plan in self.blocks
            for block in [source.blocks[plan.index]]
        ]
        inner = [replace(plan, index=index) for index, plan in enumerate(self.blocks)]
        hidden = tuple(range(len(self.hidden)))
        return replace(self, blocks=tuple(whole)), Plan(hidden, tuple(inner))


def make_plan(config: ModelConfig, importance: Importance, fraction: float, shrinking: Shrinking) -> Plan:
    """The plan that removes at least `fraction` of the blocks' parameters, and little more.

    Raises SpecError for more than a third (`schedule`), for a `ranked` plan of other axes than groups and
    channels, and where these axes cannot give so much; UnsupportedConfigError for experts.
    """
    check_dense(config)
    if not 0 <= fraction <= MOST_AT_ONCE + 1e-9:
        raise SpecError(f"removing {fraction:.0%} of the parameters at once: take it in steps of a third")
    limit = int((1 - fraction) * block_parameters(config))
    if shrinking.spread == "ranked":
        return ranked_plan(config, importance, limit, shrinking)
    return even_plan(config, importance, limit, shrinking)


def even_plan(config: ModelConfig, importance: Importance, limit: int, shrinking: Shrinking) -> Plan:
    """The widest plan within a limit of block parameters that keeps the same part of every axis.

    Heads and blocks are coarse: what they give too much, hidden elements and channels get back.
    """

    def at(ratios: Mapping[Axis, float]) -> Plan:
        return plan_at(config, importance, ratios, shrinking.multiple)

    def widest(axes: Sequence[Axis], others: Mapping[Axis, float]) -> dict[Axis, float]:
        tried = [{**others, **dict.fromkeys(axes, 1 - place / RATIOS)} for place in range(RATIOS + 1)]
        fits = bisect_left(
            tried, True, key=lambda ratios: block_parameters(at(ratios).config(config)) <= limit
        )
        if fits > RATIOS:
            raise SpecError(f"{', '.join(shrinking.axes)} cannot give so many parameters: allow more axes")
        return tried[fits]

    ratios = widest(shrinking.axes, {})
    finer: tuple[Axis, ...] = ("hidden", "channels")
    for axis in finer:
        if axis in shrinking.axes:
            ratios = widest([axis], ratios)
    return at(ratios)


def plan_at(config: ModelConfig, importance: Importance, ratios: Mapping[Axis, float], multiple: int) -> Plan:
    """The units of highest scores, this part of every axis, at least one of each."""
    count = max(1, round(ratios.get("blocks", 1.0) * len(config.blocks)))
    blocks = tuple(
        BlockPlan(
            index,
            top(importance.groups[index], ratios.get("groups", 1.0), 1),
            top(importance.channels[index], ratios.get("channels", 1.0), multiple),
        )
        for index in top_places(importance.blocks, count)
    )
    return Plan(top(importance.hidden, ratios.get("hidden", 1.0), multiple), blocks)


def top(scores: Tensor, ratio: float, multiple: int) -> tuple[int, ...]:
    """The best of scores [n], as many as the multiple nearest to this part: at least one, at most all."""
    wanted = max(1, round(ratio * len(scores) / multiple)) * multiple
    return top_places(scores, len(scores) if ratio == 1.0 else min(wanted, len(scores)))


def top_places(scores: Tensor, count: int) -> tuple[int, ...]:
    """Where the `count` highest scores stand, ascending; the first among equals."""
    order = scores.argsort(descending=True, stable=True)[:count]
    return tuple(order.sort().values.tolist())


@dataclass(frozen=True)
class Unit:
    """What a ranked plan removes at once: a group, or the channels that make a multiple.

    density: score a parameter.
    """

    density: float
    parameters: int
    block: int
    groups: frozenset[int] = frozenset()
    channels: frozenset[int] = frozenset()


def ranked_plan(config: ModelConfig, importance: Importance, limit: int, shrinking: Shrinking) -> Plan:
    """Remove groups and channels from wherever they are worth least a parameter, until within the limit."""
    if not {"groups", "channels"}.issuperset(shrinking.axes):
        raise SpecError("spread: ranked removes groups and channels; take even for hidden and blocks")
    units = sorted(all_units(config, importance, shrinking), key=lambda unit: (unit.density, unit.block))
    excess = block_parameters(config) - limit
    groups = [set(range(block.num_kv_heads)) for block in config.blocks]
    channels = [set(range(block.intermediate_size)) for block in config.blocks]
    for unit in units:
        if excess <= 0:
            break
        groups[unit.block] -= unit.groups
        channels[unit.block] -= unit.channels
        excess -= unit.parameters
    if excess > 0:
        raise SpecError(f"{', '.join(shrinking.axes)} cannot give so many parameters: allow more axes")
    blocks = tuple(
        BlockPlan(index, tuple(sorted(kept)), tuple(sorted(channels[index])))
        for index, kept in enumerate(groups)
    )
    return Plan(tuple(range(config.hidden_size)), blocks)


def all_units(config: ModelConfig, importance: Importance, shrinking: Shrinking) -> Iterator[Unit]:
    """All that a ranked plan may remove; the best group and the best multiple of channels always stay."""
    for index, block in enumerate(config.blocks):
        shared = block.num_heads // block.num_kv_heads
        cost = 2 * (shared + 1) * config.head_dim * config.hidden_size
        scores = importance.groups[index]
        for group in scores.argsort(stable=True)[:-1].tolist() if "groups" in shrinking.axes else ():
            yield Unit(float(scores[group]) / cost, cost, index, groups=frozenset([group]))
        if "channels" in shrinking.axes:
            scores, multiple = importance.channels[index], shrinking.multiple
            order = scores.argsort(stable=True)[: -min(multiple, len(scores))]
            first = len(order) % multiple  # what is beyond a multiple goes first
            for bundle in [order[:first], *torch.split(order[first:], multiple)]:
                if len(bundle):
                    cost = 3 * len(bundle) * config.hidden_size
                    density = float(scores[bundle].sum()) / cost
                    yield Unit(density, cost, index, channels=frozenset(bundle.tolist()))


def block_parameters(config: ModelConfig) -> int:
    """Weights of all matrices of all blocks."""
    return sum(
        math.prod(role.shape)
        for block in config.blocks
        for role in block_tensors(config, block).values()
        if role.is_matrix
    )


def schedule(fraction: float) -> list[float]:
    """Equal steps of at most a third that remove `fraction` together, each a part of what is there then."""
    if not 0 <= fraction < 1:
        raise SpecError(f"a part of {fraction} cannot be removed: give at least 0 and less than 1")
    steps = max(1, math.ceil(math.log(1 - fraction) / math.log(1 - MOST_AT_ONCE) - 1e-9))
    return [1 - (1 - fraction) ** (1 / steps)] * steps
