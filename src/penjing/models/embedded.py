"""The model that ships inside the package, and text that it was not trained on."""

from __future__ import annotations

from pathlib import Path

SEEDLING_NAME = "seedling"
SEEDLING = Path(__file__).parents[1] / "seedling"
SEEDLING_TEXT = SEEDLING / "heldout.jsonl"
