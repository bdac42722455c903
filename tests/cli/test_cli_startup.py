"""From the start of the process to the first token on the screen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from penjing.models.embedded import SEEDLING

LIMIT_SECONDS = 1.0
ATTEMPTS = 8


def first_token_seconds(cache: Path) -> float:
    """Seconds until `penjing generate seedling` has printed something."""
    command = [sys.executable, "-m", "penjing", "generate", "seedling", "import os\n", "--max-tokens", "4"]
    environment = os.environ | {"PENJING_CACHE": str(cache)}
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.stdout.read()  # to its end: a reader who leaves early is an error of its own
    assert process.returncode == 0
    return seconds


def test_first_token_within_a_second(cache: Path) -> None:
    """The least of several starts: what the program needs, not what else the machine was doing."""
    assert (SEEDLING / "model.safetensors").is_file()
    seconds = []
    while len(seconds) < ATTEMPTS and min(seconds, default=LIMIT_SECONDS) >= LIMIT_SECONDS:
        seconds.append(first_token_seconds(cache))
    assert min(seconds) < LIMIT_SECONDS, seconds
