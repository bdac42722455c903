"""Peak memory of generating and of serving, beside what it must hold: `python bench/memory.py ARTIFACT`.

Peaks are the kernel's own (VmHWM). `artifact` is the bytes of its tensors, `KV` those of the pages that the
run filled, and `rest` what is left: interpreter, libraries, tokenizer, scratch, logits. The promise is a rest
of at most 150 MB at 1.1 billion parameters and 16 streams.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from penjing.artifact import Artifact
from penjing.engine.pages import pages_for
from penjing.engine.runner import CpuRunner
from penjing.text import Tokenizer

STREAMS, TOKENS = 16, 24
PROMPT = " ".join(f"{number} trees stood by the water and {number + 1} birds sang;" for number in range(40))


def generate_peak_bytes(artifact: Path) -> int:
    """Of `penjing generate`."""
    command = ["generate", str(artifact), PROMPT, "--max-tokens", str(TOKENS)]
    with subprocess.Popen([sys.executable, "-m", "penjing", *command], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


def serve_peak_bytes(artifact: Path) -> int:
    """Of `penjing serve` after STREAMS requests at a time, whose prompts share nothing."""
    command = [sys.executable, "-m", "penjing", "serve", str(artifact), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
        assert found is not None
        with ThreadPoolExecutor(STREAMS) as pool:
            asked = [
                (found[1], int(found[2]), artifact.name, f"{stream}: {PROMPT}") for stream in range(STREAMS)
            ]
            list(pool.map(stream_completion, asked))
        status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    return int(peak[1]) * 1024


def stream_completion(asked: tuple[str, int, str, str]) -> None:
    """Ask for a streamed completion and read it to its end."""
    host, port, model, prompt = asked
    connection = http.client.HTTPConnection(host, port, timeout=600)
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    assert b"[DONE]" in response.read()


def main(path: str) -> None:
    """Print a line for each way of running."""
    directory = Path(path)
    opened = Artifact.open(directory, verify="none")
    page_bytes = CpuRunner(opened, threads=1).kv_bytes_per_page
    longest = Tokenizer.load(directory).encode(f"{STREAMS}: {PROMPT}")
    pages = pages_for(len(longest) + TOKENS)
    print(f"{'MB':20}", *(column.rjust(9) for column in ("peak", "artifact", "KV", "rest")))
    for name, peak, streams in (
        ("generate", generate_peak_bytes(directory), 1),
        (f"serve, {STREAMS} streams", serve_peak_bytes(directory), STREAMS),
    ):
        kv = streams * pages * page_bytes
        numbers = (peak, opened.tensor_bytes, kv, peak - opened.tensor_bytes - kv)
        print(f"{name:20}", *(f"{number / 1e6:9.1f}" for number in numbers))


if __name__ == "__main__":
    main(sys.argv[1])
