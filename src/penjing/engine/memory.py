"""How many KV pages to allocate when nobody says."""

from __future__ import annotations

from pathlib import Path

from penjing.artifact.config import ModelConfig
from penjing.engine.pages import pages_for
from penjing.engine.step import PAGE_TOKENS
from penjing.measure.cost import kv_bytes_per_token
from penjing.measure.machine import usable_memory_bytes

MEMORY_FRACTION = 0.25  # of the available memory, at most, goes to KV pages by default


def page_bytes(config: ModelConfig) -> int:
    """Bytes of one page over all blocks."""
    return PAGE_TOKENS * sum(kv_bytes_per_token(config, block) for block in config.blocks)


def available_bytes() -> int:
    """Memory to allocate without swapping: the kernel's estimate, within a container's limit if any."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:  # not Linux: all of it
        lines = []
    estimates = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([usable_memory_bytes(), *estimates])


def default_num_pages(config: ModelConfig, max_sequences: int) -> int:
    """Pages for `max_sequences` full contexts, or as many as fit a quarter of the available memory; at least
    one full context, so that any prompt that the model can take can be served."""
    context = pages_for(config.max_positions)
    affordable = int(available_bytes() * MEMORY_FRACTION) // page_bytes(config)
    return max(context, min(max_sequences * context, affordable))
