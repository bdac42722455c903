"""A second model for our own methods: stories260k, if it is there, judged on stories that it wrote itself.

Its feed-forward is 172 wide, which no group divides: what padding costs is part of the result.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from penjing.artifact import Artifact
from penjing.engine import Engine, Sampling
from penjing.optimize.reference import reference_artifact
from quantizers.texts import WINDOW_TOKENS, Windows

STORIES = 48
BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[3] / "shared" / "data"


def find_stories() -> Path | None:
    """The checkpoint, where docs/development.md says that such data is."""
    path = Path(os.environ.get("PENJING_TEST_DATA") or BESIDE_THE_CHECKOUT) / "stories260k"
    return path if path.is_dir() else None


def written_windows(model: Path, first_seed: int, threads: int) -> Windows:
    """Stories of the model's own, at temperature 1, each of a seed of its own."""
    engine = Engine(Artifact.open(reference_artifact(model)), threads=threads, max_sequences=1)
    bos = engine.tokenizer.bos_id
    assert bos is not None
    stories = []
    for seed in range(first_seed, first_seed + STORIES):
        sampling = Sampling(max_tokens=WINDOW_TOKENS - 1, temperature=1.0, seed=seed, ignore_eos=True)
        stories.append([bos, *engine.generate([bos], sampling).tokens])
    return Windows(np.array(stories, np.int64), np.arange(STORIES))
