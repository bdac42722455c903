"""From a run to a row of the table: how large, how far from the original, and how it stands to others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from penjing.spec import Tier
from quantizers.job import LINEARS
from quantizers.judge import Judge, Verdict
from quantizers.ours import Made
from quantizers.runs import Run

Row = dict[str, Any]
Verdicts = dict[str, Verdict]
BITS_TOLERANCE = 0.3  # a peer with so many bits more than ours still counts as about as large


def judged_peer(run: Run, judge: Judge) -> tuple[Row, Verdict]:
    """The row of a peer, and the verdict on its block linears."""
    facts, tensors = run.facts, load_file(run.directory / "weights.safetensors")
    blocks = judge.weights({name: value for name, value in tensors.items() if is_block_linear(name)})
    row = {"name": run.name, "ours": False, "settings": run.settings, **facts, "blocks": summary(blocks)}
    if "tensor_bytes" in facts:
        row["whole"] = summary(judge.weights(tensors))
    return row, blocks


def judged_ours(name: str, made: Made, tier: Tier, judge: Judge) -> tuple[Row, Verdict]:
    """The row of an artifact of ours at a tier, and the verdict on its block linears."""
    blocks = judge.weights(made.tensors(tier, embedding=False))
    row = {
        "name": name,
        "ours": True,
        "settings": made.artifact.manifest.provenance.recipe.model_dump(mode="json"),
        "bits_per_weight": made.bits_per_weight(tier),
        "tensor_bytes": made.artifact.tier_bytes(tier),
        "processor_seconds": made.processor_seconds,
        "blocks": summary(blocks),
        "whole": summary(judge.weights(made.tensors(tier, embedding=True))),
        "served": summary(judge.artifact(made.artifact, tier)),
    }
    return row, blocks


def is_block_linear(name: str) -> bool:
    """Whether a published name is that of a matrix in a block."""
    return name.removesuffix(".weight").rpartition(".")[2] in LINEARS


def summary(verdict: Verdict) -> dict[str, list[float]]:
    """Means with their intervals."""
    return {"kl": list(verdict.interval(verdict.kl)), "delta_nll": list(verdict.interval(verdict.delta_nll))}


def ratios_of(rows: list[Row], verdicts: Verdicts) -> list[Row]:
    """Each of ours against the best peer of about as many bits; differences are taken token by token."""
    found = []
    for row in rows:
        bits = row["bits_per_weight"]
        near = [
            peer
            for peer in rows
            if not peer["ours"] and abs(peer["bits_per_weight"] - bits) <= BITS_TOLERANCE
        ]
        if row["ours"] and near:
            peer = min(near, key=lambda near_row: near_row["blocks"]["kl"][0])
            mine, other = verdicts[row["name"]], verdicts[peer["name"]]
            difference: NDArray[np.float64] = mine.kl - other.kl
            found.append(
                {
                    "ours": row["name"],
                    "peer": peer["name"],
                    "ours_bits": bits,
                    "peer_bits": peer["bits_per_weight"],
                    "ratio": float(mine.kl.mean() / other.kl.mean()),
                    "difference": list(mine.interval(difference)),
                }
            )
    return found
