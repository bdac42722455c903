"""Relative squared error of every weight format on a checkpoint's block matrices, without data.

python bench/grids.py ../shared/data/stories260k/model.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from penjing.formats import decode, encode
from penjing.formats.encoded import PLANE_BITS
from penjing.spec import WITH_ZERO_POINTS, WeightFormat


def main() -> None:
    """One line a format: bits a weight (padding included), and the error by either choice of scales."""
    tensors = load_file(Path(sys.argv[1]))
    weights = [w.astype(np.float32) for name, w in tensors.items() if ".layers." in name and w.ndim == 2]
    energy, count = sum(float((w**2).sum()) for w in weights), sum(w.size for w in weights)
    formats = [(name, False) for name in PLANE_BITS] + [(name, True) for name in WITH_ZERO_POINTS]
    print("| format | bits a weight | range | search |\n|---|---:|---:|---:|")
    for name, asymmetric in formats:
        format = WeightFormat.model_validate({"name": name, "group_size": 64, "asymmetric": asymmetric})
        cells = []
        for choice in ("range", "search"):
            encoded = [encode(w, format, choice, name) for w in weights]
            error = sum(float(((decode(e) - w) ** 2).sum()) for e, w in zip(encoded, weights, strict=True))
            cells.append(f"{error / energy:.2e}")
        bits = 8 * sum(e.nbytes for e in encoded) / count
        print(f"| {name}{', asymmetric' if asymmetric else ''} | {bits:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
