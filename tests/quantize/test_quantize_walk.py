from __future__ import annotations

import os
import signal
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
from text_samples import byte_level, write_tokenizer

from penjing.artifact import Artifact, expected_tensors, verify_artifact
from penjing.errors import (
    FormatError,
    NonFiniteWeightError,
    OutputExistsError,
    TokenizerError,
)
from penjing.formats import decode
from penjing.models import Checkpoint
from penjing.models.layout import published_tensors
from penjing.quantize import quantize_checkpoint
from penjing.spec import QuantizeStep, Recipe, WeightFormat, WeightFormatName, preset
from penjing.text import Tokenizer

FORMATS: tuple[WeightFormatName, ...] = ("keep", "int8", "int4", "layered")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny", QWEN3, dtype=ml_dtypes.bfloat16)


@pytest.mark.parametrize("config", [LLAMA, MISTRAL, QWEN2, QWEN3, QWEN3_MOE, PHI3, GEMMA3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_keep_loses_nothing(tmp_path: Path, config: dict[str, Any], dtype: Any) -> None:
    tensors = random_tensors(config, dtype)
    artifact = quantize_checkpoint(
        write_checkpoint(tmp_path / "m", config, dtype=dtype), tmp_path / "tray", preset("keep")
    )
    roles = expected_tensors(artifact.config)
    for published in published_tensors(artifact.config):
        original = tensors[published.name].astype(np.float32)
        stored = [
            decode(artifact.matrix(name)) if roles[name].is_matrix else artifact.vector(name)
            for name in published.parts
        ]
        assert np.array_equal(np.concatenate(stored), original), published.name
    assert {block.key_format for block in artifact.config.blocks} == {"fp32"}
    assert verify_artifact(artifact.path).hash == artifact.hash


@pytest.mark.parametrize(("format", "tolerance"), [("int8", 0.02), ("int4", 0.25), ("layered", 0.04)])
def test_formats_of_a_recipe(tmp_path: Path, tiny: Path, format: Any, tolerance: float) -> None:
    artifact = quantize_checkpoint(tiny, tmp_path / "tray", preset(format, 32))
    checkpoint = Checkpoint.open(tiny)
    for name, role in expected_tensors(artifact.config).items():
        if not role.is_matrix:
            continue
        stored = artifact.matrix(name)
        assert stored.format == ("int8" if name in ("embedding", "head") else format)
        assert stored.group_size == 32
        original = checkpoint.read(name).astype(np.float32)
        error = np.abs(decode(stored) - original).max() / np.abs(original).max()
        assert error < tolerance, name
    assert {block.value_format for block in artifact.config.blocks} == {"int8"}


@pytest.mark.parametrize("format", ["int8", "int4", "layered"])
def test_a_router_is_never_quantized(tmp_path: Path, format: Any) -> None:
    source = write_checkpoint(tmp_path / "m", QWEN3_MOE, dtype=ml_dtypes.bfloat16)
    artifact = quantize_checkpoint(source, tmp_path / "tray", preset(format, 32))
    stored, original = artifact.matrix("blocks.2.router"), Checkpoint.open(source).read("blocks.2.router")
    assert (stored.format, stored.group_size) == ("bf16", 0)
    np.testing.assert_array_equal(decode(stored), original.astype(np.float32))
    assert artifact.matrix("blocks.2.experts.5.down").format == format
    assert "blocks.1.router" not in artifact.manifest.tensors


def test_two_runs_give_the_same_bytes(tmp_path: Path, tiny: Path) -> None:
    for format in FORMATS:
        one = quantize_checkpoint(tiny, tmp_path / f"{format}-1", preset(format))
        two = quantize_checkpoint(tiny, tmp_path / f"{format}-2", preset(format))
        assert one.hash == two.hash
        assert contents(one.path) == contents(two.path)


def test_threads_shards_and_place_change_nothing(tmp_path: Path, tiny: Path) -> None:
    here = quantize_checkpoint(tiny, tmp_path / "here", preset("layered"))
    elsewhere = write_checkpoint(
        tmp_path / "deep" / "down" / "another-name", QWEN3, dtype=ml_dtypes.bfloat16, num_shards=3
    )
    code = "import sys; from pathlib import Path; from penjing.quantize import quantize_checkpoint;"
    code += "from penjing.spec import preset;"
    code += "quantize_checkpoint(sys.argv[1], Path(sys.argv[2]), preset('layered'))"
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = ["taskset", "-c", "0", sys.executable, "-c", code, str(elsewhere), str(tmp_path / "there")]
    subprocess.run(command, check=True, env=os.environ | single)
    assert contents(here.path) == contents(tmp_path / "there")


def test_recipe_source_and_seed_are_in_the_hash(tmp_path: Path, tiny: Path) -> None:
    base = preset("int4")
    provenance = quantize_checkpoint(tiny, tmp_path / "a", base).manifest.provenance
    assert provenance.recipe == base
    assert (provenance.source.name, provenance.source.revision) == (None, None)
    assert provenance.source.label == provenance.source.hash[:12]
    assert provenance.source.hash == Checkpoint.open(tiny).hash
    assert provenance.source.tensor_bytes == Checkpoint.open(tiny).tensor_bytes
    assert set(provenance.versions) == {"ml_dtypes", "numpy", "penjing"}
    hashes = {Artifact.open(tmp_path / "a").hash}
    hashes.add(quantize_checkpoint(tiny, tmp_path / "b", Recipe(steps=base.steps, seed=1)).hash)
    hashes.add(quantize_checkpoint(tiny, tmp_path / "c", preset("int4", 32)).hash)
    assert len(hashes) == 3
    text = (tmp_path / "a" / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert str(tiny.parent) not in text


def test_an_open_checkpoint_is_a_source_too(tmp_path: Path, tiny: Path) -> None:
    opened = Checkpoint.open(tiny)
    hashes = {quantize_checkpoint(opened, tmp_path / name, preset("int4")).hash for name in ("a", "b")}
    assert hashes == {quantize_checkpoint(tiny, tmp_path / "c", preset("int4")).hash}
    published = Checkpoint(tiny, "owner/model", "0123abc")
    named = quantize_checkpoint(published, tmp_path / "named", preset("int4"))
    source = named.manifest.provenance.source
    assert (source.name, source.revision, source.label) == ("owner/model", "0123abc", "owner/model")
    assert named.hash not in hashes


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_broken_tokenizer(tmp_path: Path, file: str) -> None:
    """What could not be served is not written."""
    source = write_checkpoint(tmp_path / "m")
    write_tokenizer(source, byte_level())
    (source / file).write_text('{"broken": ')
    with pytest.raises(TokenizerError, match=file.replace(".", r"\.")):
        quantize_checkpoint(source, tmp_path / "tray", preset("int4"))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_progress_counts_every_tensor(tmp_path: Path, tiny: Path) -> None:
    seen: list[tuple[int, int]] = []
    artifact = quantize_checkpoint(
        tiny, tmp_path / "tray", preset("int8"), progress=lambda *step: seen.append(step)
    )
    total = len(artifact.manifest.tensors)
    assert seen == [(done, total) for done in range(total + 1)]


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("format", ["keep", "int4"])
def test_damaged_weights(tmp_path: Path, name: str, value: float, format: Any) -> None:
    tensors = random_tensors(LLAMA)
    tensors[name].reshape(-1)[-1] = value
    source = write_checkpoint(tmp_path / "m", tensors=tensors)
    with pytest.raises(NonFiniteWeightError):
        quantize_checkpoint(source, tmp_path / "tray", preset(format))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_scale_that_float16_cannot_hold(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.layers.0.mlp.gate_proj.weight"][:] = 1e7
    source = write_checkpoint(tmp_path / "m", tensors=tensors)
    with pytest.raises(FormatError, match=r"blocks\.0\.gate"):
        quantize_checkpoint(source, tmp_path / "tray", preset("int4"))


def test_groups_too_small_for_float16_are_noticed(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    gate = tensors["model.layers.0.mlp.gate_proj.weight"]
    gate[:2] = 1e-12
    source = write_checkpoint(tmp_path / "m", tensors=tensors)
    lines: list[str] = []
    artifact = quantize_checkpoint(source, tmp_path / "tray", preset("int4", 128), notice=lines.append)
    assert lines == ["2 groups of blocks.0.gate are below float16's smallest scale: stored within 3e-08"]
    assert not decode(artifact.matrix("blocks.0.gate"))[:2].any()


def test_existing_output(tmp_path: Path, tiny: Path) -> None:
    first = quantize_checkpoint(tiny, tmp_path / "tray", preset("int8"))
    with pytest.raises(OutputExistsError):
        quantize_checkpoint(tiny, tmp_path / "tray", preset("int4"))
    assert Artifact.open(tmp_path / "tray").hash == first.hash
    second = quantize_checkpoint(tiny, tmp_path / "tray", preset("int4"), force=True)
    assert Artifact.open(tmp_path / "tray").hash == second.hash != first.hash


def test_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "m")
    with pytest.raises(OutputExistsError, match="not an artifact"):
        quantize_checkpoint(source, source, preset("int8"), force=True)


def test_killed_and_run_again(tmp_path: Path) -> None:
    config = LLAMA | {"num_hidden_layers": 12}
    source = write_checkpoint(tmp_path / "m", config)
    code = "import sys; from pathlib import Path; from penjing.quantize import quantize_checkpoint;"
    code += "from penjing.spec import preset; print('start', flush=True);"
    code += "quantize_checkpoint(sys.argv[1], Path(sys.argv[2]), preset('layered'))"
    for delay in (0.02, 0.1, 0.2):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(source), str(tmp_path / "tray")], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if (tmp_path / "tray").exists():
            verify_artifact(tmp_path / "tray")
    again = quantize_checkpoint(source, tmp_path / "tray", preset("layered"), force=True)
    fresh = quantize_checkpoint(source, tmp_path / "fresh", preset("layered"))
    assert contents(again.path) == contents(fresh.path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "m", "tray"]


def test_memory_is_about_one_tensor(tmp_path: Path) -> None:
    """A model of 77 MB whose largest tensor has 2 MB."""
    config = LLAMA | {
        "hidden_size": 512,
        "head_dim": 128,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "vocab_size": 64,
    }
    source = write_checkpoint(tmp_path / "m", config)
    code = "import resource, sys; from pathlib import Path; from penjing.quantize import quantize_checkpoint;"
    code += "from penjing.spec import preset; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
    code += "quantize_checkpoint(sys.argv[1], Path(sys.argv[2]), preset('keep'));"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "tray")]
    growth = int(subprocess.run(command, check=True, capture_output=True).stdout) * 1024
    assert Checkpoint.open(source).tensor_bytes > 60e6
    assert growth < 24e6, growth


def test_runs_on_the_core_alone(tmp_path: Path, tiny: Path) -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None;"
    code += "from pathlib import Path; from penjing.quantize import quantize_checkpoint;"
    code += (
        "from penjing.spec import preset; quantize_checkpoint(sys.argv[1], Path(sys.argv[2]), preset('int4'))"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny), str(tmp_path / "tray")], check=True)
    verify_artifact(tmp_path / "tray")


def test_stories260k(tmp_path: Path, stories260k: Path) -> None:
    artifacts = {
        format: quantize_checkpoint(stories260k, tmp_path / format, preset(format)) for format in FORMATS
    }
    whole = Checkpoint.open(stories260k).tensor_bytes
    ratios = {format: artifact.tensor_bytes / whole for format, artifact in artifacts.items()}
    assert ratios["int4"] < 0.17 < ratios["layered"] < ratios["int8"] * 1.01 < 0.28
    assert contents(tmp_path / "int4")["tensors.bin"] == contents(tmp_path / "layered")["tensors.bin"]
    assert artifacts["layered"].tier_bytes("fast") == artifacts["int4"].tensor_bytes
    for artifact in artifacts.values():
        verify_artifact(artifact.path)
        tokenizer, original = Tokenizer.load(artifact.path), Tokenizer.load(stories260k)
        text = "Once upon a time, there was a tiny tree."
        assert tokenizer.encode(text) == original.encode(text)
        assert tokenizer.eos_ids == (2,)


def test_a_recipe_may_mix_formats(tmp_path: Path, tiny: Path) -> None:
    step = QuantizeStep(
        weights=WeightFormat(name="int8", group_size=128), embedding=WeightFormat(name="keep"), kv="bf16"
    )
    artifact = quantize_checkpoint(tiny, tmp_path / "tray", Recipe(steps=(step,)))
    assert artifact.matrix("head").format == artifact.matrix("embedding").format == "bf16"
    assert artifact.matrix("blocks.1.query").group_size == 128
    assert artifact.config.blocks[1].key_format == "bf16"
