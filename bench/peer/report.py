"""What a contest comes to, as JSON, as Markdown, and in its place in a page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from peer.contest import Contest
from peer.page import write_page
from penjing.measure.machine import Machine

FOREIGN_LIMIT = 0.05  # of the machine; more than that, and the timings are not to be trusted
BEGIN, END = "<!-- peers: written by bench/peers.py -->", "<!-- peers: end -->"


def results_of(
    contest: Contest, shape: str, rounds: int, machine: Machine, versions: dict[str, str]
) -> dict[str, Any]:
    """Everything, as plain data."""
    return {
        "shape": shape,
        "threads": contest.threads,
        "rounds": rounds,
        "machine": machine.model_dump(mode="json"),
        "versions": versions,
        "contenders": {
            contender.entry.name: {
                "bits": contender.entry.bits,
                "model_bytes": contender.entry.model_bytes,
                "peak_memory_bytes": contender.peak_memory_bytes(),
                "foreign_share": max(contender.foreign_shares),
                "tokens_per_second": contest.rates[contender.entry.name],
            }
            for contender in contest.contenders
        },
        "missing": contest.missing,
        "ratios": [asdict(ratio) for ratio in contest.ratios()],
    }


def markdown_of(results: dict[str, Any]) -> str:
    """Two tables, and what must be known to read them."""
    return "\n".join(
        [*header(results), "", *rate_table(results), "", *ratio_table(results), *caveats(results)]
    )


def header(results: dict[str, Any]) -> list[str]:
    """Where, what and how often."""
    machine, versions = results["machine"], results["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        f"Shape {results['shape']}, random weights; {machine['cpu_model']} ({machine['isa']}), "
        f"{results['threads']} threads, {machine['read_bytes_per_second'] / 1e9:.1f} GB/s and "
        f"{machine['int8_operations_per_second'] / 1e9:,.0f} int8 GOP/s measured in the same run. "
        f"Medians of {results['rounds']} interleaved rounds. {listed}."
    ]


def rate_table(results: dict[str, Any]) -> list[str]:
    """Tokens a second of each contender at each task."""
    contenders = results["contenders"]
    tasks = list(next(iter(contenders.values()))["tokens_per_second"])
    lines = [
        "| tokens/s | " + " | ".join(tasks) + " | weights | peak memory |",
        "|---|" + "---:|" * (len(tasks) + 2),
    ]
    for name, found in contenders.items():
        rates = [f"{median(found['tokens_per_second'][task]):,.1f}" for task in tasks]
        sizes = [f"{found[key] / 1e6:,.0f} MB" for key in ("model_bytes", "peak_memory_bytes")]
        lines.append(f"| {name} | " + " | ".join([*rates, *sizes]) + " |")
    return lines


def ratio_table(results: dict[str, Any]) -> list[str]:
    """Penjing over peer, with the range over rounds."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for ratio in results["ratios"]:
        text = f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['largest']:.2f})"
        cells.setdefault((ratio["ours"], ratio["theirs"]), {})[ratio["task"]] = text
    if not cells:
        return []
    tasks = list(next(iter(cells.values())))
    lines = ["| Penjing / peer | " + " | ".join(tasks) + " |", "|---|" + "---:|" * len(tasks)]
    for (ours, theirs), found in cells.items():
        lines.append(f"| {ours} / {theirs} | " + " | ".join(found[task] for task in tasks) + " |")
    return lines


def caveats(results: dict[str, Any]) -> list[str]:
    """Who is missing, and whether the machine was quiet."""
    lines = [f"\nNot measured: {name} ({reason})." for name, reason in results["missing"].items()]
    disturbed = max((found["foreign_share"] for found in results["contenders"].values()), default=0.0)
    if disturbed > FOREIGN_LIMIT:
        lines.append(
            f"\n**Other work took up to {disturbed:.0%} of the machine: do not rely on these numbers.**"
        )
    return lines


def write(results: dict[str, Any], output: Path) -> Path:
    """Write peers.json into `output`, and the tables into the page `output`.md if it has a place for them."""
    path = output / "peers.json"
    write_page(results, path, markdown_of(results), plot_title="Tokens per second", marks=(BEGIN, END))
    return path
