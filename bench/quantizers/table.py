"""What the comparison comes to: plain data, the tables made of it, and their place in docs/quality.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from peer.page import write_page

Row = dict[str, Any]
BEGIN, END = "<!-- quality: written by bench/quality.py -->", "<!-- quality: end -->"
CLASSES = ((2.0, 3.0), (3.0, 4.0), (4.0, 5.0), (5.0, 7.0), (7.0, 17.0))  # bits per weight, from and below


def markdown_of(results: Row) -> str:
    """Tables of blocks alone and of whole files, and who is missing."""
    parts = [*header(results), "", *block_table(results["rows"]), "", *file_table(results["rows"])]
    parts += ["", *ratio_table(results["ratios"])]
    if results["stories"]:
        parts += ["\nstories260k, on stories that it wrote:\n", *file_table(results["stories"])]
    reasons: dict[str, list[str]] = {}
    for name, reason in results["missing"].items():
        reasons.setdefault(reason, []).append(name)
    parts += [f"\nNot measured ({reason}): {'; '.join(names)}." for reason, names in reasons.items()]
    return "\n".join(parts)


def header(results: Row) -> list[str]:
    """Model, texts, versions."""
    listed = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    texts = results["texts"]
    return [
        f"Model {results['model']}; calibration on {texts['calibration']['windows']} windows of 256 tokens "
        f"(sha256 {texts['calibration']['sha256'][:12]}), evaluation on {texts['evaluation']['windows']} "
        f"(sha256 {texts['evaluation']['sha256'][:12]}). {listed}."
    ]


def block_table(rows: list[Row]) -> list[str]:
    """Block linears alone, embedding and head kept: by class of bits, best first."""
    lines = [
        "| quantizer | bits per weight | KL, nats | increase of NLL, nats | processor seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    for low, high in CLASSES:
        inside = [row for row in rows if row.get("blocks") and low <= row["bits_per_weight"] < high]
        for row in sorted(best_settings(inside), key=lambda row: row["blocks"]["kl"][0]):
            name = f"**{row['name']}**" if row["ours"] else row["name"]
            found = row["blocks"]
            lines.append(
                f"| {name} | {row['bits_per_weight']:.2f} | {interval(found['kl'])} | "
                f"{interval(found['delta_nll'])} | {row['processor_seconds']:,.0f} |"
            )
    return lines


def best_settings(rows: Iterable[Row]) -> Iterator[Row]:
    """Of rows that differ in tried settings only, the one with the least KL: choosing favours the peer."""
    least: dict[str, Row] = {}
    for row in rows:
        family = row["name"].partition(" (")[0]
        if family not in least or row["blocks"]["kl"][0] < least[family]["blocks"]["kl"][0]:
            least[family] = row
    return iter(least.values())


def file_table(rows: list[Row]) -> list[str]:
    """Whole files, embedding and head quantized too; ours also as they are served."""
    lines = [
        "| file | bytes of tensors | KL, nats | KL as served | increase of NLL as served |",
        "|---|---:|---:|---:|---:|",
    ]
    whole = [row for row in rows if row.get("whole")]
    for row in sorted(whole, key=lambda row: row["tensor_bytes"]):
        name = f"**{row['name']}**" if row["ours"] else row["name"]
        served = row.get("served")
        cells = [interval(served["kl"]), interval(served["delta_nll"])] if served else ["", ""]
        lines.append(
            f"| {name} | {row['tensor_bytes']:,} | {interval(row['whole']['kl'])} | "
            + " | ".join(cells)
            + " |"
        )
    return lines


def ratio_table(ratios: list[Row]) -> list[str]:
    """Ours against the best peer with about as many bits, paired."""
    lines = [
        "| ours | best peer | bits, ours and theirs | KL ratio | difference of KL, paired |",
        "|---|---|---:|---:|---:|",
    ]
    for found in ratios:
        bits = f"{found['ours_bits']:.2f}, {found['peer_bits']:.2f}"
        lines.append(
            f"| {found['ours']} | {found['peer']} | {bits} | {found['ratio']:.2f} | "
            f"{interval(found['difference'])} |"
        )
    return lines


def interval(found: list[float]) -> str:
    """A mean with its 90% interval."""
    mean, low, high = found
    digits = 2 - math.floor(math.log10(abs(mean))) if mean else 0  # three significant ones of the mean
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def write(results: Row, output: Path) -> Path:
    """Write table.json into `output`, and the tables into the page `output`.md if it has a place for them."""
    path = output / "table.json"
    write_page(
        results, path, markdown_of(results), plot_title="Bits per weight against KL", marks=(BEGIN, END)
    )
    return path
