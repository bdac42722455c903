"""The walk: every family and method, the same bytes however it is run, and failures by name."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import GEMMA3, LLAMA, PHI3, QWEN2, QWEN3, QWEN3_MOE, random_tensors, write_checkpoint

from penjing.artifact import Artifact, verify_artifact
from penjing.errors import (
    DataError,
    FormatError,
    NonFiniteActivationError,
    NonFiniteWeightError,
    OutputExistsError,
    SpecError,
)
from penjing.formats import decode
from penjing.models import Checkpoint
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.quantize import quantize_checkpoint
from penjing.quantize.calibrated import quantize_calibrated
from penjing.quantize.state import BlockResult
from penjing.spec import Override, QuantizeStep, Recipe, WeightFormat, preset

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = np.random.default_rng(5).integers(0, 50, (12, 40))
KILLED_RECIPE = preset("layered", 32, method="qronos")


def walk(source: Path, out: Path, recipe: Recipe, **options: Any) -> Artifact:
    return quantize_calibrated(Checkpoint.open(source), out, recipe, TOKENS, say=lambda _: None, **options)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def divergence(source: Path, artifact: Artifact, tier: Any = "best") -> float:
    """Mean KL of an artifact's dequantized weights to the original, on other text."""
    checkpoint = Checkpoint.open(source)
    tokens = torch.from_numpy(np.random.default_rng(6).integers(0, 50, (8, 40)))

    def stored(name: str) -> torch.Tensor:
        if len(artifact.manifest.tensors[name].shape) == 1:
            return tensor_of(artifact.vector(name).copy())
        return torch.from_numpy(decode(artifact.matrix(name), tier))

    with torch.no_grad():
        original, quantized = (
            torch.log_softmax(TorchModel(checkpoint.config, read, 40)(tokens), -1)
            for read in (lambda name: tensor_of(checkpoint.read(name)).float(), stored)
        )
    return float((original.exp() * (original - quantized)).sum(-1).mean())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {
        name: tensor * (2 if tensor.ndim == 2 else 1) for name, tensor in random_tensors(LLAMA).items()
    }
    return write_checkpoint(tmp_path_factory.mktemp("models") / "llama", tensors=tensors)


@pytest.mark.parametrize(
    "config", [LLAMA, QWEN2, QWEN3, GEMMA3, PHI3], ids=lambda config: config["model_type"]
)
def test_every_family_is_walked(tmp_path: Path, config: dict[str, Any]) -> None:
    source = write_checkpoint(tmp_path / "m", config)
    artifact = walk(source, tmp_path / "tray", preset("int4", 32, method="gptq"))
    verify_artifact(artifact.path)
    assert artifact.matrix("blocks.1.down").format == "int4"
    assert artifact.manifest.provenance.calibration is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "tray"]
    plain = quantize_checkpoint(source, tmp_path / "plain", preset("int4", 32, method="range"))
    assert 0 < divergence(source, artifact) < divergence(source, plain)


@pytest.mark.parametrize("method", ["awq", "smoothquant", "gptq", "qronos", "auto"])
def test_the_base_plane_is_the_standalone_one(tmp_path: Path, source: Path, method: Any) -> None:
    """Byte for byte, norms included; and both planes together are far closer to the original."""
    plain = walk(source, tmp_path / "int4", preset("int4", 32, method=method))
    layered = walk(source, tmp_path / "layered", preset("layered", 32, method=method))
    assert contents(plain.path)["tensors.bin"] == contents(layered.path)["tensors.bin"]
    assert divergence(source, layered) < 0.1 * divergence(source, layered, "fast")


def test_methods_with_data_lose_less(tmp_path: Path, source: Path) -> None:
    losses = {
        method: divergence(source, walk(source, tmp_path / method, preset("int4", 32, method=method)))
        for method in ("smoothquant", "gptq", "qronos")
    }
    assert losses["gptq"] < losses["smoothquant"]
    assert losses["qronos"] < losses["smoothquant"]


def test_experts_that_hardly_any_token_went_to(tmp_path: Path) -> None:
    """They are rounded by their weights alone, counted and said; the rest by their own tokens."""
    source, said = write_checkpoint(tmp_path / "m", QWEN3_MOE), []
    artifact = quantize_calibrated(
        Checkpoint.open(source),
        tmp_path / "tray",
        preset("layered", 32, method="gptq"),
        TOKENS[:1, :6],
        say=said.append,
    )
    assert any("too few tokens" in line for line in said)
    assert artifact.matrix("blocks.2.experts.3.down").format == "layered"
    assert artifact.matrix("blocks.2.router").format == "fp32"
    assert divergence(source, artifact) < 0.01


def test_memory_and_repetition_change_nothing(tmp_path: Path, source: Path) -> None:
    recipe = preset("layered", 32, method="qronos")
    once = walk(source, tmp_path / "a", recipe)
    spilled = walk(source, tmp_path / "b", recipe, max_ram_bytes=1)
    assert contents(once.path) == contents(spilled.path)
    other = quantize_calibrated(
        Checkpoint.open(source), tmp_path / "c", recipe, TOKENS[::-1].copy(), say=lambda _: None
    )
    assert other.hash != once.hash


def walk_until_killed(source: Path, out: Path, begun: Connection) -> None:
    """The run of the test below, in a process of its own."""
    torch.set_num_threads(1)
    begun.send(True)
    walk(source, out, KILLED_RECIPE, max_ram_bytes=1, resume=True, force=True)
    begun.send(True)


def test_killed_at_ten_moments_and_resumed(tmp_path: Path, source: Path) -> None:
    """SIGKILL at random moments of ten runs, and again when half of them go on: all end as if nothing was."""
    whole = walk(source, tmp_path / "whole", KILLED_RECIPE)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["penjing.quantize.calibrated"])

    def run(out: Path, seconds: float | None) -> float:
        """Kill a run after so long, or let it end; how long it ran."""
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=walk_until_killed, args=(source, out, theirs))
        child.start()
        ours.recv()
        start = time.monotonic()
        ours.poll(seconds)
        child.kill()
        child.join()
        return time.monotonic() - start

    duration = run(tmp_path / "timed", None)
    generator, unfinished = random.Random(0), 0
    for number in range(10):
        out = tmp_path / f"tray{number}"
        for _ in range(1 + number % 2):
            run(out, duration * generator.random())
        unfinished += not out.exists()
        resumed = walk(source, out, KILLED_RECIPE, resume=True, force=True)
        assert contents(resumed.path) == contents(whole.path)
        assert not out.with_name(f"tray{number}.work").exists()
    assert unfinished >= 5, "the runs had ended before they were killed"


def test_an_unfinished_run_is_not_mistaken_for_another(tmp_path: Path, source: Path) -> None:
    def fail(artifact: Artifact, results: Iterator[BlockResult]) -> None:
        raise RuntimeError("cut short")

    recipe, out = preset("int4", 32, method="gptq"), tmp_path / "tray"
    with pytest.raises(RuntimeError, match="cut short"):
        walk(source, out, recipe, check=fail)
    assert not out.exists()
    with pytest.raises(OutputExistsError, match="--resume goes on"):
        walk(source, out, recipe)
    with pytest.raises(SpecError, match="another recipe"):
        walk(source, out, preset("int4", 64, method="gptq"), resume=True)
    resumed = walk(source, out, recipe, resume=True)
    assert resumed.hash == walk(source, tmp_path / "fresh", recipe).hash
    (tmp_path / "other.work").mkdir()
    (tmp_path / "other.work" / "precious.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="not written by Penjing"):
        walk(source, tmp_path / "other", recipe, force=True)


def test_overrides(tmp_path: Path, source: Path) -> None:
    int8, keep = WeightFormat(name="int8", group_size=32), WeightFormat(name="keep")
    step = QuantizeStep(
        method="gptq",
        weights=WeightFormat(name="int4", group_size=32),
        overrides=(
            Override(match="blocks.0.*", weights=int8),
            Override(match="*.gate", weights=keep),
            Override(match="*.up", weights=keep),
            Override(match="blocks.1.output", weights=WeightFormat(name="layered", group_size=64)),
        ),
    )
    artifact = walk(source, tmp_path / "tray", Recipe(steps=(step,)))
    formats = {name: entry.format for name, entry in artifact.manifest.tensors.items()}
    assert (formats["blocks.0.query"], formats["blocks.0.gate"]) == ("int8", "fp32")
    assert (formats["blocks.1.query"], formats["blocks.1.output"]) == ("int4", "layered")
    kept = Checkpoint.open(source).read("blocks.1.up")
    np.testing.assert_array_equal(decode(artifact.matrix("blocks.1.up")), kept)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_weights_are_named(tmp_path: Path, value: float) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    source = write_checkpoint(tmp_path / "m", tensors=tensors)
    with pytest.raises(NonFiniteWeightError, match=r"blocks\.1\.up"):
        walk(source, tmp_path / "tray", preset("int4", 32, method="gptq"))
    assert not (tmp_path / "tray").exists()


def test_an_activation_that_overflows_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.layers.0.mlp.gate_proj.weight"][:] = 1e30
    tensors["model.layers.0.mlp.up_proj.weight"][:] = 1e30
    source = write_checkpoint(tmp_path / "m", tensors=tensors)
    keep = tuple(Override(match=f"*.{name}", weights=WeightFormat(name="keep")) for name in ("gate", "up"))
    step = QuantizeStep(method="gptq", overrides=keep)
    with pytest.raises(NonFiniteActivationError, match=r"blocks\.0\.down"):
        walk(source, tmp_path / "tray", Recipe(steps=(step,)))


def test_odd_weights_are_quantized(tmp_path: Path) -> None:
    """A row of zeros, a group of equals, an outlier of ten thousand, an input that is never there."""
    tensors = random_tensors(LLAMA)
    tensors["model.layers.0.mlp.gate_proj.weight"][7] = 0.0
    tensors["model.layers.0.self_attn.q_proj.weight"][2, :32] = 0.25
    tensors["model.layers.1.self_attn.o_proj.weight"][4, 9] = 1e4
    tensors["model.layers.1.input_layernorm.weight"][11] = 0.0
    source = write_checkpoint(tmp_path / "m", tensors=tensors)
    artifact = walk(source, tmp_path / "tray", preset("layered", 32, method="auto"))
    assert not decode(artifact.matrix("blocks.0.gate"))[7].any()
    np.testing.assert_allclose(decode(artifact.matrix("blocks.0.query"))[2, :32], 0.25, atol=0.02)
    assert decode(artifact.matrix("blocks.1.output"))[4, 9] == pytest.approx(1e4, rel=0.01)


def test_a_scale_that_float16_cannot_hold_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.layers.1.self_attn.v_proj.weight"][3, 3] = 1e7
    source = write_checkpoint(tmp_path / "m", tensors=tensors)
    with pytest.raises(FormatError, match=r"blocks\.1\.value"):
        walk(source, tmp_path / "tray", preset("int4", 32, method="gptq"))


@pytest.mark.parametrize(
    "tokens", [np.zeros((0, 8), int), np.zeros(8, int), np.full((2, 8), 50), np.zeros((1, 200), int)]
)
def test_tokens_that_the_model_cannot_read(tmp_path: Path, source: Path, tokens: Any) -> None:
    with pytest.raises(DataError, match="calibration tokens"):
        quantize_calibrated(
            Checkpoint.open(source), tmp_path / "tray", preset("int4", 32, method="gptq"), tokens
        )
    assert list(tmp_path.iterdir()) == []
