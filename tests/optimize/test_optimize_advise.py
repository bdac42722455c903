"""Advice: which options there are, which of them is recommended and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_costs import MadeUpTable

from penjing.artifact import Artifact
from penjing.artifact.config import count_parameters
from penjing.models.shapes import SHAPES
from penjing.optimize import advise as module
from penjing.optimize.advise import Advice, Subject, advise
from penjing.optimize.recommending import choose
from penjing.optimize.ways import KNOWN, pruned

GB = 10**9


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_read_bandwidth", lambda _: 30e9)


def ask(monkeypatch: pytest.MonkeyPatch, shape: str, memory_bytes: int) -> Advice:
    """On a checkpoint of a published shape, and a machine with so much memory."""
    config = SHAPES[shape]
    subject = Subject(shape, config, 2 * count_parameters(config), {})
    monkeypatch.setattr(module, "find_subject", lambda _: subject)
    monkeypatch.setattr(module, "usable_memory_bytes", lambda: memory_bytes)
    monkeypatch.setattr(module, "available_bytes", lambda: memory_bytes)
    return advise(shape, table=MadeUpTable())


def test_options_of_a_checkpoint(checkpoint: Path) -> None:
    advice = advise(checkpoint, table=MadeUpTable())
    names = [option.name for option in advice.options]
    assert names == ["as it is", *(known.name for known in KNOWN)]
    assert advice.recommended in names
    assert advice.reasons
    assert advice.kind == "checkpoint"
    for option in advice.options:
        assert option.fits
        assert option.commands
        assert option.predicted.tokens_per_second > 0
        assert option.commands[-1].startswith("penjing serve")
    by_name = {option.name: option for option in advice.options}
    assert by_name["as it is"].size_ratio == pytest.approx(1.0, abs=0.05)
    assert by_name["int4"].tensor_bytes < by_name["layered"].tensor_bytes
    assert by_name["layered"].tensor_bytes < by_name["as it is"].tensor_bytes
    assert str(checkpoint) in by_name["int8"].commands[0]


def test_context_and_streams_are_those_asked_for(checkpoint: Path) -> None:
    advice = advise(checkpoint, context=100, streams=3, table=MadeUpTable())
    assert (advice.context_tokens, advice.prompt_tokens, advice.streams) == (100, 100, 3)
    assert all(option.predicted.streams == 3 for option in advice.options)


def test_a_small_model_is_told_to_be_careful(checkpoint: Path) -> None:
    advice = advise(checkpoint, table=MadeUpTable())
    assert advice.recommended == "int8"
    assert any("small model" in note for note in advice.notes)


def test_a_large_model_is_offered_4_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = ask(monkeypatch, "tinyllama-1.1b", 16 * GB)
    assert advice.recommended == "int4"
    assert any("times the speed of int8" in reason for reason in advice.reasons)


@pytest.mark.parametrize(
    ("memory", "recommended"),
    [(16 * GB, "int4"), (6 * GB, "int4"), (5 * GB, "table3"), (4 * GB, "table2")],
)
def test_memory_forces_fewer_bits(monkeypatch: pytest.MonkeyPatch, memory: int, recommended: str) -> None:
    advice = ask(monkeypatch, "llama-3.1-8b", memory)
    chosen = next(option for option in advice.options if option.name == advice.recommended)
    assert (chosen.name, chosen.fits) == (recommended, True)


def test_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = ask(monkeypatch, "llama-3.1-8b", GB)
    assert not any(option.fits for option in advice.options)
    assert "Nothing fits" in advice.reasons[0]
    assert "--context" in advice.reasons[1]


def test_an_artifact_that_fits_is_kept(layered: Artifact) -> None:
    advice = advise(layered.path, table=MadeUpTable())
    assert advice.kind == "artifact"
    assert advice.recommended == "as it is, best"
    assert [option.name for option in advice.options][:2] == ["as it is, best", "as it is, fast"]
    made = [option for option in advice.options if not option.name.startswith("as it is")]
    assert all("CHECKPOINT" in option.commands[0] for option in made)
    assert choose(advice.options, advice.parameters, is_artifact=True)[0] == advice.recommended


def test_a_pruned_shape_has_a_quarter_less() -> None:
    config = SHAPES["llama-3.2-1b"]
    smaller = pruned(config).blocks[0]
    assert (smaller.num_heads, smaller.num_kv_heads, smaller.intermediate_size) == (32, 8, 5696)
    matrices = 2 * 2048 * (2048 + 512)
    assert (matrices + 3 * 2048 * 5696) / (matrices + 3 * 2048 * 8192) == pytest.approx(0.75, abs=0.003)


def test_a_busy_machine_is_said_aloud(checkpoint: Path) -> None:
    table = MadeUpTable()
    table.busy.append("rows")
    assert "busy" in advise(checkpoint, table=table).notes[0]
