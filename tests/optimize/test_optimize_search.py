"""Budgets kept, missed and explained; nothing left behind either way."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from penjing.artifact import Artifact, read_certificate, verify_artifact
from penjing.errors import InfeasibleBudgetError, OutputExistsError, SpecError
from penjing.optimize import search as search_module
from penjing.optimize.candidates import candidates, seeded_recipes
from penjing.optimize.certificate import verify_certificate
from penjing.optimize.progress import Progress
from penjing.optimize.search import Optimized, optimize, percent
from penjing.optimize.trials import Trials
from penjing.spec import Budget


def run(checkpoint: Path, out: Path, text: Path, **options: object) -> Optimized:
    force = bool(options.pop("force", False))
    return optimize(
        checkpoint,
        out,
        Budget.model_validate(options),
        text,
        tokens=None,
        threads=1,
        force=force,
        speed=False,
    )


def test_the_smallest_that_keeps_both_limits(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    out = tmp_path / "tray"
    stages: list[str] = []
    result = optimize(
        checkpoint,
        out,
        Budget(max_size=0.4, max_loss=0.02),
        own_text,
        tokens=None,
        threads=1,
        progress=lambda stage, *_: stages.append(stage),
    )
    measured = result.certificate.measured
    assert result.chosen.startswith("int8")
    assert measured.size_ratio <= 0.4
    assert measured.upper_delta_nll <= Budget(max_loss=0.02).max_nll_increase
    sizes = [point.tensor_bytes for point in result.frontier]
    assert sizes == sorted(sizes)
    smaller = [point for point in result.frontier if point.name != result.chosen]
    assert smaller
    assert all(point.upper_delta_nll > 0.0198 for point in smaller)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tray"]
    assert verify_artifact(out).hash == result.certificate.artifact_hash
    assert result.evaluation.candidate.artifact_hash == result.certificate.artifact_hash
    assert read_certificate(out) == result.certificate
    assert result.certificate.speed is not None
    own = {f"{stage} {result.chosen}" for stage in ("quantize", "choose", "claim")}
    assert own | {"round trip", "speed"} <= set(stages)


def test_the_claim_is_measured_on_other_text_than_the_choice(
    checkpoint: Path, own_text: Path, tmp_path: Path
) -> None:
    result = run(checkpoint, tmp_path / "tray", own_text, max_loss="2%")
    chosen = next(point for point in result.frontier if point.name == result.chosen)
    assert chosen.mean_delta_nll != result.certificate.measured.mean_delta_nll
    assert result.certificate.measured.text_part == "report"
    assert result.certificate.measured.confidence == 0.9625


def test_without_a_loss_limit_the_least_loss_that_fits(
    checkpoint: Path, own_text: Path, tmp_path: Path
) -> None:
    result = run(checkpoint, tmp_path / "tray", own_text, max_size="45%")
    least = min(result.frontier, key=lambda point: point.upper_delta_nll)
    assert result.chosen == least.name
    assert len(result.frontier) == 3


def test_same_input_same_artifact(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    first = run(checkpoint, tmp_path / "a", own_text, max_loss="2%")
    second = run(checkpoint, tmp_path / "b", own_text, max_loss="2%")
    assert first.certificate.artifact_hash == second.certificate.artifact_hash
    assert first.certificate.measured == second.certificate.measured


def test_too_small_a_size_names_the_nearest(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudgetError) as caught:
        run(checkpoint, tmp_path / "tray", own_text, max_size="10%", max_loss="2%")
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert message.startswith("--max-size binds: int4/")
    assert "the nearest that keeps --max-loss is --max-size" in message
    assert not list(tmp_path.iterdir())
    nearest = message.rsplit("--max-size ", maxsplit=1)[-1].split(" (", maxsplit=1)[0]
    assert run(checkpoint, tmp_path / "tray", own_text, max_size=nearest, max_loss="2%").chosen in message


def test_too_small_a_loss_names_the_nearest(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudgetError, match=r"--max-loss binds: .* needs --max-loss .*%$"):
        run(checkpoint, tmp_path / "tray", own_text, max_loss=1e-9)
    with pytest.raises(InfeasibleBudgetError, match="no candidate of any size keeps --max-loss"):
        run(checkpoint, tmp_path / "tray", own_text, max_loss=1e-9, max_size="25%")
    with pytest.raises(InfeasibleBudgetError, match=r"--max-size binds: .* needs --max-size .*%$"):
        run(checkpoint, tmp_path / "tray", own_text, max_size="1%")
    assert not list(tmp_path.iterdir())


def test_a_failed_claim_tries_the_next_at_a_higher_confidence(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Luck on the text to choose by must not decide; and a second claim has less error left to spend."""
    claims: list[tuple[str, float]] = []
    claim = Trials.claim

    def unlucky_once(self: Trials, candidate, confidence):  # type: ignore[no-untyped-def]
        evaluation = claim(self, candidate, confidence)
        claims.append((candidate.name, confidence))
        if len(claims) > 1:
            return evaluation
        bound = evaluation.compared.bound.model_copy(update={"upper": 1.0})
        comparison = evaluation.compared.model_copy(update={"bound": bound})
        return evaluation.model_copy(update={"comparison": comparison})

    monkeypatch.setattr(Trials, "claim", unlucky_once)
    result = run(checkpoint, tmp_path / "tray", own_text, max_loss="3%")
    assert result.chosen == claims[1][0] != claims[0][0]
    assert [confidence for _, confidence in claims] == pytest.approx([0.9625, 0.990625])
    assert 1 - 0.9625 + 1 - 0.990625 < 0.05


def test_nothing_is_overwritten_without_force(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExistsError):
        run(checkpoint, precious, own_text, max_loss="2%")
    with pytest.raises(OutputExistsError, match="not an artifact"):
        run(checkpoint, precious, own_text, max_loss="2%", force=True)
    assert (precious / "thesis.tex").read_text() == "years of work"


def test_an_interrupted_search_leaves_the_old_artifact(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tray"
    before = run(checkpoint, out, own_text, max_loss="2%").certificate
    monkeypatch.setattr(search_module, "issue_certificate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, out, own_text, max_size="30%", force=True)
    assert read_certificate(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tray"]


def interrupt(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_killed_at_random_moments(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    """Whenever a search is killed, its output is whole and certified, or is not there; the next tidies up."""
    out, generator = tmp_path / "tray", random.Random(5)
    order = [str(checkpoint), str(out), str(own_text)]
    lines: list[object] = []
    search_with(*order, lambda *step: lines.append(step))
    shutil.rmtree(out)
    for line in (1, generator.randrange(len(lines)), generator.randrange(len(lines)), len(lines), len(lines)):
        kill_after(line, [sys.executable, __file__, *order], generator)
        if out.exists():
            assert verify_certificate(out).certificate.artifact_hash == verify_artifact(out).hash
            shutil.rmtree(out)
        assert all(path.name.startswith(".tray.partial-") for path in tmp_path.iterdir())
    run(checkpoint, out, own_text, max_size="45%")
    assert [path.name for path in tmp_path.iterdir()] == ["tray"]


def kill_after(line: int, command: list[str], generator: random.Random) -> None:
    """Start a process and kill it a moment after it has written so many lines."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in zip(range(line), child.stdout, strict=False):
            pass
        time.sleep(generator.uniform(0, 0.02))
        child.kill()


def test_a_budget_must_limit_something(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="limits neither size nor loss"):
        run(checkpoint, tmp_path / "tray", own_text)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused_before_any_work(tmp_path: Path, seed: int) -> None:
    budget = Budget(max_loss=0.02)
    with pytest.raises(SpecError, match="optimize: seed:"):
        optimize(tmp_path / "no-model", tmp_path / "tray", budget, tmp_path / "no-text", seed=seed)
    assert not list(tmp_path.iterdir())


def with_loud_gate(checkpoint: Path, copy: Path, largest: float) -> Path:
    """A copy whose first gate has a weight so large that the scales of some formats overflow float16."""
    shutil.copytree(checkpoint, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.0.mlp.gate_proj.weight"][0, 0] = np.float32(largest)
    save_file(tensors, copy / "model.safetensors")
    return copy


def test_a_candidate_that_cannot_hold_the_weights_is_skipped(
    checkpoint: Path, own_text: Path, tmp_path: Path
) -> None:
    loud = with_loud_gate(checkpoint, tmp_path / "loud", 2.0**21)  # beyond 8 x 65504, within 128 x 65504
    stages: list[str] = []
    result = optimize(
        loud,
        tmp_path / "tray",
        Budget(max_size=0.9),
        own_text,
        tokens=2000,
        threads=1,
        speed=False,
        progress=lambda stage, *_: stages.append(stage),
    )
    assert result.refused
    assert "blocks.0.gate" in next(iter(result.refused.values()))
    assert result.chosen not in result.refused
    assert not set(result.refused) & {point.name for point in result.frontier}
    assert any(stage.startswith(f"skip {next(iter(result.refused))}") for stage in stages)
    with pytest.raises(InfeasibleBudgetError, match=r"needs --max-loss .* drops out: blocks\.0\.gate"):
        optimize(loud, tmp_path / "other", Budget(max_loss=1e-9), own_text, tokens=2000, threads=1)


def test_no_candidate_holds_the_weights(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    loud = with_loud_gate(checkpoint, tmp_path / "loud", 2.0**25)
    with pytest.raises(InfeasibleBudgetError, match=r"no candidate that fits can hold .*; so do "):
        run(loud, tmp_path / "tray", own_text, max_size="90%")
    assert not (tmp_path / "tray").exists()


def test_a_name_is_resolved_once(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch may move while candidates are made."""
    fetched: list[str] = []

    def fetch(name: str) -> tuple[Path, str, str]:
        fetched.append(name)
        return checkpoint, "owner/letters", f"{len(fetched)}"

    monkeypatch.setattr("penjing.models.checkpoint.fetch", fetch)
    result = optimize(
        "owner/letters@main", tmp_path / "tray", Budget(max_size=0.9), own_text, threads=1, speed=False
    )
    assert fetched == ["owner/letters@main"]
    source = Artifact.open(tmp_path / "tray").manifest.provenance.source
    assert (source.name, source.revision) == ("owner/letters", "1")
    assert result.certificate.source_name == "owner/letters"


def test_predicted_sizes_are_those_written(int8: Artifact, layered: Artifact) -> None:
    table = candidates(int8.config, seeded_recipes(seed=0), {})
    predicted = {candidate.name: candidate.tensor_bytes for candidate in table}
    assert predicted["int8/64"] == int8.tensor_bytes
    assert predicted["layered/64"] == layered.tensor_bytes
    assert list(predicted.values()) == sorted(predicted.values())


def test_percentages_never_promise_too_little() -> None:
    assert (percent(0.15581), percent(0.1558), percent(0.3)) == ("15.59%", "15.58%", "30.00%")


def test_a_real_model(stories260k: Path, shared_data: Path, tmp_path: Path) -> None:
    """A trained model on text unlike its own: searched, certified, and verified by measuring again."""
    text = shared_data / "wikitext2-valid.txt"
    out = tmp_path / "tray"
    result = optimize(
        stories260k, out, Budget(max_size=0.3, max_loss=0.02), text, tokens=5000, threads=1, speed=False
    )
    assert result.certificate.measured.size_ratio < 0.3
    again = verify_certificate(out, data=text, against=stories260k, threads=2)
    assert again.remeasured is not None
    assert again.remeasured.compared.bound == result.evaluation.compared.bound
    assert result.certificate.measured.top1_agreement > 0.9


def search_with(checkpoint: str, out: str, text: str, progress: Progress) -> None:
    """A search whose last step is reported just before it publishes."""
    optimize(
        checkpoint,
        Path(out),
        Budget(max_size=0.45),
        Path(text),
        tokens=None,
        threads=1,
        speed=False,
        progress=progress,
    )


if __name__ == "__main__":
    search_with(*sys.argv[1:], lambda *step: print(step, flush=True))
