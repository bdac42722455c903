"""Ways to make a model smaller that advice knows of: what each is called, costs and takes to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from penjing.artifact import ModelConfig, block_tensors
from penjing.spec import WeightFormatName

PRUNED_PART = 0.25
PRUNED_MULTIPLE = 32
Risk = Literal["none", "tiny", "small", "noticeable", "heavy", "training"]


@dataclass(frozen=True)
class Known:
    """A way to make a model smaller, and what it cost the embedded model in perplexity (docs/quality.md,
    as served; docs/compression.md for pruning, before training)."""

    name: str
    what: str
    format: WeightFormatName
    risk: Risk
    perplexity_rise: float
    options: str
    pruned: bool = False

    def commands(self, source: str) -> tuple[str, ...]:
        """From a checkpoint to the service."""
        quantize, serve = f"penjing quantize {{}} -o tray {self.options}", "penjing serve tray"
        if not self.pruned:
            return quantize.format(source), serve
        return (
            f"penjing prune {source} -o smaller --fraction {PRUNED_PART}",
            f"penjing distill smaller --teacher {source} -o taught --minutes 60",
            quantize.format("taught"),
            serve,
        )


KNOWN = (
    Known("int8", "8-bit weights, made in seconds", "int8", "tiny", 0.0005, "--format int8"),
    Known(
        "layered",
        "8 bits, and int4 as its fast tier in the same file",
        "layered",
        "tiny",
        0.0011,
        "--format layered --method auto",
    ),
    Known("int4", "4-bit weights, calibrated", "int4", "small", 0.0084, "--format int4 --method auto"),
    Known(
        "table3",
        "3-bit weights with learned levels",
        "table3",
        "noticeable",
        0.0235,
        "--format table3 --method auto",
    ),
    Known(
        "table2",
        "2-bit weights with learned levels",
        "table2",
        "heavy",
        0.119,
        "--format table2 --method auto",
    ),
    Known(
        "pruned + int4",
        "a quarter of the blocks out, in channels, retrained, 4 bits",
        "int4",
        "training",
        0.132,
        "--format int4 --method auto",
        pruned=True,
    ),
)


def is_dense(config: ModelConfig) -> bool:
    """Whether no block has experts: only such models lose whole units."""
    return all(block.feed_forward == "dense" for block in config.blocks)


def pruned(config: ModelConfig) -> ModelConfig:
    """About the shape that is left without a quarter of every block's parameters, all of them channels."""
    channel = 3 * config.hidden_size  # in gate, up and down
    blocks = []
    for block in config.blocks:
        roles = block_tensors(config, block).values()
        weights = sum(math.prod(role.shape) for role in roles if role.is_matrix)
        left = block.intermediate_size - PRUNED_PART * weights / channel
        width = max(PRUNED_MULTIPLE, math.floor(left / PRUNED_MULTIPLE) * PRUNED_MULTIPLE)
        blocks.append(block.model_copy(update={"intermediate_size": width}))
    return config.model_copy(update={"blocks": tuple(blocks)})
