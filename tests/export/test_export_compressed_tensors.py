"""Checkpoints of compressed-tensors: packing against the library's, and whole models through transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LLAMA, PHI3, QWEN3, QWEN3_MOE, write_checkpoint
from exports import random_codes
from safetensors import safe_open

from penjing.artifact import Artifact
from penjing.errors import SpecError
from penjing.export import export_compressed_tensors, export_safetensors
from penjing.export.choose import export
from penjing.export.compressed_tensors import SCHEMES, pack_words
from penjing.export.steps import steps_of
from penjing.formats import decode, dequantize
from penjing.quantize import quantize_checkpoint
from penjing.spec import QuantizeStep, Recipe, WeightFormat, preset

WIDE = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "intermediate_size": 128}


def make(root: Path, config: dict[str, Any], format_name: Any = "int4", asymmetric: bool = False) -> Artifact:
    write_checkpoint(root / "model", config)
    recipe = preset(format_name, asymmetric=asymmetric)
    return quantize_checkpoint(root / "model", root / "artifact", recipe)


def stored(directory: Path) -> dict[str, np.ndarray]:
    with safe_open(directory / "model.safetensors", "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def scheme(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())["quantization_config"]
    return found


@pytest.mark.parametrize(("name", "asymmetric"), SCHEMES)
def test_the_library_unpacks_what_was_packed(name: str, asymmetric: bool) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors", reason="pip install 'penjing[dev]'")
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = random_codes(name, asymmetric, 12, 128)
    bits, zeros = SCHEMES[name, asymmetric]
    steps = steps_of(codes, "best") if zeros else steps_of(codes, "best").without_zeros()
    words = pack_words(steps.levels + (0 if zeros else 2 ** (bits - 1)), bits)
    read = helpers.unpack_from_int32(torch.from_numpy(words), bits, torch.Size([12, 128])).numpy()
    levels = read.astype(np.float32)
    if zeros:
        packed = pack_words(steps.zeros.T, bits).T  # type: ignore[union-attr]
        points = helpers.unpack_from_int32(
            torch.tensor(packed.tolist(), dtype=torch.int32), bits, torch.Size([12, 2]), packed_dim=0
        )
        levels -= np.repeat(points.numpy().astype(np.float32), 64, axis=1)
    np.testing.assert_array_equal(levels * np.repeat(steps.scales, 64, axis=1), dequantize(codes))


@pytest.mark.parametrize(
    ("config", "format_name", "asymmetric"),
    [
        (LLAMA | WIDE, "int4", True),
        (LLAMA | WIDE | {"tie_word_embeddings": True, "intermediate_size": 100}, "int8", True),
        (QWEN3 | WIDE, "layered", False),
        (PHI3 | WIDE, "int4", False),
        (PHI3 | WIDE, "int6", True),
    ],
    ids=["llama", "llama tied, odd width", "qwen3", "phi3", "phi3 of 6 bits"],
)
def test_transformers_computes_what_was_meant(
    tmp_path: Path, config: dict[str, Any], format_name: str, asymmetric: bool
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors", reason="pip install 'penjing[dev]'")
    artifact = make(tmp_path, config, format_name, asymmetric)
    packed = export_compressed_tensors(artifact.path, tmp_path / "packed")
    plain = export_safetensors(artifact.path, tmp_path / "plain", dtype="fp32")
    tokens = torch.from_numpy(np.random.default_rng(0).integers(3, 50, (1, 40)))
    with torch.no_grad():
        found, meant = (
            transformers.AutoModelForCausalLM.from_pretrained(exported.path, dtype=torch.float32)(
                tokens
            ).logits
            for exported in (packed, plain)
        )
    torch.testing.assert_close(found, meant, atol=4e-3, rtol=0)  # embedding and head are rounded to fp16
    assert any("packed" in line and line.endswith("exact") for line in packed.lines())


def test_names_and_shapes_are_those_of_the_schema(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA | WIDE)
    out = export_compressed_tensors(artifact.path, tmp_path / "out").path
    tensors = stored(out)
    base = "model.layers.1.mlp.down_proj."
    assert (tensors[f"{base}weight_packed"].dtype, tensors[f"{base}weight_packed"].shape) == (
        np.int32,
        (64, 16),
    )
    assert (tensors[f"{base}weight_scale"].dtype, tensors[f"{base}weight_scale"].shape) == (
        np.float16,
        (64, 2),
    )
    assert tensors[f"{base}weight_shape"].tolist() == [64, 128]
    assert f"{base}weight" not in tensors
    np.testing.assert_array_equal(
        tensors["lm_head.weight"], decode(artifact.matrix("head")).astype(np.float16)
    )
    written = scheme(out)
    assert (written["format"], written["quant_method"]) == ("pack-quantized", "compressed-tensors")
    assert written["ignore"] == ["lm_head"]
    (group,) = written["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert (
        group["weights"] | {"num_bits": 4, "group_size": 64, "symmetric": True, "strategy": "group"}
        == (group["weights"])
    )


def test_negative_scales_stay_and_nothing_is_lost(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA | WIDE)
    exported = export_compressed_tensors(artifact.path, tmp_path / "out")
    scales = stored(exported.path)["model.layers.0.mlp.up_proj.weight_scale"]
    assert (scales < 0).any()
    assert (scales > 0).any()
    packed = next(item for item in exported.conversions if item.target.startswith("packed"))
    assert (packed.tensors, packed.largest_error) == (14, 0)
    rounded = export_compressed_tensors(artifact.path, tmp_path / "bf16", dtype="bf16").conversions
    assert 0 < max(item.rms_error for item in rounded if item.target.startswith("packed")) < 2**-8


def test_matrices_of_different_schemes_are_named(tmp_path: Path) -> None:
    """A row that is no whole groups stays a float; other schemes are told apart by name."""
    write_checkpoint(tmp_path / "model", LLAMA | WIDE | {"intermediate_size": 96})
    recipe = Recipe(steps=(QuantizeStep(weights=WeightFormat(name="int4", group_size=64)),))
    artifact = quantize_checkpoint(tmp_path / "model", tmp_path / "artifact", recipe)
    exported = export_compressed_tensors(artifact.path, tmp_path / "out")
    assert scheme(exported.path)["ignore"] == [
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
        "lm_head",
    ]
    assert "2 matrices: int4 g64 -> fp16, largest error" in "\n".join(exported.lines())


def test_experts_have_the_names_they_were_published_under(tmp_path: Path) -> None:
    config = QWEN3_MOE | WIDE | {"moe_intermediate_size": 64}
    tensors = stored(export_compressed_tensors(make(tmp_path, config).path, tmp_path / "out").path)
    assert tensors["model.layers.0.mlp.experts.5.down_proj.weight_packed"].shape == (64, 8)
    assert tensors["model.layers.0.mlp.gate.weight"].shape == (6, 64)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA | WIDE)
    with pytest.raises(SpecError, match="scales of fp16 or bf16"):
        export(artifact.path, tmp_path / "out", to="compressed-tensors", dtype="fp32")
    kept = make(tmp_path / "kept", LLAMA | WIDE, "keep")
    with pytest.raises(SpecError, match="no matrix of it can be packed"):
        export(kept.path, tmp_path / "out", to="compressed-tensors")
    with pytest.raises(SpecError, match="goes with gguf only"):
        export(artifact.path, tmp_path / "out", tokenizer=False)
    with pytest.raises(SpecError, match="nothing is exported to 'onnx'"):
        export(artifact.path, tmp_path / "out", to="onnx")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
