"""What serving holds in memory: the artifact, its KV pages, and a fixed allowance for all else."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_serve_real import artifact_path  # noqa: F401  (a fixture)
from test_serve_run import client_of, process_of

from penjing.artifact import Artifact
from penjing.engine.runner import CpuRunner

ALLOWANCE_BYTES = 150e6  # interpreter, libraries, tokenizer, scratch, logits
STREAMS, NUM_TOKENS = 16, 40


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_sixteen_streams_within_the_allowance(artifact_path: Path) -> None:  # noqa: F811
    code = f"import penjing\npenjing.serve({{'maple': {str(artifact_path)!r}}}, port=0, threads=2)\n"
    with process_of(code) as (process, url), client_of(url) as client:

        def ask(number: int) -> None:
            prompt = f"{number}: " + "the little tree stands in a tray and " * 5
            stream = client.completions.create(
                model="maple", prompt=prompt, max_tokens=NUM_TOKENS, temperature=1, stream=True
            )
            assert list(stream)[-1].choices[0].finish_reason

        with ThreadPoolExecutor(STREAMS) as pool:
            list(pool.map(ask, range(STREAMS)))
        status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    artifact = Artifact.open(artifact_path)
    most_pages = STREAMS * -(-artifact.config.max_positions // 32)
    kv_bytes = most_pages * CpuRunner(artifact, threads=1).kv_bytes_per_page
    assert int(peak[1]) * 1024 <= artifact.tensor_bytes + kv_bytes + ALLOWANCE_BYTES
