"""`penjing advise`: one recommended option among several, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_costs import MadeUpTable
from running import Run

from penjing.optimize import advise as module


@pytest.fixture(autouse=True)
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cost_table", lambda _: MadeUpTable())
    monkeypatch.setattr(module, "measure_read_bandwidth", lambda _: 30e9)


def test_a_table_for_people(run: Run, checkpoint: Path) -> None:
    outcome = run("advise", checkpoint, "--context", 64, "--streams", 2)
    assert outcome.code == 0, outcome.err
    for words in ("Recommended: int8", "2 requests at a time", "tokens/s", "penjing quantize", "Seedling"):
        assert words in outcome.out, words
    assert outcome.out.count("▸") == 1
    assert max(map(len, outcome.out.splitlines())) < 120 + len(str(checkpoint))


def test_json_for_programs(run: Run, checkpoint: Path) -> None:
    document = json.loads(run("advise", checkpoint, "--json").out)
    assert document["recommended"] in {option["name"] for option in document["options"]}
    assert len(document["table_hash"]) == 64
    assert document["reasons"]


def test_what_is_no_model(run: Run, tmp_path: Path) -> None:
    outcome = run("advise", tmp_path / "nothing")
    assert outcome.code == 2
    assert "no such directory" in outcome.err
