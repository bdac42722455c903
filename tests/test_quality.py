"""bench/quality.py without any peer: texts, cache, judge and tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))
from quantizers import runs as runs_module
from quantizers.compare import is_block_linear, ratios_of
from quantizers.judge import Judge, Recorded, Verdict
from quantizers.plan import QUANTIZERS, ours, peers
from quantizers.runs import Material, Run
from quantizers.table import BEGIN, END, best_settings, write
from quantizers.texts import WINDOW_TOKENS, Windows, calibration_texts, evaluation_windows, whole_windows

from penjing.data.documents import read_documents
from penjing.models import Checkpoint
from penjing.models.embedded import SEEDLING, SEEDLING_TEXT
from penjing.spec import Recipe, validate

SETTINGS = {"quantizer": "autoround", "bits": 4}
STUB = """
import json, pathlib, sys
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
if job["bits"] == 3:
    sys.exit("three bits are odd")
facts = {"seen": job["bits"], "threads": job["threads"]}
(pathlib.Path(sys.argv[2]) / "facts.json").write_text(json.dumps(facts))
"""


def test_calibration_shares_nothing_with_held_out_text() -> None:
    held = {line for document in read_documents(SEEDLING_TEXT) for line in long_lines(document.text)}
    texts = calibration_texts()
    for _ in range(40):
        lines = long_lines(next(texts).text)
        assert len(lines & held) <= 0.1 * len(lines) + 2


def long_lines(text: str) -> set[str]:
    """Lines that are hardly ever the same by chance."""
    return {line.strip() for line in text.splitlines() if len(line.strip()) > 40}


def test_evaluation_windows_are_whole_and_come_from_many_documents() -> None:
    windows = evaluation_windows()
    assert windows.tokens.shape[1] == WINDOW_TOKENS
    assert len(windows.tokens) == len(windows.documents) >= 128
    assert len(set(windows.documents.tolist())) >= 8


def test_windows_that_are_too_short_are_left_out() -> None:
    full, short = list(range(WINDOW_TOKENS)), [1, 2, 3]
    windows = whole_windows([[full, short], [short], [full]])
    assert windows.documents.tolist() == [0, 2]
    assert windows.tokens.shape == (2, WINDOW_TOKENS)


def test_every_planned_run_is_known_and_different(tmp_path: Path) -> None:
    material = Material(SEEDLING, "model", tmp_path, "calibration")
    keys = {Run.of(name, settings, material, tmp_path).directory for name, settings in peers().items()}
    assert len(keys) == len(peers())
    assert {settings["quantizer"] for settings in peers().values()} == set(QUANTIZERS)
    for step in ours().values():
        validate(Recipe, {"steps": [step]}, "plan")


def test_a_run_is_kept_and_a_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run_autoround.py").write_text(STUB)
    monkeypatch.setattr(runs_module, "HERE", tmp_path)
    material = Material(SEEDLING, "model", tmp_path / "tokens.npy", "calibration")
    good = Run.of("good", SETTINGS, material, tmp_path)
    assert not good.is_done
    assert good.start(Path(sys.executable), material, 2) is None
    assert good.is_done
    assert good.facts == {"seen": 4, "threads": 2}
    bad = Run.of("bad", {**SETTINGS, "bits": 3}, material, tmp_path)
    assert bad.failure is None
    reason = bad.start(Path(sys.executable), material, 2)
    assert reason == bad.failure == "three bits are odd, exit code 1"
    assert not bad.is_done


def test_a_run_depends_on_model_text_and_settings_but_not_on_its_name(tmp_path: Path) -> None:
    def directory(name: str, settings: dict[str, Any], model: str, calibration: str) -> Path:
        return Run.of(name, settings, Material(SEEDLING, model, tmp_path, calibration), tmp_path).directory

    same = directory("a", SETTINGS, "m", "c")
    assert same == directory("b", SETTINGS, "m", "c")
    others = {directory("a", {**SETTINGS, "bits": 2}, "m", "c"), directory("a", SETTINGS, "n", "c")}
    others.add(directory("a", SETTINGS, "m", "d"))
    assert len(others - {same}) == 3


def test_the_judge_finds_no_loss_in_the_original_and_some_in_another(tmp_path: Path) -> None:
    evaluation = evaluation_windows()
    first = np.unique(evaluation.documents, return_index=True)[1]
    windows = Windows(evaluation.tokens[first][:, :32].copy(), evaluation.documents[first])
    judge = Judge(SEEDLING, windows, tmp_path, threads=1)
    name = "model.layers.0.mlp.down_proj.weight"
    down = Checkpoint.open(SEEDLING).read("blocks.0.down").astype(np.float32)
    same = judge.weights({name: down})
    assert len(same.kl) == len(windows.tokens) * 31
    assert same.kl.max() < 1e-6
    other = judge.weights({name: np.zeros_like(down)})
    mean, low, high = other.interval(other.kl)
    assert low < mean < high
    assert mean > 0.01
    assert judge.weights({name: np.zeros_like(down)}).kl.tobytes() == other.kl.tobytes()
    assert len(list(judge.cache.glob("weights-*.npz"))) == 2


def test_recorded_logits_come_in_chunks() -> None:
    windows = np.arange(8).reshape(2, 4)
    logits = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    chunks = list(Recorded(windows, logits).logits([4, 5, 6], rows_per_step=2))
    assert [len(chunk) for chunk in chunks] == [2, 1]
    assert np.array_equal(np.concatenate(chunks), logits[1])


def row(name: str, bits: float, kl: float) -> dict[str, Any]:
    """A row as a comparison makes it."""
    return {
        "name": name,
        "ours": name.startswith("Penjing"),
        "bits_per_weight": bits,
        "processor_seconds": 1.0,
        "blocks": {"kl": [kl, kl / 2, kl * 2], "delta_nll": [kl, kl / 2, kl * 2]},
    }


def verdict(kl: float) -> Verdict:
    """Ten documents of ten tokens."""
    noise = np.random.default_rng(0).random(100) / 100
    return Verdict(kl + noise, kl + noise, np.full(10, 10))


def test_ours_is_held_against_the_best_peer_of_its_size() -> None:
    found = {"Penjing a": (4.25, 0.1), "good": (4.5, 0.2), "bad": (4.25, 0.4), "large": (5.0, 0.01)}
    rows = [row(name, bits, kl) for name, (bits, kl) in found.items()]
    (ratio,) = ratios_of(rows, {name: verdict(kl) for name, (_, kl) in found.items()})
    assert ratio["peer"] == "good"
    assert 0.4 < ratio["ratio"] < 0.6
    assert ratio["difference"] == pytest.approx([-0.1, -0.1, -0.1])


def test_of_tried_settings_the_best_is_shown() -> None:
    rows = [row("GPTQ 4-bit (x)", 4.25, 0.3), row("GPTQ 4-bit (y)", 4.25, 0.2), row("AWQ", 4.3, 0.9)]
    assert [found["name"] for found in best_settings(rows)] == ["GPTQ 4-bit (y)", "AWQ"]


def test_the_page_gets_its_tables(tmp_path: Path) -> None:
    (tmp_path / "quality.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    text = {"windows": 1, "sha256": "0" * 64}
    whole = {"tensor_bytes": 1234567, "whole": row("", 0, 0.25)["blocks"]}
    results = {
        "model": "Seedling",
        "texts": {"calibration": text, "evaluation": text},
        "versions": {"penjing": "1"},
        "rows": [row("Penjing int4", 4.25, 0.125), {**row("llama.cpp Q4_0", 4.5, 0.25), **whole}],
        "ratios": [],
        "stories": [],
        "missing": {"AWQ": "no luck"},
    }
    path = write(results, tmp_path / "quality")
    assert json.loads(path.read_text()) == results
    page = (tmp_path / "quality.md").read_text()
    assert "| **Penjing int4** | 4.25 | 0.125 (0.062 to 0.250) |" in page
    assert "| llama.cpp Q4_0 | 1,234,567 | 0.250" in page
    assert "Not measured (no luck): AWQ." in page
    assert "old" not in page
    assert page.endswith("after\n")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.mlp.up_proj.weight", True),
        ("model.embed_tokens.weight", False),
        ("lm_head.weight", False),
    ],
)
def test_block_linears_are_known_by_name(name: str, expected: bool) -> None:
    assert is_block_linear(name) == expected
