"""GGUF files, read by the gguf package and by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

from penjing.artifact import Artifact, RopeConfig
from penjing.artifact.rope import inverse_frequencies
from penjing.errors import FormatError, OutputExistsError, SpecError, UnsupportedConfigError
from penjing.export import Exported, export_gguf, export_safetensors
from penjing.formats import decode
from penjing.quantize import quantize_checkpoint
from penjing.spec import preset

gguf = pytest.importorskip("gguf", reason="pip install 'penjing[dev]'")

WIDE = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "intermediate_size": 96}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {"type": "su", "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [8.0] * 4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
EXPERTS = QWEN3_MOE | WIDE | {"mlp_only_layers": [], "moe_intermediate_size": 32}
GEMMA = GEMMA3 | WIDE | {"query_pre_attn_scalar": 16}


def make(root: Path, config: dict[str, Any], format_name: str = "int4") -> Artifact:
    write_checkpoint(root / "model", config)
    return quantize_checkpoint(root / "model", root / "artifact", preset(format_name))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("format_name", "asymmetric", "target"),
    [
        ("int2", True, "Q4_0"),
        ("int3", False, "Q4_0"),
        ("int4", True, "Q4_1"),
        ("int5", False, "Q5_0"),
        ("int6", True, "Q8_0"),
        ("table4", False, "Q8_0"),
        ("table2", False, "Q8_0"),
        ("mxfp4", False, "MXFP4"),
        ("nf4", False, "F16"),
    ],
)
def test_every_format_is_read_as_it_was_meant(
    tmp_path: Path, format_name: Any, asymmetric: bool, target: str
) -> None:
    write_checkpoint(tmp_path / "model", LLAMA | WIDE)
    recipe = preset(format_name, 32, asymmetric)
    artifact = quantize_checkpoint(tmp_path / "model", tmp_path / "artifact", recipe)
    exported = export_gguf(artifact.path, tmp_path / "out.gguf")
    (said,) = [conversion for conversion in exported.conversions if conversion.source.startswith(format_name)]
    assert (said.target, said.tensors) == (target, 14)
    assert (said.largest_error == 0) == (target not in ("Q4_1", "F16"))
    stored, meant = read(exported)[1]["blk.1.ffn_down.weight"], decode(artifact.matrix("blocks.1.down"))
    np.testing.assert_allclose(
        stored, meant, atol=said.largest_error * np.abs(meant).max() * (1 + 1e-6), rtol=0
    )


def read(exported: Exported) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys, and tensors as float32."""
    reader = gguf.GGUFReader(exported.path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        for tensor in reader.tensors
    }
    return keys, tensors


def halves_again(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Undoes llama.cpp's order of rotated rows: pairs side by side go back to halves of a head."""
    heads = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.parametrize("format_name", ["int4", "int8", "layered"])
def test_weights_are_the_artifacts_own(tmp_path: Path, format_name: str) -> None:
    artifact = make(tmp_path, LLAMA | WIDE | {"attention_bias": True, "mlp_bias": True}, format_name)
    for tier in artifact.tiers:
        exported = export_gguf(artifact.path, tmp_path / f"{tier}.gguf", tier=tier)
        assert all(conversion.largest_error == 0 for conversion in exported.conversions)
        _, tensors = read(exported)
        for ours, theirs in {"output": "attn_output", "up": "ffn_up", "down": "ffn_down"}.items():
            meant = decode(artifact.matrix(f"blocks.1.{ours}"), tier)
            np.testing.assert_array_equal(tensors[f"blk.1.{theirs}.weight"], meant)
        for ours, theirs in {"query": "attn_q", "key": "attn_k"}.items():
            stored = halves_again(tensors[f"blk.1.{theirs}.weight"], 16)
            np.testing.assert_array_equal(stored, decode(artifact.matrix(f"blocks.1.{ours}"), tier))
            bias = halves_again(tensors[f"blk.1.{theirs}.bias"], 16)
            np.testing.assert_array_equal(bias, artifact.vector(f"blocks.1.{ours}_bias"))
        np.testing.assert_array_equal(
            tensors["token_embd.weight"], decode(artifact.matrix("embedding"), tier)
        )
        np.testing.assert_array_equal(tensors["output_norm.weight"], artifact.vector("final_norm"))


@pytest.mark.parametrize(
    "config",
    [
        LLAMA | WIDE,
        LLAMA | WIDE | {"tie_word_embeddings": True},
        QWEN2 | WIDE,
        QWEN3 | WIDE | {"head_dim": 32},
        EXPERTS,
        PHI3 | WIDE,
        GEMMA | {"rope_scaling": None, "sliding_window_pattern": 6, "num_hidden_layers": 6},
    ],
    ids=lambda config: config["model_type"],
)
def test_transformers_rebuilds_the_model(tmp_path: Path, config: dict[str, Any]) -> None:
    """From the tensors of the file; it computes what the dequantized checkpoint does."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="pip install 'penjing[dev]'")
    artifact = make(tmp_path, config)
    out = export_gguf(artifact.path, tmp_path / "model.gguf").path
    plain = export_safetensors(artifact.path, tmp_path / "plain", dtype="fp32").path
    tokens = torch.from_numpy(np.random.default_rng(0).integers(3, 50, (1, 40)))
    config_read = transformers.AutoConfig.from_pretrained(plain)  # of keys it leaves some out
    loaded = (
        transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32),
        transformers.AutoModelForCausalLM.from_pretrained(
            out.parent, gguf_file=out.name, config=config_read, dtype=torch.float32
        ),
    )
    with torch.no_grad():
        meant, found = (model(tokens).logits for model in loaded)
    torch.testing.assert_close(found, meant, atol=1e-5, rtol=1e-5)


def test_keys_say_the_shape(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA | WIDE | {"rope_scaling": LLAMA3_ROPE})
    exported = export_gguf(artifact.path, tmp_path / "model.gguf")
    keys, tensors = read(exported)
    assert keys["penjing.artifact"] == artifact.hash
    assert keys["general.architecture"] == "llama"
    assert keys["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_0
    assert keys["llama.attention.head_count_kv"] == 2
    assert keys["llama.rope.freq_base"] == 10000
    assert keys["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert exported.notes == ("the file has no tokenizer: its readers take and give token ids only",)
    plain = inverse_frequencies(RopeConfig(theta=10000.0), 16)[0]
    turning = inverse_frequencies(artifact.config.rope, 16)[0]
    np.testing.assert_allclose(plain / tensors["rope_freqs.weight"], turning, rtol=1e-6)
    assert 1 < tensors["rope_freqs.weight"][1] < 8 == tensors["rope_freqs.weight"][-1]


def test_the_same_bytes_again(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA | WIDE)
    first, second = (export_gguf(artifact.path, tmp_path / name).path for name in ("a.gguf", "b.gguf"))
    assert first.read_bytes() == second.read_bytes()


def test_rotations_of_other_families(tmp_path: Path) -> None:
    keys, _ = read(
        export_gguf(make(tmp_path / "y", QWEN3 | WIDE | {"rope_scaling": YARN}).path, tmp_path / "y.gguf")
    )
    assert keys["qwen3.rope.scaling.type"] == "yarn"
    assert keys["qwen3.rope.scaling.factor"] == 4
    assert keys["qwen3.rope.scaling.original_context_length"] == 32
    config = PHI3 | WIDE | {"rope_scaling": LONGROPE, "partial_rotary_factor": 0.5}
    artifact = make(tmp_path / "p", config | {"original_max_position_embeddings": 64})
    keys, tensors = read(export_gguf(artifact.path, tmp_path / "p.gguf"))
    assert keys["phi3.rope.dimension_count"] == 8
    assert keys["phi3.context_length"] == artifact.config.max_positions == 64
    for name in ("rope_factors_long.weight", "rope_factors_short.weight"):
        np.testing.assert_array_equal(tensors[name], [1.0, 1.5, 2.0, 2.5])
    keys, tensors = read(export_gguf(make(tmp_path / "g", GEMMA).path, tmp_path / "g.gguf"))
    assert keys["gemma3.attention.sliding_window_pattern"] == [True, True, False]
    assert keys["gemma3.rope.freq_base_swa"] == 10000
    assert keys["gemma3.rope.scaling.factor"] == 8
    norm = Artifact.open(tmp_path / "g" / "artifact").vector("final_norm")
    np.testing.assert_array_equal(tensors["output_norm.weight"], norm + 1)


def test_windows_that_llama_cpp_lacks_end_the_context(tmp_path: Path) -> None:
    exported = export_gguf(make(tmp_path, MISTRAL | WIDE).path, tmp_path / "m.gguf")
    assert read(exported)[0]["llama.context_length"] == 64
    assert "context of 64 positions, not 128" in exported.notes[0]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (QWEN3_MOE | WIDE, "its blocks differ"),
        (EXPERTS | {"norm_topk_prob": False}, "do not add up to 1"),
        (QWEN3 | WIDE | {"attention_bias": True}, "a bias on the output of attention"),
        (QWEN2 | WIDE | {"rope_scaling": LLAMA3_ROPE}, "rotary embedding of type llama3"),
        (PHI3 | WIDE | {"head_dim": 32}, "not as wide as the model"),
        (GEMMA | {"query_pre_attn_scalar": 20}, "over the root of 20, where it takes 16"),
        (GEMMA | {"attn_logit_softcapping": 30.0}, "a soft cap on attention scores"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_llama_cpp_cannot_compute_is_refused(
    tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    artifact = make(tmp_path, config, "int8")
    with pytest.raises(UnsupportedConfigError, match=reason):
        export_gguf(artifact.path, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    """Rows of 48 become half precision, which these weights are beyond."""
    tensors = random_tensors(LLAMA)
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e6
    write_checkpoint(tmp_path / "model", tensors=tensors)
    artifact = quantize_checkpoint(tmp_path / "model", tmp_path / "artifact", preset("int8"))
    with pytest.raises(FormatError, match=r"artifact: blocks\.1\.up: a number of it is beyond float16"):
        export_gguf(artifact.path, tmp_path / "out.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "model"]


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    artifact = make(tmp_path, LLAMA | WIDE)
    out = export_gguf(artifact.path, tmp_path / "out.gguf").path
    whole = out.read_bytes()
    with pytest.raises(OutputExistsError, match="exists already"):
        export_gguf(artifact.path, out)
    out.write_bytes(whole[:500])  # cut off, and still ours
    assert export_gguf(artifact.path, out, force=True).path.read_bytes() == whole
    for name, data in (
        ("notes.gguf", b"weeks of work"),
        ("other.gguf", whole.replace(b"penjing.art", b"somebodys.1")),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(OutputExistsError, match="is not a GGUF file that Penjing exported"):
            export_gguf(artifact.path, tmp_path / name, force=True)
        assert (tmp_path / name).read_bytes() == data
    with pytest.raises(OutputExistsError, match="is not a GGUF file that Penjing exported"):
        export_gguf(artifact.path, tmp_path / "model", force=True)
    with pytest.raises(SpecError, match="no tier fast"):
        export_gguf(artifact.path, tmp_path / "fast.gguf", tier="fast")
    assert not list(tmp_path.glob(".*"))
