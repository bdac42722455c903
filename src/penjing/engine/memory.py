"""How many KV pages to allocate when nobody says."""

from __future__ import annotations

from pathlib import Path

from penjing.engine.pages import pages_for
from penjing.measure.machine import usable_memory_bytes

MEMORY_FRACTION = 0.25  # of the available memory, at most, goes to KV pages by default


def available_bytes() -> int:
    """Memory to allocate without swapping: the kernel's estimate, within a container's limit if any."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:  # not Linux: all of it
        lines = []
    estimates = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([usable_memory_bytes(), *estimates])


def affordable_pages(page_bytes: int) -> int:
    """Pages of `page_bytes` bytes that a prudent share of this machine's available memory holds."""
    return int(available_bytes() * MEMORY_FRACTION) // page_bytes


def default_num_pages(capacity: int, max_positions: int, max_sequences: int) -> int:
    """Pages for `max_sequences` full contexts, or as many as the runner's capacity; at least one full
    context, so that any prompt that the model can take can be served."""
    context = pages_for(max_positions)
    return max(context, min(max_sequences * context, capacity))
