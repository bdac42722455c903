"""Every command on its happy path, and that JSON is all that `--json` prints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoints import GEMMA3, PHI3, QWEN3_MOE, write_checkpoint
from running import Outcome, Run
from safetensors.numpy import load_file, save_file
from text_samples import byte_level

import penjing
from penjing.data.documents import DEFAULT_TOKENS


def document(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    value = json.loads(outcome.out)
    assert isinstance(value, dict)
    return value


@pytest.fixture
def tray(run: Run, checkpoint: Path, tmp_path: Path) -> Path:
    assert run("quantize", checkpoint, "-o", tmp_path / "tray", "--format", "layered").code == 0
    return tmp_path / "tray"


def test_help_names_every_command(run: Run) -> None:
    outcome = run("--help")
    commands = "profile quantize optimize evaluate export verify report serve chat generate bench demo "
    commands += "prune distill transfer train"
    assert all(command in outcome.out for command in commands.split())


def test_help_says_how_much_text_is_used(run: Run) -> None:
    for command in ("evaluate", "optimize"):
        assert str(DEFAULT_TOKENS) in run(command, "--help").out


def test_profile(run: Run, checkpoint: Path, tray: Path) -> None:
    before = document(run("profile", checkpoint, "--json"))["cost"]
    after = document(run("profile", tray, "--json"))["cost"]
    assert before["parameters"] == after["parameters"]
    assert after["weight_bytes"] < before["weight_bytes"]
    assert "Parameters" in run("profile", tray).out


def test_quantize_twice_gives_the_same_bytes(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run("quantize", checkpoint, "-o", tmp_path / name, "--format", "int4").code == 0
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_recipe_file_is_the_same_as_the_option(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "steps:\n- step: quantize\n  weights: {name: int4, group_size: 32}\n"
        "  embedding: {name: int8, group_size: 32}\n"
    )
    one = document(run("quantize", checkpoint, "-o", tmp_path / "one", "--recipe", recipe, "--json"))
    two = document(run("quantize", checkpoint, "-o", tmp_path / "two", "--group-size", 32, "--json"))
    assert one["hash"] == two["hash"]


@pytest.mark.parametrize("format", ["int2", "int6", "table4", "table2", "nf4", "mxfp4", "fp8"])
def test_other_formats_are_written_and_run(
    run: Run, checkpoint: Path, text: Path, tmp_path: Path, format: str
) -> None:
    asymmetric = ["--asymmetric"] if format == "int6" else []
    assert run("quantize", checkpoint, "-o", tmp_path / "tray", "--format", format, *asymmetric).code == 0
    assert "every byte is as written" in run("verify", tmp_path / "tray").out
    found = document(run("evaluate", tmp_path / "tray", "--data", text, "--json"))
    assert found["candidate"]["perplexity"] > 1


def test_groups_too_small_for_their_scale_are_counted(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(checkpoint, source)
    tensors = load_file(source / "model.safetensors")
    name = next(name for name in tensors if name.endswith("0.mlp.up_proj.weight"))
    tensors[name][5:7] = 1e-23
    save_file(tensors, source / "model.safetensors")
    done = run("quantize", source, "-o", tmp_path / "tray", "--group-size", 128)
    assert done.code == 0
    assert done.err.count("groups of") == 1
    assert "2 groups of blocks.0.up are below float16's smallest scale: stored within 3e-08" in done.err


def test_a_cache_for_keys_and_one_for_values(run: Run, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    recipe, options = tmp_path / "recipe.yaml", ("--format", "keep", "--kv", "int6,int4")
    keep = "{name: keep}"
    recipe.write_text(
        f"steps: [{{step: quantize, weights: {keep}, embedding: {keep}, kv: {{key: int6, value: int4}}}}]\n"
    )
    one = document(run("quantize", checkpoint, "-o", tmp_path / "one", "--recipe", recipe, "--json"))
    two = document(run("quantize", checkpoint, "-o", tmp_path / "two", *options, "--json"))
    assert one["hash"] == two["hash"]
    measured = document(run("evaluate", tmp_path / "two", "--against", checkpoint, "--data", text, "--json"))
    assert measured["candidate"]["kv"] == {"key": "int6", "value": "int4"}
    assert measured["reference"]["kv"] == "fp32"
    assert measured["comparison"]["quality"]["mean_kl"] > 0


def test_optimize_verify_and_measure_again(run: Run, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    budget = ("--max-size", "60%", "--max-loss", "50%")
    result = document(run("optimize", checkpoint, "-o", out, *budget, "--data", text, "--json"))
    assert (out / "certificate.json").is_file()
    assert result["certificate"]["measured"]["size_ratio"] <= 0.6
    assert "keeps its budget" in run("verify", out).out
    again = run("verify", out, "--remeasure", checkpoint, "--data", text)
    assert again.code == 0
    assert "measured again" in again.out


def test_evaluate_against_the_checkpoint(run: Run, checkpoint: Path, tray: Path, text: Path) -> None:
    options = ("--against", checkpoint, "--data", text)
    best = document(run("evaluate", tray, *options, "--json"))["comparison"]
    fast = document(run("evaluate", tray, *options, "--tier", "fast", "--json"))["comparison"]
    assert 0 <= best["quality"]["mean_kl"] < fast["quality"]["mean_kl"]
    assert best["bound"]["upper"] >= best["bound"]["mean"]
    assert "Perplexity" in run("evaluate", tray, "--data", text).out


def test_the_built_in_text_is_announced(run: Run, tray: Path) -> None:
    outcome = run("evaluate", tray, "--tokens", 2000)
    assert outcome.code == 0
    assert "--data" in outcome.err


def test_generate_is_the_engine_s_answer(run: Run, tray: Path) -> None:
    said = run("generate", tray, "the cat", "--max-tokens", 8)
    assert said.code == 0
    told = document(run("generate", tray, "the cat", "--max-tokens", 8, "--json"))
    engine = penjing.Engine(tray, max_sequences=1)
    assert told["text"] == engine.generate("the cat", penjing.Sampling(max_tokens=8)).text
    assert said.out == told["text"] + "\n"


def test_chat_answers_until_the_input_ends(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    lines = iter(["the cat", "a small tray"])
    monkeypatch.setattr("penjing.cli.run.read_line", lambda: next(lines, ""))
    assert run("chat", checkpoint, "--max-tokens", 4).code == 0


def test_bench_of_an_artifact_has_a_row_for_each_load(run: Run, tray: Path) -> None:
    sizes = ("--prompt", "16,32", "--output", 8, "--concurrency", "1,3", "--rounds", 1, "--warmup", 0)
    rows = document(run("bench", tray, *sizes, "--json"))["rows"]
    loads = [(row["workload"]["prompt_tokens"], row["workload"]["streams"]) for row in rows]
    assert loads == [(16, 1), (16, 3), (32, 1), (32, 3)]
    assert all(row["decode_tokens_per_second"] > 0 for row in rows)
    assert "Shares are of limits measured in this run" in run("bench", tray, *sizes).out


def test_bench_of_a_shape_says_where_its_weights_are(run: Run, cache: Path, tmp_path: Path) -> None:
    sizes = ("--prompt", 8, "--output", 16, "--arrivals", 40, "--rounds", 1, "--threads", 1)
    shape = ("--shape", "tiny", "--format", "layered", "--group-size", 32)
    outcome = run("bench", *shape, "--tier", "fast", *sizes, "--json")
    assert document(outcome)["rows"][0]["arriving_ttft_seconds"]["p50"] > 0
    assert str(cache / "random" / "tiny-layered-g32") in outcome.err
    said = run("bench", "--shape", "tiny", "--format", "bf16", "--cache-dir", tmp_path / "here", *sizes)
    assert "TTFT of the arriving prompts" in said.out
    assert (tmp_path / "here" / "tiny-bf16" / "manifest.json").is_file()


def test_export_loads_as_a_checkpoint(run: Run, tray: Path, tmp_path: Path) -> None:
    told = document(run("export", tray, "-o", tmp_path / "exported", "--json"))
    assert told["path"] == str(tmp_path / "exported")
    assert {item["target"] for item in told["conversions"]} == {"bf16"}
    assert str(tmp_path / "again") in run("export", tray, "-o", tmp_path / "again").out
    assert document(run("profile", tmp_path / "exported", "--json"))["family"] == "llama"


def test_export_says_what_became_of_the_codes(run: Run, tray: Path, tmp_path: Path) -> None:
    said = run("export", tray, "-o", tmp_path / "tray.gguf", "--to", "gguf").out
    assert "int8 g64 (48 columns are no whole blocks of 32) -> F16, largest error" in said
    packed = run("export", tray, "-o", tmp_path / "packed", "--to", "compressed-tensors", "--tier", "best")
    assert (packed.code, "no matrix of it can be packed" in packed.err) == (2, True)
    wrong = run("export", tray, "-o", tmp_path / "other.gguf", "--to", "gguf", "--dtype", "fp16")
    assert (wrong.code, "leave the dtype out" in wrong.err) == (2, True)


@pytest.mark.parametrize("config", [GEMMA3, PHI3, QWEN3_MOE], ids=lambda config: config["model_type"])
def test_other_families_from_checkpoint_to_export(run: Run, tmp_path: Path, config: dict[str, Any]) -> None:
    model = write_checkpoint(tmp_path / "model", config | {"vocab_size": 300})
    byte_level().save(str(model / "tokenizer.json"))
    for name in ("int8", "int4", "layered"):
        assert run("quantize", model, "-o", tmp_path / name, "--format", name).code == 0
        told = document(run("generate", tmp_path / name, "the cat", "--max-tokens", "4", "--json"))
        assert len(told["tokens"]) == 4
    assert run("verify", tmp_path / "layered").code == 0
    told = document(
        run("generate", tmp_path / "layered", "the", "--max-tokens", "4", "--tier", "fast", "--json")
    )
    assert len(told["tokens"]) == 4
    assert run("export", tmp_path / "int8", "-o", tmp_path / "exported").code == 0
    for path in (model, tmp_path / "exported"):
        said = run("profile", path).out
        assert ("Parameters that a token uses" in said) == (config is QWEN3_MOE)


def test_generating_imports_no_torch(checkpoint: Path, tray: Path) -> None:
    """Neither from an artifact nor from a checkpoint; `-X importtime` names every module on stderr."""
    for model in (tray, checkpoint):
        command = [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "penjing",
            "generate",
            str(model),
            "the",
            "--max-tokens",
            "2",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        modules = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
        assert "penjing.engine.engine" in modules
        assert not {name for name in modules if name.split(".")[0] in {"torch", "transformers"}}


def test_quantize_with_data(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat and thought of a better rhyme. " * 20)
    options = ("--method", "gptq", "--data", tmp_path / "text.txt", "--calibration-tokens", "256")
    outcome = run("quantize", checkpoint, "-o", tmp_path / "tray", *options, "--max-ram", "1M", "--seed", "3")
    assert outcome.code == 0, outcome.err
    assert "of memory" in outcome.err
    assert "minutes left" in outcome.err
    assert not (tmp_path / "tray.work").exists()
    recipe = json.loads((tmp_path / "tray" / "manifest.json").read_text())["provenance"]["recipe"]
    assert (recipe["seed"], recipe["steps"][0]["method"]) == (3, "gptq")
    assert recipe["steps"][0]["calibration"]["tokens"] == 256


@pytest.mark.parametrize("method", ["rtn", "range", "mse", "percentile", "search"])
def test_methods_that_look_at_weights_alone(run: Run, checkpoint: Path, tmp_path: Path, method: str) -> None:
    assert run("quantize", checkpoint, "-o", tmp_path / "tray", "--method", method).code == 0
    refused = run("quantize", checkpoint, "-o", tmp_path / "b", "--method", method, "--resume")
    assert (refused.code, "weights alone" in refused.err) == (2, True)


def test_max_ram_is_a_size(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    for text in ("much", "-1", "0", "1e999G"):
        refused = run("quantize", checkpoint, "-o", tmp_path / "t", "--method", "gptq", f"--max-ram={text}")
        assert (refused.code, "--max-ram" in refused.err) == (2, True)
