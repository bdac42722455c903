"""Hostile input: one line that names an error class, exit code 2, no traceback, and nothing half-written."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import LLAMA, random_tensors, write_checkpoint
from running import Outcome, Run

FORMATS = ("keep", "int8", "int4", "layered")


def refused(outcome: Outcome, error: str, *words: str) -> None:
    """One line on stderr of a named class that mentions `words`, and exit code 2."""
    assert outcome.code == 2, outcome
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert re.fullmatch(rf"penjing: {error}: .+", lines[0]), lines[0]
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in outcome.err


def left_alone(directory: Path) -> set[Path]:
    """What stands in a directory, hidden files included."""
    return set(directory.iterdir()) if directory.exists() else set()


@pytest.fixture
def artifact(run: Run, checkpoint: Path, tmp_path: Path) -> Path:
    assert (
        run("quantize", checkpoint, "-o", tmp_path / "tray", "--format", "layered", "--group-size", 32).code
        == 0
    )
    return tmp_path / "tray"


def test_truncated_checkpoint(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(
        run("quantize", checkpoint, "-o", tmp_path / "tray"), "CorruptCheckpointError", "model.safetensors"
    )
    assert left_alone(tmp_path) == {checkpoint}


def test_missing_shard(run: Run, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", LLAMA, num_shards=3)
    (checkpoint / "model-00002-of-00003.safetensors").unlink()
    refused(run("quantize", checkpoint, "-o", tmp_path / "tray"), "MissingShardError", "model-00002")
    assert left_alone(tmp_path) == {checkpoint}


@pytest.mark.parametrize("format", FORMATS)
def test_nan_weight(run: Run, tmp_path: Path, format: str) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    checkpoint = write_checkpoint(tmp_path / "checkpoint", LLAMA, tensors=tensors)
    outcome = run("quantize", checkpoint, "-o", tmp_path / "tray", "--format", format)
    refused(outcome, "NonFiniteWeightError", "blocks.1.up")
    assert left_alone(tmp_path) == {checkpoint}


def test_wrong_shape(run: Run, tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.layers.0.self_attn.k_proj.weight"] = np.zeros((3, 3), np.float32)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", LLAMA, tensors=tensors)
    refused(run("quantize", checkpoint, "-o", tmp_path / "tray"), "CheckpointShapeError", "k_proj")
    assert left_alone(tmp_path) == {checkpoint}


def test_unsupported_family(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | {"model_type": "mamba"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    outcome = run("quantize", checkpoint, "-o", tmp_path / "tray")
    refused(outcome, "UnsupportedFamilyError", "mamba", "llama", "qwen3")
    refused(run("profile", checkpoint), "UnsupportedFamilyError")


@pytest.mark.parametrize("kv", ["int7", "int4,", "int4,int3", "int4,int4,int4"])
def test_a_cache_format_that_there_is_not(run: Run, checkpoint: Path, tmp_path: Path, kv: str) -> None:
    refused(
        run("quantize", checkpoint, "-o", tmp_path / "tray", "--kv", kv), "SpecError", f"--kv {kv}", "int6"
    )
    assert not (tmp_path / "tray").exists()


def test_no_such_model(run: Run, tmp_path: Path) -> None:
    refused(run("generate", tmp_path / "nowhere", "x"), "CheckpointNotFoundError", "nowhere")


def test_truncated_artifact(run: Run, artifact: Path) -> None:
    file = artifact / "tensors.bin"
    file.write_bytes(file.read_bytes()[:-64])
    for command in (("generate", artifact, "x"), ("verify", artifact)):
        refused(run(*command), "ChecksumError", "tensors.bin")


def test_flipped_bit(run: Run, artifact: Path) -> None:
    file = artifact / "tensors.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    for command in (("generate", artifact, "x"), ("verify", artifact)):
        refused(run(*command), "ChecksumError")


def test_flipped_bit_in_the_residual(run: Run, artifact: Path) -> None:
    file = artifact / "residual.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    refused(run("verify", artifact), "ChecksumError", "blocks.")


def test_edited_manifest(run: Run, artifact: Path) -> None:
    file = artifact / "manifest.json"
    file.write_text(file.read_text().replace('"head_dim":12', '"head_dim":24'))
    for command in (("generate", artifact, "x"), ("verify", artifact)):
        refused(run(*command), "ManifestError", "manifest.json")


BAD_DATA = {
    "EmptyDataError": ("empty.txt", b"  \n"),
    "TextEncodingError": ("latin.txt", "déjà vu ".encode("latin-1") * 100),
    "DataError": ("lines.jsonl", b'{"text": "good"}\n{"text": \n'),
}


@pytest.mark.parametrize("error", BAD_DATA)
def test_bad_data(run: Run, checkpoint: Path, artifact: Path, tmp_path: Path, error: str) -> None:
    name, content = BAD_DATA[error]
    (tmp_path / name).write_bytes(content)
    refused(run("evaluate", artifact, "--data", tmp_path / name), error, name)
    budget = ("--max-size", "90%")
    outcome = run("optimize", checkpoint, "-o", tmp_path / "out", *budget, "--data", tmp_path / name)
    refused(outcome, error, name)
    assert left_alone(tmp_path) == {checkpoint, artifact, tmp_path / name, tmp_path / "cache"}


def test_prompt_longer_than_the_context(run: Run, artifact: Path) -> None:
    refused(run("generate", artifact, "the cat sat " * 500), "PromptTooLongError", "256")


def test_port_in_use(run: Run, artifact: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(run("serve", artifact, "--port", port), "PortInUseError", str(port))


@pytest.mark.parametrize("command", ["quantize", "optimize", "export"])
def test_output_that_exists(
    run: Run, checkpoint: Path, artifact: Path, text: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("keep me")
    arguments = {
        "quantize": (checkpoint,),
        "optimize": (checkpoint, "--max-size", "90%", "--data", text),
        "export": (artifact,),
    }[command]
    for force in ((), ("--force",)):  # even forced, nothing but our own output is replaced
        refused(run(command, *arguments, "-o", out, *force), "OutputExistsError", "mine")
    assert {path.name for path in out.iterdir()} == {"notes.txt"}


@pytest.mark.parametrize("command", ["quantize", "optimize", "export"])
def test_unwritable_output(run: Run, checkpoint: Path, artifact: Path, text: Path, command: str) -> None:
    arguments = {
        "quantize": (checkpoint,),
        "optimize": (checkpoint, "--max-size", "90%", "--data", text),
        "export": (artifact,),
    }[command]
    refused(run(command, *arguments, "-o", "/proc/nowhere/tray"), "OutputNotWritableError", "/proc")


def test_damaged_tokenizer(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{")
    refused(run("quantize", checkpoint, "-o", tmp_path / "tray"), "TokenizerError", "tokenizer.json")
    assert left_alone(tmp_path) == {checkpoint}
    refused(run("generate", checkpoint, "x"), "TokenizerError", "tokenizer.json")
    assert left_alone(tmp_path / "cache" / "references") == set()


def test_a_process_of_its_own_ends_like_this_one(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    """Whatever an interpreter adds on its way out would show here."""
    (checkpoint / "model.safetensors").write_bytes(b"")
    (artifact / "tensors.bin").write_bytes(b"")
    commands = {
        "CorruptCheckpointError": ("quantize", checkpoint, "-o", tmp_path / "out"),
        "ChecksumError": ("generate", artifact, "x"),
    }
    for error, command in commands.items():
        line = [sys.executable, "-m", "penjing", *map(str, command)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        refused(Outcome(done.returncode, done.stdout, done.stderr), error)
        assert done.stdout == ""
    assert left_alone(tmp_path) == {checkpoint, artifact}


def test_options_out_of_range(run: Run, checkpoint: Path, artifact: Path, text: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    refused(run("quantize", checkpoint, *out, "--group-size", 48), "SpecError", "48")
    refused(run("quantize", checkpoint, *out, "--format", "keep", "--group-size", 32), "SpecError", "keep")
    refused(run("quantize", checkpoint, *out, "--format", "keep", "--asymmetric"), "SpecError", "keep")
    refused(run("quantize", checkpoint, *out, "--format", "nf4", "--asymmetric"), "SpecError", "zero points")
    refused(run("quantize", checkpoint, *out, "--format", "mxfp4", "--group-size", 64), "SpecError", "of 32")
    refused(run("optimize", checkpoint, *out, "--data", text), "SpecError", "--max-size")
    refused(run("optimize", checkpoint, *out, "--data", text, "--max-size", "big"), "SpecError", "big")
    refused(run("generate", artifact, "x", "--top-p", "1.5"), "SamplingError", "top_p")
    (tmp_path / "recipe.yaml").write_text("steps: [{step: quantize, weight: int4}]")
    refused(run("quantize", checkpoint, *out, "--recipe", tmp_path / "recipe.yaml"), "SpecError", "weight")


def test_infeasible_budget(run: Run, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    outcome = run("optimize", checkpoint, "-o", tmp_path / "tray", "--max-size", "1%", "--data", text)
    assert outcome.code == 3
    assert re.search(r"^penjing: MissedBudgetError: --max-size binds; .*%$", outcome.err, re.MULTILINE)
    assert not (tmp_path / "tray").exists()


def test_unlisted_option(run: Run, artifact: Path) -> None:
    outcome = run("verify", artifact, "--remesure", "x")
    assert outcome.code == 2
    assert "--remesure" in outcome.err


def test_bench_of_two_things_or_none(run: Run, artifact: Path) -> None:
    refused(run("bench"), "SpecError", "nothing to time", "--shape", "--url")
    refused(run("bench", artifact, "--shape", "tiny"), "SpecError", "MODEL and --shape")
    refused(run("bench", artifact, "--format", "int8"), "SpecError", "--format goes with --shape")
    refused(run("bench", "--shape", "tiny", "--model", "a"), "SpecError", "--model goes with --url")
    refused(run("bench", "--url", "http://127.0.0.1:9/v1", "--threads", 2), "SpecError", "--threads")


def test_bench_of_what_cannot_be(run: Run, artifact: Path) -> None:
    refused(run("bench", artifact, "--prompt", "many"), "SpecError", "--prompt 'many'")
    refused(run("bench", artifact, "--concurrency", "1,0"), "SpecError", "streams")
    refused(run("bench", artifact, "--prompt", 4096), "PromptTooLongError", "4160 tokens")
    refused(run("bench", "--shape", "colossal"), "SpecError", "tinyllama-1.1b")
    refused(run("bench", "--shape", "tiny", "--group-size", 48), "SpecError", "--group-size")
    refused(run("bench", "--shape", "tiny", "--format", "bf16", "--group-size", 64), "SpecError", "no groups")
    refused(run("bench", "--url", "http://127.0.0.1:9/v1"), "EndpointError", "cannot be reached")
