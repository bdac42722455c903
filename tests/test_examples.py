"""The page of examples, run from top to bottom as one program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import penjing

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples.md"


def test_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENJING_CACHE", str(tmp_path / "cache"))
    blocks = re.findall(r"```python\n(.*?)```", EXAMPLES.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 8
    used = {name for name in penjing.__all__ if f"penjing.{name}" in EXAMPLES.read_text("utf-8")}
    assert not {name for name in penjing.__all__ if name.islower()} - used, "every verb has an example"
    assert "penjing.cli" not in EXAMPLES.read_text("utf-8")
    exec(compile("\n".join(blocks), str(EXAMPLES), "exec"), {"__name__": "examples"})
    said = capsys.readouterr().out
    assert "MissedBudgetError" in said
    assert {path.name for path in tmp_path.iterdir()} == {
        "cache",
        "begun",
        "grown",
        "healed",
        "pruned",
        "tray",
        "tray.gguf",
        "tray-for-others",
        "tray-int8",
        "tray-layered",
        "tray-packed",
        "tray-small",
    }
