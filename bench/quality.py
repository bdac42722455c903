"""Quantizers beside each other: how far from the original a model is at so many bits per weight.

    python bench/quality.py --prepare                    # environment of the peers, once
    python bench/quality.py --output docs/quality        # all of it: hours, most of them AutoRound's
    python bench/quality.py --only 'Penjing|llama.cpp'   # names that match, beside what was found before

Peers are AutoRound, llm-compressor and llama.cpp, in an environment of their own under --cache-dir. All
calibrate on the same tokens, and one judge compares what they made with the original on text that nobody has
seen. What was found is kept by the hash of all that it depends on: a second run repeats nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from peer.environment import Environment
from quantizers.compare import Row, Verdicts, judged_ours, judged_peer, ratios_of
from quantizers.judge import Judge
from quantizers.ours import make
from quantizers.plan import BASE, QUANTIZERS, ours, peers
from quantizers.runs import Material, Run
from quantizers.stories import STORIES, find_stories, written_windows
from quantizers.table import markdown_of, write
from quantizers.texts import Windows, calibration_windows, evaluation_windows

import penjing
from penjing.models.embedded import SEEDLING
from penjing.optimize.reference import cache_directory

PLOT = Path(__file__).parent / "quantizers" / "plot.py"


def main() -> None:
    options = parse_options()
    environment = Environment(options.cache_dir / "environment", BASE, QUANTIZERS)
    if not options.cached:
        environment.install(list(QUANTIZERS))
    if options.prepare:
        print(f"ready in {options.cache_dir}; missing: {environment.missing or 'nobody'}")
        return
    results = compare(options, environment)
    print(markdown_of(results))
    if options.output:
        path = write(results, options.output)
        subprocess.run([environment.python, PLOT, path, path.with_suffix(".svg")], check=True)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a regular expression: run nothing whose name lacks it")
    parser.add_argument("--cached", action="store_true", help="run no peer: only show what was found before")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache-dir", type=Path, default=cache_directory() / "quality")
    parser.add_argument("--output", type=Path, help="directory for table.json and table.svg")
    parser.add_argument("--prepare", action="store_true", help="install the peers, then stop")
    return parser.parse_args()


def compare(options: argparse.Namespace, environment: Environment) -> dict[str, Any]:
    """Run what was not run before, judge all of it, and put it into one table."""
    cache: Path = options.cache_dir
    calibration, evaluation = calibration_windows(), evaluation_windows()
    judge = Judge(SEEDLING, evaluation, cache, options.threads)
    material = Material(
        SEEDLING, judge.checkpoint.hash, saved(calibration, cache / "calibration"), calibration.sha256
    )
    rows: list[Row] = []
    verdicts: Verdicts = {}
    missing = dict(environment.missing)
    for name, settings in peers().items():
        run = Run.of(name, settings, material, cache)
        if not run.is_done:
            reason = start(run, material, options, environment)
            if reason is not None:
                missing[name] = reason
                continue
        row, verdicts[name] = judged_peer(run, judge)
        rows.append(row)
    own_rows, own_verdicts = compare_ours(judge, calibration, cache)
    rows, verdicts = rows + own_rows, verdicts | own_verdicts
    return {
        "model": "Seedling",
        "texts": {"calibration": described(calibration), "evaluation": described(evaluation)},
        "versions": versions(environment),
        "rows": rows,
        "ratios": ratios_of(rows, verdicts),
        "stories": compare_stories(cache, options.threads, missing),
        "missing": missing,
    }


def compare_ours(judge: Judge, calibration: Windows, cache: Path) -> tuple[list[Row], Verdicts]:
    """Every recipe of ours on the judge's checkpoint, at every tier."""
    rows: list[Row] = []
    verdicts: Verdicts = {}
    for name, step in ours().items():
        made = make(judge.checkpoint, step, calibration, cache)
        for tier in made.artifact.tiers:
            label = name if len(made.artifact.tiers) == 1 else f"{name}, {tier}"
            row, verdicts[label] = judged_ours(label, made, tier, judge)
            rows.append(row)
    return rows, verdicts


def compare_stories(cache: Path, threads: int, missing: dict[str, str]) -> list[Row]:
    """The same recipes on stories260k; none, and a reason, where it is not there."""
    model = find_stories()
    if model is None:
        missing["stories260k"] = "not beside the checkout, and PENJING_TEST_DATA names no directory with it"
        return []
    judged, calibration = (written_windows(model, first_seed, threads) for first_seed in (0, STORIES))
    return compare_ours(Judge(model, judged, cache, threads), calibration, cache)[0]


def start(run: Run, material: Material, options: argparse.Namespace, environment: Environment) -> str | None:
    """Run a peer if that was asked for; why there is nothing of it, if so."""
    if run.settings["quantizer"] in environment.missing:
        return environment.missing[run.settings["quantizer"]]
    if options.cached or not re.search(options.only, run.name):
        return run.failure or "not run yet"
    return run.start(environment.python, material, options.threads)


def saved(windows: Windows, directory: Path) -> Path:
    """The token ids in a file, under their hash."""
    path = directory / f"{windows.sha256[:12]}.npy"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        np.save(path, windows.tokens)
    return path


def described(windows: Windows) -> dict[str, Any]:
    """What is needed to know a text again."""
    return {"windows": len(windows.tokens), "sha256": windows.sha256}


def versions(environment: Environment) -> dict[str, str]:
    """Ours and the peers'."""
    found = environment.versions()
    pinned = [
        spec.partition("==")[0]
        for spec in (*BASE, *(spec for specs in QUANTIZERS.values() for spec in specs))
    ]
    return {"penjing": penjing.__version__} | {name: found[name] for name in pinned if name in found}


if __name__ == "__main__":
    main()
