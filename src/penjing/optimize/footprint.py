"""Run as a process of its own: serve one request read from stdin, print the peak memory in bytes."""

from __future__ import annotations

import json
import sys

from penjing.engine import Engine
from penjing.engine.pages import pages_for
from penjing.measure.memory import peak_rss_bytes
from penjing.optimize.serving import MAX_REQUEST_TOKENS, Request, time_request


def main() -> None:
    """Read {artifact, tier, threads, request}, serve it, report."""
    order = json.load(sys.stdin)
    engine = Engine(
        order["artifact"],
        tier=order["tier"],
        threads=order["threads"],
        num_pages=pages_for(MAX_REQUEST_TOKENS),
        max_sequences=1,
    )
    time_request(engine, Request(**order["request"]))
    print(peak_rss_bytes())


if __name__ == "__main__":
    main()
