"""Run as a process of its own: serve one request read from stdin, print the peak memory in bytes."""

from __future__ import annotations

import json
import sys

from penjing.engine import Engine
from penjing.measure.speed import peak_rss_bytes
from penjing.optimize.serving import time_request


def main() -> None:
    """Read {artifact, tier, threads, prompt}, serve it, report."""
    request = json.load(sys.stdin)
    engine = Engine(
        request["artifact"],
        tier=request["tier"],
        threads=request["threads"],
        max_sequences=1,
    )
    time_request(engine, request["prompt"])
    print(peak_rss_bytes())


if __name__ == "__main__":
    main()
