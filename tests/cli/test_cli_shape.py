"""The commands that make another checkpoint: what they write and say, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running import Run

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ("--steps", 3, "--batch", 2, "--sequence-tokens", 32)


def test_pruned_then_distilled_then_quantized(run: Run, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    """Each command says what to run next, and that runs."""
    small, healed = tmp_path / "small", tmp_path / "healed"
    pruned = run("prune", checkpoint, "-o", small, "--fraction", 0.3, "--data", text)
    assert pruned.code == 0, pruned.err
    assert f"penjing distill {small} --teacher {checkpoint} -o HEALED" in pruned.out
    learned = run("distill", small, "--teacher", checkpoint, "-o", healed, "--data", text, *QUICK)
    assert learned.code == 0, learned.err
    assert "step 3 of 3: loss" in learned.err
    assert "teacher" in learned.out
    assert f"penjing quantize {healed} -o TRAY" in learned.out
    assert run("quantize", healed, "-o", tmp_path / "tray").code == 0


def test_zeros(run: Run, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    some = ("prune", checkpoint, "--data", text, "--method", "magnitude")
    found = run(*some, "-o", tmp_path / "a", "--sparsity", 0.25, "--json")
    after: dict[str, Any] = json.loads(found.out)["after"]
    assert after["zeros"] == pytest.approx(0.25, abs=0.002)
    assert "75.00%" in run(*some, "-o", tmp_path / "b", "--pattern", "1:4").out


def test_transferred_then_trained(run: Run, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    small, large, trained = (tmp_path / name for name in ("small", "large", "trained"))
    shape = ("--layers", 1, "--hidden", 24, "--intermediate", 64, "--heads", 2)
    found = json.loads(run("transfer", checkpoint, "-o", small, *shape, "--data", text, "--json").out)
    assert found["after"]["parameters"] < found["before"]["parameters"]
    config = json.loads((small / "config.json").read_text())
    assert [config[f"num_{name}"] for name in ("hidden_layers", "attention_heads", "key_value_heads")] == [
        1,
        2,
        1,
    ]
    grown = run("transfer", checkpoint, "-o", large, "--layers", 3, "--data", text)
    assert f"penjing train {large} --data TEXT" in grown.out
    done = run("train", small, "-o", trained, "--data", text, "--lora", 2, *QUICK, "--json")
    result = json.loads(done.out)
    assert result["tokens_trained"] == 3 * 2 * 32
    assert result["tokens_per_second"] > 0
    assert run("generate", trained, "the cat", "--max-tokens", 1).code == 0


REFUSED = {
    "sparsity and pattern keep the shape": ("prune", "--fraction", 0.5, "--pattern", "2:4"),
    "sparsity and pattern: give one": ("prune", "--sparsity", 0.5, "--pattern", "2:4"),
    "method: Value error, is for single weights": ("prune", "--method", "wanda"),
    "axes.1: Input should be 'groups', 'channels', 'hidden' or": ("prune", "--axes", "groups,neurons"),
    "sparsity: Input should be less than 1": ("prune", "--sparsity", 50),
    "pattern: String should match": ("prune", "--pattern", "0.5"),
    "'4:2' keeps more than there are": ("prune", "--pattern", "4:2"),
    "fraction: Input should be less than 1": ("prune", "--fraction", 1.5),
    "parameters say everything": ("transfer", "--parameters", 0.5, "--layers", 1),
    "parameters: Input should be greater than 0": ("transfer", "--parameters", -1),
    "steps and minutes: give one": ("train", "--data", "TEXT", "--steps", 1, "--minutes", 1),
    "there is no data at nowhere.txt": ("train", "--data", "nowhere.txt"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refused_by_name(
    run: Run, checkpoint: Path, tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command, *options = REFUSED[words]
    outcome = run(command, checkpoint, "-o", tmp_path / "out", *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_without_torch(run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penjing.cli.shaped.find_spec", lambda _: None)
    outcome = run("prune", checkpoint, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "pip install 'penjing[optimize]'" in outcome.err


def test_a_recipe_of_several_steps(run: Run, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    steps = "- {step: prune, fraction: 20%, axes: [channels], multiple: 4}\n- {step: distill, steps: 3}\n"
    recipe, tray = tmp_path / "recipe.yaml", tmp_path / "tray"
    recipe.write_text(f"steps:\n{steps}- {{step: quantize, weights: {{name: int8, group_size: 32}}}}\n")
    refused = run("quantize", checkpoint, "-o", tray, "--recipe", recipe)
    assert (refused.code, "`penjing compress` takes them all" in refused.err) == (2, True)
    done = run("compress", checkpoint, "-o", tray, "--recipe", recipe, "--data", text)
    assert done.code == 0, done.err
    assert "step 2 of 3: distill" in done.err
    assert "1 · prune" in done.out
    assert "of this machine's float32 rate; at most" in done.out
    assert f"penjing evaluate {tray} --against {checkpoint}" in done.out
    measured = run("evaluate", tray, "--against", checkpoint, "--data", text, "--json")
    assert 0 < json.loads(measured.out)["comparison"]["size_ratio"] < 0.5
    assert run("compress", checkpoint, "-o", tray, "--recipe", recipe, "--data", text).code == 2
