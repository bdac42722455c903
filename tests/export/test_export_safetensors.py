"""Exported checkpoints: read back by our own reader, by safetensors, and by transformers."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoints import (
    GEMMA3,
    LLAMA,
    MISTRAL,
    PHI3,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    random_tensors,
    write_checkpoint,
)
from safetensors import safe_open

from penjing.artifact import Artifact, expected_tensors
from penjing.engine import Engine
from penjing.errors import FormatError, OutputExistsError, SpecError, UnsupportedConfigError
from penjing.export import Exported
from penjing.export import export_safetensors as export
from penjing.formats import decode
from penjing.models import Checkpoint
from penjing.models.publishing import rebuild_config
from penjing.models.weights_file import WEIGHTS_FILE
from penjing.quantize import quantize_checkpoint
from penjing.spec import preset

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {"type": "su", "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [8.0] * 4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
CONFIGS = {
    "llama": LLAMA,
    "llama biased": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "llama3": LLAMA | {"rope_scaling": LLAMA3_ROPE, "eos_token_id": [2, 3]},
    "mistral": MISTRAL,
    "qwen2": QWEN2 | {"bos_token_id": None},
    "qwen3": QWEN3 | {"rope_scaling": YARN},
    "qwen3 windows": QWEN3 | {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
    "experts": QWEN3_MOE,
    "experts windows": QWEN3_MOE | {"use_sliding_window": True, "sliding_window": 32, "mlp_only_layers": []},
    "phi3": PHI3 | {"sliding_window": 20},
    "phi3 longrope": PHI3
    | {"rope_scaling": LONGROPE, "partial_rotary_factor": 0.7, "original_max_position_embeddings": 64},
    "gemma3": GEMMA3 | {"final_logit_softcapping": 3.0},
    "gemma3 plain": GEMMA3 | {"rope_scaling": None, "attention_bias": True, "tie_word_embeddings": False},
}


def export_safetensors(*arguments: Any, **options: Any) -> Path:
    exported: Exported = export(*arguments, **options)
    return exported.path


def make(root: Path, config: dict[str, Any], format_name: str = "layered") -> Artifact:
    write_checkpoint(root / "model", config)
    return quantize_checkpoint(root / "model", root / "artifact", preset(format_name))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CONFIGS)
def test_our_own_reader_reads_the_same_model(tmp_path: Path, name: str) -> None:
    artifact = make(tmp_path, CONFIGS[name])
    exported = Checkpoint.open(export_safetensors(artifact.path, tmp_path / "out", dtype="fp32"))
    original = Checkpoint.open(tmp_path / "model")
    assert exported.config == original.config
    for tensor, role in expected_tensors(artifact.config).items():
        meant = decode(artifact.matrix(tensor), "best") if role.is_matrix else artifact.vector(tensor)
        np.testing.assert_array_equal(exported.read(tensor), meant)


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", ml_dtypes.bfloat16), ("fp16", np.float16)])
@pytest.mark.parametrize("tier", ["fast", "best"])
def test_half_precision_and_tiers(tmp_path: Path, dtype: Any, kind: Any, tier: Any) -> None:
    artifact = make(tmp_path, LLAMA)
    exported = Checkpoint.open(export_safetensors(artifact.path, tmp_path / "out", dtype=dtype, tier=tier))
    read = exported.read("blocks.1.down")
    assert read.dtype == kind
    np.testing.assert_array_equal(read, decode(artifact.matrix("blocks.1.down"), tier).astype(kind))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "llama" and "windows" not in name])
def test_transformers_computes_what_the_engine_serves(tmp_path: Path, name: str) -> None:
    """On unquantized weights, so that nothing but the order of additions may differ."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    artifact = make(tmp_path, CONFIGS[name], "keep")
    out = export_safetensors(artifact.path, tmp_path / "out", dtype="fp32")
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokens = np.random.default_rng(0).integers(3, 50, 60).tolist()
    with torch.no_grad():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    ours = np.concatenate(list(Engine(artifact, threads=1).logits(tokens)))
    np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4)


def test_an_embedding_scaled_in_another_dtype_is_said(tmp_path: Path) -> None:
    """transformers rounds the scale of a Gemma's embedding to the dtype that it loads."""
    write_checkpoint(tmp_path / "model", GEMMA3, dtype=ml_dtypes.bfloat16)
    artifact = quantize_checkpoint(tmp_path / "model", tmp_path / "artifact", preset("int8"))
    assert export(artifact.path, tmp_path / "same").notes == ()
    (said,) = export(artifact.path, tmp_path / "other", dtype="fp32").notes
    assert "scaled by 6.9375, and by 6.9282 in a model that is loaded in fp32" in said


def test_what_rounding_cost_is_said(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA, "int4")
    (exact, *_) = export(artifact.path, tmp_path / "fp32", dtype="fp32").conversions
    assert (exact.largest_error, exact.rms_error) == (0, 0)
    embedding, linear = export(artifact.path, tmp_path / "bf16").lines()
    assert embedding.startswith("2 matrices: int8 g64 -> bf16, largest error ")
    assert linear.startswith("14 matrices: int4 g64 -> bf16, largest error ")
    meant = decode(artifact.matrix("blocks.0.up"))
    found = export(artifact.path, tmp_path / "again").conversions[1]
    assert 0 < found.rms_error < 2**-8 > found.largest_error > 0
    assert np.abs(meant - meant.astype(ml_dtypes.bfloat16).astype(np.float32)).max() <= (
        found.largest_error * np.abs(meant).max() * (1 + 1e-6)
    )


def test_a_trained_model_with_its_tokenizer(stories260k: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    artifact = quantize_checkpoint(stories260k, tmp_path / "artifact", preset("int8"))
    out = export_safetensors(artifact.path, tmp_path / "out", dtype="fp32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0].tolist()
    assert tokenizer.decode(written, skip_special_tokens=True).startswith("Once upon a time, there was a")


def test_the_header_is_plain_safetensors(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA)
    out = export_safetensors(artifact.path, tmp_path / "out", dtype="fp16")
    with safe_open(out / "model.safetensors", "numpy") as file:
        assert file.metadata() == {
            "format": "pt",
            "penjing": artifact.hash,
            "penjing.files": '["config.json"]',
        }
        assert len(list(file.keys())) == len(expected_tensors(artifact.config))


def test_fused_tensors_are_fused_again(tmp_path: Path) -> None:
    tensors = random_tensors(PHI3)
    artifact = make(tmp_path, PHI3, "keep")
    with safe_open(
        export_safetensors(artifact.path, tmp_path / "out", dtype="fp32") / WEIGHTS_FILE, "numpy"
    ) as file:
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(file.get_tensor(name), tensor)


def test_the_header_says_the_dtype(tmp_path: Path) -> None:
    out = export_safetensors(make(tmp_path, LLAMA).path, tmp_path / "out", dtype="fp16")
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"


def test_progress_ends(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA)
    steps: list[tuple[str, int, int]] = []
    export_safetensors(artifact.path, tmp_path / "out", progress=lambda *step: steps.append(step))
    assert steps[-1] == ("export", len(steps), len(steps))


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA)
    out = export_safetensors(artifact.path, tmp_path / "out")
    with pytest.raises(OutputExistsError, match="exists already"):
        export_safetensors(artifact.path, out)
    export_safetensors(artifact.path, out, force=True)
    with pytest.raises(OutputExistsError):
        export_safetensors(artifact.path, tmp_path / "model" / "..", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "model", "out"]


def test_force_replaces_exports_only(tmp_path: Path) -> None:
    """A checkpoint by somebody else has the same files; the weights say who wrote them."""
    artifact = make(tmp_path, LLAMA)
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    for target in ("model", "artifact"):
        with pytest.raises(OutputExistsError, match="is not a checkpoint that Penjing wrote"):
            export_safetensors(artifact.path, tmp_path / target, force=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before
    (tmp_path / "empty").mkdir()
    out = export_safetensors(artifact.path, tmp_path / "empty", force=True)
    (out / "notes.txt").write_text("weeks of work")
    with pytest.raises(OutputExistsError, match=r"holds 'notes\.txt', which is no part of the checkpoint"):
        export_safetensors(artifact.path, out, force=True)
    assert (out / "notes.txt").read_text() == "weeks of work"
    (out / "notes.txt").unlink()
    (out / "model.safetensors").write_bytes(b"")
    with pytest.raises(OutputExistsError, match="is not a checkpoint that Penjing wrote"):
        export_safetensors(artifact.path, out, force=True)


@pytest.mark.parametrize("force", [False, True])
def test_killed_at_random_moments(tmp_path: Path, force: bool) -> None:
    """Whenever an export is killed, what stands under the name is whole, or is not there."""
    artifact = make(tmp_path, LLAMA)
    whole = contents(export_safetensors(artifact.path, tmp_path / "fresh"))
    out = tmp_path / "out"
    if force:
        export_safetensors(artifact.path, out)
    generator = random.Random(3)
    tensors = len(expected_tensors(artifact.config))
    for line in (1, generator.randint(2, tensors - 1), tensors, tensors):
        command = [sys.executable, __file__, str(artifact.path), str(out), *(["force"] if force else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in zip(range(line), child.stdout, strict=False):
                pass
            time.sleep(generator.uniform(0, 0.004))
            child.kill()
        aside = list(tmp_path.glob(".out.replaced-*"))
        if out.exists():
            assert contents(out) == whole
        elif force:
            assert [contents(path) for path in aside] == [whole]
        if not force:
            shutil.rmtree(out, ignore_errors=True)
    export_safetensors(artifact.path, out, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "fresh", "model", "out"]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_missing_tier_and_unequal_blocks_are_refused(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA, "int8")
    with pytest.raises(SpecError, match="no tier fast"):
        export_safetensors(artifact.path, tmp_path / "out", tier="fast")
    first, second = artifact.config.blocks
    narrow = second.model_copy(update={"intermediate_size": 64})
    pruned = artifact.config.model_copy(update={"blocks": (first, narrow)})
    with pytest.raises(UnsupportedConfigError, match="differ in width"):
        rebuild_config(pruned, "float32", tmp_path)
    experts = make(tmp_path / "experts", QWEN3_MOE, "int8").config
    fewer = experts.blocks[0].model_copy(update={"num_experts": 4})
    pruned = experts.model_copy(update={"blocks": (fewer, *experts.blocks[1:])})
    with pytest.raises(UnsupportedConfigError, match="differ in width"):
        rebuild_config(pruned, "float32", tmp_path)


def test_a_weight_beyond_half_precision_is_refused(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.norm.weight"][0] = 1e6
    write_checkpoint(tmp_path / "model", tensors=tensors)
    artifact = quantize_checkpoint(tmp_path / "model", tmp_path / "artifact", preset("int8"))
    with pytest.raises(FormatError, match="final_norm is beyond the range of fp16"):
        export_safetensors(artifact.path, tmp_path / "out", dtype="fp16")
    assert not (tmp_path / "out").exists()


def export_aloud(artifact: str, out: str, *force: str) -> None:
    """A process to kill: reports each tensor on a line, the last of them just before it publishes."""
    export(Path(artifact), Path(out), force=bool(force), progress=lambda *step: print(step, flush=True))


if __name__ == "__main__":
    export_aloud(*sys.argv[1:])
