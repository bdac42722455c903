"""llama.cpp's own llama-quantize, through its library, with an importance matrix of the calibration text.

A job's own setting: type, as llama-quantize names it. Rows of queries and keys keep their order in the file,
since blocks lie along rows and their order changes nothing but what llama.cpp would make of the file.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import torch
from gguf.quants import dequantize
from job import Job, block_linears, calibration, load_model, run

BATCH_WINDOWS = 8
SOURCE, RESULT = Path("source.gguf"), Path("result.gguf")
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def quantize(job: Job) -> dict[str, Any]:
    """Write the checkpoint as it is, have it quantized, and read back what its blocks stand for."""
    model = load_model(job)
    importance = {theirs(f"{name}.weight"): values for name, values in importances(model, job).items()}
    write_source(model)
    write_result(job["type"], importance)
    ours = {theirs(name): name for name in model.state_dict() if name != "lm_head.weight"}
    read = {ours[tensor.name]: tensor for tensor in gguf.GGUFReader(RESULT).tensors}
    tensors = {name: values_of(tensor) for name, tensor in read.items()}
    linears = [read[f"{name}.weight"] for name in block_linears(model)]
    return {
        "tensors": tensors,
        "bits_per_weight": 8 * sum(t.n_bytes for t in linears) / sum(t.n_elements for t in linears),
        "types": Counter(t.tensor_type.name for t in linears),
        "embedding_type": read["model.embed_tokens.weight"].tensor_type.name,
        "tensor_bytes": int(sum(t.n_bytes for t in read.values())),
        "file_bytes": RESULT.stat().st_size,
    }


def theirs(name: str) -> str:
    """A tensor's name in a GGUF file."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, index, rest = name.split(".", 3)
    return f"blk.{index}.{NAMES[rest.removesuffix('.weight')]}.weight"


@torch.no_grad()
def importances(model: Any, job: Job) -> dict[str, np.ndarray]:
    """Mean square of each input of each linear, float32 [inputs]: what llama-imatrix gathers."""
    sums: dict[str, torch.Tensor] = {}

    def gather(name: str) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            sums[name] = sums.get(name, 0) + inputs[0].double().square().sum(dim=(0, 1))

        return hook

    for name, module in block_linears(model).items():
        module.register_forward_pre_hook(gather(name))
    windows = torch.from_numpy(calibration(job))
    for batch in windows.split(BATCH_WINDOWS):
        model.model(batch)
    return {name: (total / windows.numel()).float().numpy() for name, total in sums.items()}


def write_source(model: Any) -> None:
    """The checkpoint in float32; no tokenizer."""
    config = model.config
    writer = gguf.GGUFWriter(SOURCE, "llama")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(theirs(name), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_result(type: str, importance: dict[str, np.ndarray]) -> None:
    """As `llama-quantize --imatrix` does."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{type}")
    options.nthread = torch.get_num_threads()
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()  # the last one, empty, ends it
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = len(values)
    options.imatrix = entries
    failed = llama_cpp.llama_model_quantize(str(SOURCE).encode(), str(RESULT).encode(), ctypes.byref(options))
    if failed:
        raise SystemExit(f"llama_model_quantize returned {failed}")
    SOURCE.unlink()


def values_of(tensor: Any) -> torch.Tensor:
    """The float32 values that a tensor of the file stands for."""
    return torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32))


if __name__ == "__main__":
    run(quantize, ("llama-cpp-python", "gguf", "torch", "transformers"))
