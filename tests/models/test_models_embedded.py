from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

from penjing.models import SEEDLING, SEEDLING_TEXT, Checkpoint, checkpoint


def test_the_name_stands_for_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights need not be there for the name to be understood."""
    assert (SEEDLING / "config.json").is_file()
    assert SEEDLING_TEXT.is_file()
    embedded = write_checkpoint(tmp_path / "package" / "seedling")
    monkeypatch.setattr(checkpoint, "SEEDLING", embedded)
    monkeypatch.chdir(tmp_path)
    for name in ("seedling", Path("seedling")):
        assert Checkpoint.open(name).path == embedded
    shutil.copytree(embedded, tmp_path / "seedling")
    assert Checkpoint.open("seedling").path == Path("seedling")


def test_the_embedded_weights_are_frozen() -> None:
    """Published results refer to them: whoever trains others changes this line, the card and the results."""
    weights = (SEEDLING / "model.safetensors").read_bytes()
    frozen = "7df102c26d588e9a83119765304d144e3b0a2217a62df65e94a2eca902312b5d"
    assert hashlib.sha256(weights).hexdigest() == frozen
    assert f"sha256 of model.safetensors: `{frozen}`" in (SEEDLING / "README.md").read_text("utf-8")
