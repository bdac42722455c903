"""What formats cost on this machine, as the solver's choices, and a budget as the solver's limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from penjing.artifact.config import expected_tensors
from penjing.measure.cost_table import CostTable
from penjing.models import Checkpoint
from penjing.optimize.choices import (
    OFFERED,
    Group,
    block_of,
    fixed_bytes,
    groups_of,
    groups_with_choices,
)
from penjing.optimize.load import OUTPUT_TOKENS, PROMPT_TOKENS
from penjing.optimize.predict import Predicted, predict, seconds_of
from penjing.optimize.solver import Limits
from penjing.spec import Budget, Kv, KvFormats, MethodName, WeightFormat

LIKELY_SIZE = 0.5  # of the checkpoint, where no limit says more: whether weights stay in the caches
# What narrower keys and values cost, in nats a token (docs/quality.md), for a first guess: it is measured.
KV_LOSS: tuple[tuple[Kv, float], ...] = (
    ("int8", 0.00005),
    ("int6", 0.0006),
    (KvFormats(key="int6", value="int4"), 0.004),
    ("int4", 0.013),
)
# What calibrated methods leave, in the blocks, of what plain rounding loses (docs/quality.md). All of them
# round embedding and head plainly, which is why those deserve more bits then.
LEFT_IN_BLOCKS: dict[MethodName, float] = {"gptq": 0.5, "qronos": 0.45, "auto": 0.3}


@dataclass(frozen=True, eq=False)
class Costs:
    """How choices are priced. table: None where no limit or objective speaks of time or memory.

    original: what sizes are parts of. losses: of plain rounding. method: how it will be done.
    """

    original: Checkpoint
    checkpoint: Checkpoint
    budget: Budget
    losses: Mapping[str, Mapping[str, float]]
    table: CostTable | None
    method: MethodName = "search"
    offered: Sequence[WeightFormat] = OFFERED

    def groups(self) -> tuple[Group, ...]:
        """Every group with its choices, priced."""
        config, own = self.checkpoint.config, self.checkpoint.formats
        roles, members = expected_tensors(config), dict(groups_of(config))
        read = round((self.budget.max_size or LIKELY_SIZE) * self.original.tensor_bytes)

        def seconds(group: str, format: WeightFormat) -> float:
            assert self.table is not None
            if group == "embedding" and not config.tied_head:
                return 0.0  # looked up, not multiplied
            shapes = tuple((roles[name].shape[0], roles[name].shape[1]) for name in members[group])
            dtype = own.get(members[group][0], "bf16")
            return seconds_of(
                shapes, format, self.table, rows=self.budget.streams, own=dtype, step_bytes=read
            )

        left = LEFT_IN_BLOCKS.get(self.method, 1.0)
        losses = {
            group: {name: loss * (1.0 if block_of(group) is None else left) for name, loss in each.items()}
            for group, each in self.losses.items()
        }
        return groups_with_choices(
            config,
            losses,
            self.offered,
            seconds=None if self.table is None else seconds,
            own=own,
        )

    def limits(self, groups: tuple[Group, ...], kv: Kv, kv_loss: float) -> Limits:
        """The budget, but for the limit of loss, which goes with what is measured."""
        config, budget = self.checkpoint.config, self.budget
        fixed = fixed_bytes(config, self.checkpoint.formats)
        room = None
        if budget.max_size is not None:
            room = int(budget.max_size * self.original.tensor_bytes)
        limits = Limits(nbytes=room, fixed_bytes=fixed, fixed_loss=kv_loss)
        if self.table is None:
            return limits
        middle = [group.choices[len(group.choices) // 2] for group in groups]
        formats = {
            name: choice.format
            for group, choice in zip(groups, middle, strict=True)
            for name in group.matrices
        }
        found = self.predicted(formats, kv)
        rest = found.decode_seconds_per_token - sum(choice.seconds for choice in middle)
        limits = replace(limits, seconds=budget.max_seconds, fixed_seconds=max(rest, 0.0))
        if budget.max_ram is None:
            return limits
        beside = found.peak_memory_bytes - found.tensor_bytes
        least = budget.max_ram - beside
        return replace(limits, nbytes=least if room is None else min(room, least))

    def predicted(self, formats: Mapping[str, WeightFormat], kv: Kv) -> Predicted:
        """A model of these formats by matrix, under the budget's load."""
        assert self.table is not None
        config = self.checkpoint.config
        prompt = min(PROMPT_TOKENS, config.max_positions - OUTPUT_TOKENS)
        kept = {
            name: WeightFormat(name="keep")
            for name, role in expected_tensors(config).items()
            if role.is_matrix
        }
        return predict(
            config,
            kept | dict(formats),
            spelt_out(kv),
            self.table,
            context=prompt + OUTPUT_TOKENS // 2,
            prompt=prompt,
            streams=self.budget.streams,
            own=self.checkpoint.formats,
        )


def spelt_out(kv: Kv) -> KvFormats:
    """The formats of keys and of values."""
    return kv if isinstance(kv, KvFormats) else KvFormats(key=kv, value=kv)
