from __future__ import annotations

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
