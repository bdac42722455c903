"""How much memory this process ever held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

SELF_STATUS = Path("/proc/self/status")


def peak_rss_bytes() -> int:
    """The most physical memory that this process ever held, mapped files that it touched included."""
    if SELF_STATUS.exists():
        for line in SELF_STATUS.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
