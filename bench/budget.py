"""Searches for a tight budget, then asks text that the search never saw whether its certificate is right.

python bench/budget.py --directory DIRECTORY [--max-size 27%] [--max-loss 2%] [--method auto] [--text DIR]

Documents are the Python files under --text (by default, the packages installed beside this Python), dealt by
the hash of their text: some to the search, which chooses, calibrates and claims by them, and disjoint ones to
an independent `penjing evaluate` and to 20 fresh splits. A split agrees if its mean loss is at most the bound
of the certificate.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from penjing.errors import PenjingError
from penjing.models import SEEDLING
from penjing.optimize.evaluate import evaluate
from penjing.optimize.search import optimize
from penjing.spec import Budget

SPLITS, CHARACTERS = 20, 150_000  # of one; about 45,000 tokens, of which --tokens are scored
SEARCHED, EVALUATED = 12, 2  # splits' worth of text
LARGEST = 40_000  # characters of a file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="for texts and the artifact")
    parser.add_argument("--max-size", default="27%")
    parser.add_argument("--max-loss", default="2%")
    parser.add_argument("--method", choices=("search", "gptq", "auto"), default="auto")
    parser.add_argument("--train-minutes", type=float)
    parser.add_argument("--text", type=Path, default=Path(sysconfig.get_path("purelib")))
    parser.add_argument("--tokens", type=int, default=32768, help="of the search; half of it a split")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    searched, evaluated, *splits = texts(options.text, options.directory)
    budget = Budget.model_validate({"max_size": options.max_size, "max_loss": options.max_loss})
    tray, threads = options.directory / "tray", options.threads
    began = time.monotonic()
    found = optimize(
        SEEDLING,
        tray,
        budget,
        searched,
        method=options.method,
        train_minutes=options.train_minutes,
        tokens=options.tokens,
        threads=threads,
        force=True,
        say=lambda line: print(f"  {line}", flush=True),
    )
    print(f"\n{found.chosen} in {time.monotonic() - began:.0f} s, on {threads} threads")
    measured = found.certificate.measured
    print("\n| text | size | mean loss | bound | tokens |")
    print("|---|---:|---:|---:|---:|")
    row(
        "certificate", measured.size_ratio, measured.mean_delta_nll, measured.upper_delta_nll, measured.tokens
    )
    again = evaluate(tray, SEEDLING, evaluated, tokens=None, threads=threads, speed=False)
    bound = again.compared.bound
    row("evaluate", again.compared.size_ratio, bound.mean, bound.upper, again.tokens)
    held = 0
    for number, split in enumerate(splits):
        one = evaluate(tray, SEEDLING, split, tokens=options.tokens // 2, threads=threads, speed=False)
        bound = one.compared.bound
        row(f"split {number + 1}", one.compared.size_ratio, bound.mean, bound.upper, one.tokens)
        held += bound.mean <= measured.upper_delta_nll
    print(f"\nthe certificate's bound holds on {held} of {len(splits)} splits")


def texts(source: Path, directory: Path) -> list[Path]:
    """JSON lines for the search, for the evaluation, and for every split; no document is in two."""
    waiting = iter(documents(source))
    paths = []
    for name, share in [("search", SEARCHED), ("evaluate", EVALUATED), *((str(n), 1) for n in range(SPLITS))]:
        size, lines = 0, []
        while size < share * CHARACTERS:
            text = next(waiting, None)
            if text is None:
                raise SystemExit(f"budget: there is too little text under {source}: give more with --text")
            lines.append(json.dumps({"text": text}))
            size += len(text)
        paths.append(directory / f"{name}.jsonl")
        paths[-1].write_text("\n".join(lines), "utf-8")
    return paths


def documents(source: Path) -> Sequence[str]:
    """Files of a readable size, each text once, in the order of their hashes."""
    found: dict[str, str] = {}
    for file in sorted(source.rglob("*.py")):
        if 2000 <= file.stat().st_size <= LARGEST:
            try:
                text = file.read_text("utf-8")
            except UnicodeDecodeError:
                continue
            found[hashlib.sha256(text.encode()).hexdigest()] = text
    return [found[digest] for digest in sorted(found)]


def row(name: str, size: float, mean: float, upper: float, tokens: int) -> None:
    """A line of the table; losses as rises of perplexity."""
    print(
        f"| {name} | {size:.2%} | {math.expm1(mean):+.2%} | {math.expm1(upper):+.2%} | {tokens:,} |",
        flush=True,
    )


if __name__ == "__main__":
    try:
        main()
    except PenjingError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
