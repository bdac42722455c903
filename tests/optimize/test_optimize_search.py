"""Budgets kept, missed and explained; nothing left behind either way."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_costs import MadeUpTable
from safetensors.numpy import load_file, save_file

from penjing.artifact import Artifact, read_certificate, verify_artifact
from penjing.errors import OutputExistsError, SpecError
from penjing.models import Checkpoint
from penjing.optimize import choosing
from penjing.optimize import search as search_module
from penjing.optimize.certificate import verify_certificate
from penjing.optimize.missing import MissedBudgetError, spoken
from penjing.optimize.progress import Progress, Say, silent
from penjing.optimize.record import read_record
from penjing.optimize.reference import reference_artifact
from penjing.optimize.search import Optimized, optimize
from penjing.optimize.trials import Trials
from penjing.spec import Budget, DistillStep


def run(
    checkpoint: Path,
    out: Path,
    text: Path,
    *,
    force: bool = False,
    train_minutes: float | None = None,
    say: Say = silent,
    **limits: object,
) -> Optimized:
    return optimize(
        checkpoint,
        out,
        Budget.model_validate(limits),
        text,
        method="search",
        train_minutes=train_minutes,
        tokens=None,
        threads=1,
        force=force,
        speed=False,
        say=say,
    )


def test_the_smallest_that_keeps_both_limits(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    out, stages, lines = tmp_path / "tray", set[str](), list[str]()
    result = optimize(
        checkpoint,
        out,
        Budget(max_size=0.4, max_loss=0.02),
        own_text,
        method="search",
        tokens=None,
        threads=1,
        say=lines.append,
        progress=lambda stage, *_: stages.add(stage),
    )
    measured = result.certificate.measured
    assert measured.size_ratio <= 0.4
    assert measured.upper_delta_nll <= Budget(max_loss=0.02).max_nll_increase
    chosen = next(trial for trial in result.trials if trial.name == result.chosen)
    assert all(
        trial.upper_delta_nll > 0.0198 for trial in result.trials if trial.tensor_bytes < chosen.tensor_bytes
    )
    assert any("keeps the budget" in line for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tray"]
    assert verify_artifact(out).hash == result.certificate.artifact_hash
    assert result.evaluation.candidate.artifact_hash == result.certificate.artifact_hash
    assert read_certificate(out) == result.certificate
    assert read_record(out) == result.record
    assert result.certificate.speed is not None
    assert {"loss by group", f"measure {result.chosen}", f"claim {result.chosen}", "speed"} <= stages


def test_groups_have_formats_of_their_own(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    """Between two uniform recipes lies a mixture, and it is what its sizes say."""
    result = run(checkpoint, tmp_path / "tray", own_text, max_size="36%")
    artifact = Artifact.open(tmp_path / "tray")
    formats = {entry.format for entry in artifact.manifest.tensors.values() if len(entry.shape) == 2}
    assert len(formats) > 1
    assert artifact.tensor_bytes == result.trials[0].tensor_bytes
    assert 0.34 < result.certificate.measured.size_ratio <= 0.36


def test_the_claim_is_measured_on_other_text_than_the_choice(
    checkpoint: Path, own_text: Path, tmp_path: Path
) -> None:
    result = run(checkpoint, tmp_path / "tray", own_text, max_loss="2%")
    chosen = next(trial for trial in result.trials if trial.name == result.chosen)
    measured = result.certificate.measured
    assert chosen.mean_delta_nll != measured.mean_delta_nll
    assert measured.text_part == "report"
    assert measured.confidence == 0.9625
    assert measured.units in measured.looks


def test_same_input_same_artifact(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    first = run(checkpoint, tmp_path / "a", own_text, max_loss="2%")
    second = run(checkpoint, tmp_path / "b", own_text, max_loss="2%")
    assert first.certificate.artifact_hash == second.certificate.artifact_hash
    assert first.certificate.measured == second.certificate.measured


def test_measured_again_it_is_the_same_claim(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    result = run(checkpoint, tmp_path / "tray", own_text, max_loss="2%")
    again = verify_certificate(tmp_path / "tray", data=own_text, against=checkpoint, threads=2)
    assert again.remeasured is not None
    assert again.remeasured.compared.bound == result.evaluation.compared.bound


def test_a_missed_size_names_the_nearest_which_can_be_kept(
    checkpoint: Path, own_text: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissedBudgetError) as caught:
        run(checkpoint, tmp_path / "tray", own_text, max_size="5%", max_loss="50%")
    error = caught.value
    assert (error.exit_code, error.binding) == (3, "size")
    assert "--max-size binds; the nearest that can be kept: --max-size" in str(error)
    assert error.record is not None
    assert error.record.outcome == "infeasible"
    assert not (tmp_path / "tray").exists()
    nearest = str(error).rsplit("--max-size ", maxsplit=1)[-1].split(" ", maxsplit=1)[0]
    assert run(checkpoint, tmp_path / "tray", own_text, max_size=nearest).path.exists()


def test_a_missed_loss_names_the_nearest_which_can_be_kept(
    checkpoint: Path, own_text: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissedBudgetError) as caught:
        run(checkpoint, tmp_path / "tray", own_text, max_size="18%", max_loss="0.001%")
    error = caught.value
    assert error.binding == "loss"
    loss = f"{100 * error.nearest['loss']}%"
    assert run(checkpoint, tmp_path / "tray", own_text, max_size="18%", max_loss=loss).path.exists()


def test_a_limit_of_speed_that_nothing_keeps(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penjing.optimize.search.cost_table", lambda _: MadeUpTable())
    with pytest.raises(MissedBudgetError, match=r"--max-latency binds; .* --max-latency .*ms"):
        run(checkpoint, tmp_path / "tray", own_text, max_latency="1us")
    with pytest.raises(MissedBudgetError, match=r"--max-ram binds; .* --max-ram \d+MB"):
        run(checkpoint, tmp_path / "tray", own_text, max_ram="1KB", max_size="90%")
    result = run(checkpoint, tmp_path / "tray", own_text, max_latency="10s", max_ram="100GB")
    assert result.certificate.load is not None
    assert result.certificate.load.seconds_per_token <= 10
    assert result.certificate.costs_hash is not None


def test_one_table_of_costs_gives_one_artifact(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of a load differ from run to run; what is chosen by predicted times does not."""
    monkeypatch.setattr("penjing.optimize.search.cost_table", lambda _: MadeUpTable())
    first, second = (
        run(checkpoint, tmp_path / name, own_text, max_latency="10s", max_size="40%").certificate
        for name in ("a", "b")
    )
    assert first.costs_hash == second.costs_hash is not None
    assert first.artifact_hash == second.artifact_hash


def test_what_formats_cannot_keep_fewer_parameters_can(
    checkpoint: Path, own_text: Path, tmp_path: Path
) -> None:
    lines = list[str]()
    result = run(checkpoint, tmp_path / "tray", own_text, max_size=0.08, say=lines.append)
    artifact = Artifact.open(tmp_path / "tray")
    before = Artifact.open(reference_artifact(Checkpoint.open(checkpoint))).config
    assert artifact.config.blocks[0].intermediate_size < before.blocks[0].intermediate_size
    assert artifact.manifest.provenance.source.hash == result.certificate.source_hash
    assert [step.step for step in artifact.manifest.provenance.recipe.steps] == ["prune", "quantize"]
    assert "pruned" in result.chosen
    assert any("removing" in line for line in lines)
    assert any("with fewer parameters, and no formats yet: +" in line for line in lines)
    again = verify_certificate(tmp_path / "tray", data=own_text, against=checkpoint, threads=2)
    assert again.remeasured is not None


def test_what_was_pruned_is_trained_where_there_is_time(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penjing.optimize.shapes.DistillStep", brief)
    lines = list[str]()
    limits = {"max_size": 0.08, "max_loss": 50}
    result = run(checkpoint, tmp_path / "tray", own_text, train_minutes=1, say=lines.append, **limits)
    recipe = Artifact.open(tmp_path / "tray").manifest.provenance.recipe
    assert [step.step for step in recipe.steps] == ["prune", "distill", "quantize"]
    assert result.certificate.measured.size_ratio <= 0.08
    assert any("training what is left" in line for line in lines)


def brief(minutes: float | None = None, steps: int | None = None) -> DistillStep:
    """Three steps, whatever was asked for."""
    return DistillStep(steps=3, sequence_tokens=32)


def test_a_failed_claim_tries_the_next_at_a_higher_confidence(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Luck on the text to choose by must not decide; and a second claim has less error left to spend."""
    claims: list[tuple[str, float]] = []
    claim = Trials.claim

    def unlucky_once(self: Trials, candidate, confidence):  # type: ignore[no-untyped-def]
        proof = claim(self, candidate, confidence)
        claims.append((candidate.name, confidence))
        if len(claims) > 1:
            return proof
        return replace(proof, bound=proof.bound.model_copy(update={"upper": 1.0}))

    monkeypatch.setattr(Trials, "claim", unlucky_once)
    monkeypatch.setattr(choosing, "ENOUGH", 2.0)  # so that there is a second candidate
    monkeypatch.setattr(choosing, "AIM", 0.5)
    result = run(checkpoint, tmp_path / "tray", own_text, max_loss="3%")
    assert result.chosen == claims[-1][0] != claims[0][0]
    assert [confidence for _, confidence in claims[:2]] == pytest.approx([0.9625, 0.990625])
    assert 1 - 0.9625 + 1 - 0.990625 < 0.05


def test_stopped_by_hand_the_best_so_far_is_published(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, lines = Trials.measure, list[str]()

    def stop_at_the_second(self: Trials, candidate):  # type: ignore[no-untyped-def]
        if self.measured:
            raise KeyboardInterrupt
        return measure(self, candidate)

    monkeypatch.setattr(Trials, "measure", stop_at_the_second)
    monkeypatch.setattr(choosing, "ENOUGH", 2.0)
    monkeypatch.setattr(choosing, "AIM", 0.2)
    result = run(checkpoint, tmp_path / "tray", own_text, max_loss=0.05, say=lines.append)
    assert any("stopped: the best candidate so far" in line for line in lines)
    assert verify_certificate(tmp_path / "tray").certificate == result.certificate


def test_killed_and_asked_again_it_goes_on(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured is not measured again, and the result is that of a search that was never stopped."""
    whole = run(checkpoint, tmp_path / "whole", own_text, max_loss="2%")
    monkeypatch.setattr(search_module, "issue_certificate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, tmp_path / "tray", own_text, max_loss="2%")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tray.search", "whole"]
    monkeypatch.undo()
    monkeypatch.setattr(Trials, "measure_now", interrupt)
    again = run(checkpoint, tmp_path / "tray", own_text, max_loss="2%")
    assert again.certificate.artifact_hash == whole.certificate.artifact_hash
    assert again.trials == whole.trials
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tray", "whole"]


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
        assert all(path.name.startswith((".tray.partial-", ".tray.search")) for path in tmp_path.iterdir())
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
    with pytest.raises(SpecError, match="limits nothing"):
        run(checkpoint, tmp_path / "tray", own_text)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused_before_any_work(tmp_path: Path, seed: int) -> None:
    budget = Budget(max_loss=0.02)
    with pytest.raises(SpecError, match="seed"):
        optimize(tmp_path / "no-model", tmp_path / "tray", budget, tmp_path / "no-text", seed=seed)
    assert not list(tmp_path.iterdir())


def with_loud_gate(checkpoint: Path, copy: Path, largest: float) -> Path:
    """A copy whose first gate has a weight so large that the scales of some formats overflow float16."""
    shutil.copytree(checkpoint, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.0.mlp.gate_proj.weight"][0, 0] = np.float32(largest)
    save_file(tensors, copy / "model.safetensors")
    return copy


def test_formats_that_cannot_hold_the_weights_are_no_choice(
    checkpoint: Path, own_text: Path, tmp_path: Path
) -> None:
    loud = with_loud_gate(checkpoint, tmp_path / "loud", 2.0**25)
    run(loud, tmp_path / "tray", own_text, max_size="90%")
    assert Artifact.open(tmp_path / "tray").entry("blocks.0.gate").format == "fp32"


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
        "owner/letters@main",
        tmp_path / "tray",
        Budget(max_size=0.9),
        own_text,
        method="search",
        threads=1,
        speed=False,
    )
    assert fetched == ["owner/letters@main"]
    source = Artifact.open(tmp_path / "tray").manifest.provenance.source
    assert (source.name, source.revision) == ("owner/letters", "1")
    assert result.certificate.source_name == "owner/letters"


def test_percentages_never_promise_too_little() -> None:
    assert spoken("size", 0.15581) == "--max-size 15.59%"
    assert spoken("loss", 0.02) == "--max-loss 2.00%"
    assert spoken("latency", 0.0101234) == "--max-latency 10.13ms"
    assert spoken("throughput", 60.19) == "--min-throughput 60.1"
    assert spoken("memory", 1_000_001.0) == "--max-ram 2MB"


def test_a_real_model(stories260k: Path, shared_data: Path, tmp_path: Path) -> None:
    """A trained model on text unlike its own: searched, certified, and verified by measuring again."""
    text = shared_data / "wikitext2-valid.txt"
    out = tmp_path / "tray"
    result = optimize(
        stories260k,
        out,
        Budget(max_size=0.35, max_loss=0.02),
        text,
        method="search",
        tokens=20000,
        threads=1,
        speed=False,
    )
    assert result.certificate.measured.size_ratio < 0.35
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
        method="search",
        tokens=None,
        threads=1,
        speed=False,
        progress=progress,
    )


if __name__ == "__main__":
    search_with(*sys.argv[1:], lambda *step: print(step, flush=True))
