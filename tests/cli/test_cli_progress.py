"""Long work is seen on a terminal, and only there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import Run

from penjing.cli import show


def on_a_terminal(*arguments: object) -> str:
    """What a command writes to stderr when that is a terminal."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "penjing", *map(str, arguments)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            said += chunk
    os.close(ours)
    assert process.returncode == 0, said
    return said.decode()


def test_bars_on_a_terminal(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    tray = tmp_path / "tray"
    assert run("quantize", checkpoint, "-o", tray).err == ""
    assert "export" in on_a_terminal("export", tray, "-o", tmp_path / "exported")
    assert "checksums" in on_a_terminal("verify", tray)
    assert "reference" in on_a_terminal("generate", checkpoint, "the", "--max-tokens", 1)


@pytest.mark.skipif(sys.stderr.isatty(), reason="this is a terminal")
def test_silence_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress_bar() as progress:
        progress("stage", 1, 2)
    assert capsys.readouterr().err == ""
