"""The command line, run in this process, and a checkpoint small enough to run it on many times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from checkpoints import LLAMA, write_checkpoint
from running import Outcome, Run
from text_samples import byte_level

from penjing.cli import main


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `penjing ARGUMENTS...`; an exception other than an exit is the test's failure, like a traceback."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["penjing", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reference artifacts of a test stay with the test."""
    monkeypatch.setenv("PENJING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A random Llama with a byte-level tokenizer."""
    config = LLAMA | {"vocab_size": 300, "max_position_embeddings": 256}
    path = write_checkpoint(tmp_path / "checkpoint", config)
    byte_level().save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Twenty documents of a few hundred tokens each."""
    path = tmp_path / "text"
    path.mkdir()
    for index in range(20):
        (path / f"{index}.txt").write_text(" ".join(f"the cat {index * word} sat" for word in range(60)))
    return path
