"""The memory a process held."""

from __future__ import annotations

import subprocess
import sys

from penjing.measure.memory import peak_rss_bytes


def test_peak_memory_stays_after_memory_is_freed() -> None:
    code = (
        "from penjing.measure.memory import peak_rss_bytes\n"
        "before = peak_rss_bytes(); block = bytearray(80_000_000); del block\n"
        "print(before, peak_rss_bytes())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = map(int, output.split())
    assert after - before > 70_000_000
    assert peak_rss_bytes() > 10_000_000
