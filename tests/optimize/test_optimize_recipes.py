"""Recipes of several steps: what they end with, that killed ones go on, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import LLAMA, write_checkpoint
from letters import write_letters

from penjing.artifact import Artifact, write_certificate
from penjing.errors import OutputExistsError, SpecError
from penjing.models import Checkpoint
from penjing.optimize import recipes
from penjing.optimize.certificate import issue_certificate
from penjing.optimize.evaluate import evaluate
from penjing.optimize.order import Shaped
from penjing.optimize.recipes import apply_recipe
from penjing.optimize.verify import verify
from penjing.quantize import quantize_checkpoint
from penjing.spec import Budget, Recipe, read_recipe, validate

pytestmark = pytest.mark.usefixtures("one_thread")

PRUNE = {"step": "prune", "fraction": "20%", "axes": ["channels"], "multiple": 4, "reconstruct": False}
DISTILL = {"step": "distill", "steps": 12, "batch": 4, "sequence_tokens": 64, "learning_rate": 0.0003}
QUANTIZE = {"step": "quantize", "weights": {"name": "int8", "group_size": 32}}


def recipe(*steps: dict[str, object], seed: int = 0) -> Recipe:
    return validate(Recipe, {"steps": list(steps), "seed": seed}, "recipe")


def test_pruned_distilled_quantized(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    """The artifact is one of the original: measured against it, certified and verified."""
    said: list[str] = []
    whole = recipe(PRUNE, DISTILL, QUANTIZE)
    done = apply_recipe(checkpoint, tmp_path / "tray", whole, [own_text], threads=1, say=said.append)
    headings = [line for line in said if " of 3: " in line]
    assert headings == ["step 1 of 3: prune", "step 2 of 3: distill", "step 3 of 3: quantize"]
    pruned, distilled = done.shaped
    assert pruned.after.parameters == distilled.before.parameters < pruned.before.parameters
    assert distilled.teacher is not None
    assert distilled.teacher.parameters == pruned.before.parameters
    assert distilled.before.kl is not None
    assert distilled.after.kl is not None
    assert distilled.after.kl < distilled.before.kl
    assert not list(tmp_path.glob("tray.*"))
    artifact, original = Artifact.open(tmp_path / "tray"), Checkpoint.open(checkpoint)
    provenance = artifact.manifest.provenance
    assert artifact.hash == done.artifact_hash
    assert (provenance.source.hash, provenance.source.tensor_bytes) == (original.hash, original.tensor_bytes)
    assert provenance.recipe == done.recipe == whole
    assert "torch" in provenance.versions
    assert artifact.config.blocks[0].intermediate_size < original.config.blocks[0].intermediate_size

    evaluation = evaluate(artifact.path, checkpoint, own_text, threads=1, speed=False)
    assert evaluation.compared.quality.mean_kl == pytest.approx(distilled.after.kl, rel=0.5)
    assert evaluation.compared.size_ratio == artifact.tensor_bytes / original.tensor_bytes
    budget = Budget(max_size=0.5, max_loss=2.0)
    certificate = issue_certificate(evaluation, artifact, budget, text_part="all", token_limit=16384)
    write_certificate(artifact.path, certificate)
    checked = verify(artifact.path, against=checkpoint, data=own_text, threads=1)
    assert checked.remeasured is not None
    assert checked.remeasured.compared.bound == evaluation.compared.bound


def test_calibrated_at_the_end(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    """Texts of every step, and of the calibration, are one digest of the provenance."""
    gptq = QUANTIZE | {"method": "gptq", "calibration": {"tokens": 512, "sequence_tokens": 64}}
    hashes, digests = set(), set()
    for name, part in (("a", "10%"), ("b", "10%"), ("c", "30%")):
        steps = recipe({"step": "prune", "sparsity": part}, gptq)
        done = apply_recipe(checkpoint, tmp_path / name, steps, [own_text], threads=1)
        provenance = Artifact.open(tmp_path / name).manifest.provenance
        assert provenance.recipe.steps[0] == steps.steps[0]
        hashes.add(done.artifact_hash)
        digests.add(provenance.calibration)
    assert len(hashes) == 2
    assert len(digests) == 1
    assert not list(tmp_path.glob("*.work"))


def test_without_quantize_it_is_a_checkpoint(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    """Minutes are recorded as the steps that they came to."""
    train = {"step": "train", "minutes": 0.005, "batch": 4, "sequence_tokens": 16, "lora_rank": 2}
    steps = recipe({"step": "transfer", "layers": 1}, train)
    done = apply_recipe(checkpoint, tmp_path / "out", steps, [own_text], threads=1)
    assert done.artifact_hash is None
    assert len(Checkpoint.open(done.path).config.blocks) == 1
    assert done.recipe.steps[1].model_dump()["minutes"] is None
    assert done.recipe.steps[1].model_dump()["steps"] == done.shaped[1].steps >= 1
    assert done.tensor_bytes < done.checkpoint_bytes
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_run_goes_on(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short in every step, it ends with the bytes of a run in one go, and no step is taken twice."""
    steps, out = recipe(PRUNE, DISTILL, QUANTIZE), tmp_path / "tray"
    whole = apply_recipe(checkpoint, tmp_path / "whole", steps, [own_text], threads=1)
    taken: list[str] = []

    class KilledError(Exception):
        pass

    for name in ("pruned", "distilled", "quantize"):
        real = getattr(recipes, name)

        def cut(*arguments: object, name: str = name, real: object = real, **options: object) -> object:
            taken.append(name)
            if taken.count(name) == 1:
                raise KilledError
            return real(*arguments, **options)  # type: ignore[operator]

        monkeypatch.setattr(recipes, name, cut)
    for attempt in range(3):
        with pytest.raises(KilledError):
            apply_recipe(checkpoint, out, steps, [own_text], threads=1, resume=attempt > 0)
        assert not out.exists()
    with pytest.raises(OutputExistsError, match="--resume goes on"):
        apply_recipe(checkpoint, out, steps, [own_text], threads=1)
    with pytest.raises(SpecError, match="another recipe"):
        apply_recipe(checkpoint, out, recipe(PRUNE, QUANTIZE), [own_text], threads=1, resume=True)
    with pytest.raises(SpecError, match="another data"):
        apply_recipe(checkpoint, out, steps, threads=1, resume=True)
    done = apply_recipe(checkpoint, out, steps, [own_text], threads=1, resume=True)
    assert taken == ["pruned", "pruned", "distilled", "distilled", "quantize", "quantize"]
    assert done.artifact_hash == whole.artifact_hash
    assert not (tmp_path / "tray.steps").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from penjing.optimize import learning
from penjing.optimize.recipes import apply_recipe
from penjing.spec import read_recipe
from penjing.training import loop
model, out, text, file, die = sys.argv[1:]
real = loop.save_state
def save(*arguments):
    real(*arguments)
    if die == "yes":
        os.kill(os.getpid(), signal.SIGKILL)
loop.save_state = save
learning.TrainingConfig = lambda **given: loop.TrainingConfig(**given, save_seconds=0.0)
print(apply_recipe(model, out, read_recipe(Path(file)), [Path(text)], threads=1, resume=True).artifact_hash)
"""


def test_killed_in_the_middle_of_learning(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    """kill -9 after the first step of twelve; what goes on begins with the second."""
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"steps": [DISTILL, QUANTIZE]}))
    whole = apply_recipe(checkpoint, tmp_path / "whole", read_recipe(file), [own_text], threads=1)
    command = [sys.executable, "-c", KILLED, checkpoint, tmp_path / "tray", own_text, file]
    killed = subprocess.run([*command, "yes"], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "tray.steps" / "1-state" / "state.pt").is_file()
    done = subprocess.run([*command, "no"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == whole.artifact_hash


def test_a_finished_checkpoint_without_its_record_is_made_again(
    checkpoint: Path, own_text: Path, tmp_path: Path
) -> None:
    steps, work = recipe(PRUNE, QUANTIZE), tmp_path / "tray.steps"
    whole = apply_recipe(checkpoint, tmp_path / "whole", steps, [own_text], threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "quantize", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            apply_recipe(checkpoint, tmp_path / "tray", steps, [own_text], threads=1)
    record = Shaped.model_validate_json((work / "1.json").read_bytes())
    assert record.after == whole.shaped[0].after
    os.remove(work / "1.json")
    done = apply_recipe(checkpoint, tmp_path / "tray", steps, [own_text], threads=1, resume=True)
    assert done.artifact_hash == whole.artifact_hash
    (tmp_path / "other").mkdir()
    shutil.copytree(tmp_path / "whole", work)
    with pytest.raises(OutputExistsError, match="not written by Penjing"):
        apply_recipe(checkpoint, tmp_path / "tray", steps, [own_text], threads=1, force=True)


REFUSED: dict[str, list[dict[str, object]]] = {
    "steps: Value error, give at least one": [],
    "steps: Value error, quantize comes last": [QUANTIZE, PRUNE],
    "steps.0.quantize.fraction: Extra inputs": [{"fraction": 0.2}],
    "steps.0: Input tag 'quantise' found using 'step' does not match any": [{"step": "quantise"}],
    "steps.0.distill.minuts: Extra inputs": [{"step": "distill", "minuts": 3}],
    "steps.0.prune.fraction: Input should be less than 1": [{"step": "prune", "fraction": 1.5}],
    "steps.0.prune.axes: Value error, sparsity and pattern": [
        {"step": "prune", "sparsity": 0.5, "axes": ["hidden"]}
    ],
    "steps.0.prune.method: Value error, is for single weights": [{"step": "prune", "method": "wanda"}],
    "steps.0.distill: Value error, all weights are 0": [
        {"step": "distill", "soft_weight": 0, "hard_weight": 0}
    ],
    "steps.0.train: Value error, steps and minutes": [{"step": "train", "steps": 1, "minutes": 1}],
    "steps.0.train: Value error, adapters": [{"step": "train", "from_scratch": True, "lora_rank": 1}],
    "parameters say everything": [{"step": "transfer", "layers": 2, "parameters": "50%"}],
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_recipes_are_refused_by_name(words: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps({"steps": REFUSED[words]}))
    with pytest.raises(SpecError) as refused:
        read_recipe(tmp_path / "recipe.yaml")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_spelling() -> None:
    """A step says all that it does, and nothing of what it does not do."""
    plain = recipe({"step": "prune"}, {"step": "transfer"})
    said = {"step": "prune", "fraction": 0.25, "axes": ["channels"], "importance": "gradient", "multiple": 32}
    assert recipe(said, {"step": "transfer", "parameters": 0.5}) == plain
    assert Recipe.model_validate_json(plain.model_dump_json()) == plain
    zeros = recipe({"step": "prune", "pattern": "2:4"}).steps[0].model_dump()
    assert (zeros["method"], zeros["fraction"], zeros["axes"]) == ("sparsegpt", None, None)


def test_what_cannot_be_done_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SpecError, match="prune, quantize; `penjing compress`"):
        quantize_checkpoint(checkpoint, out, recipe(PRUNE, QUANTIZE))
    with pytest.raises(SpecError, match="train learns from a text of yours"):
        apply_recipe(checkpoint, out, recipe({"step": "train"}))
    other = write_checkpoint(tmp_path / "other", LLAMA | {"num_key_value_heads": 4, "vocab_size": 24})
    write_letters(other)
    with pytest.raises(OutputExistsError, match="exists already"):
        apply_recipe(checkpoint, other, recipe(PRUNE))
    assert not out.exists()
