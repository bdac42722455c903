"""llm-compressor: GPTQ (Frantar et al. 2023, in activation order, static groups) and AWQ (Lin et al. 2024).

A job's own settings: method (gptq or awq), group_size, symmetric, and for GPTQ observer (how a group's range
is found) and damping (of the Hessian's diagonal).
"""

from __future__ import annotations

from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from datasets import Dataset
from job import Job, block_linears, calibration, check_levels, grouped_bits, load_model, run
from llmcompressor import oneshot


def quantize(job: Job) -> dict[str, Any]:
    """Block by block, each on the inputs that quantized blocks before it give (its sequential pipeline)."""
    windows = calibration(job)
    model = load_model(job)
    data = {"input_ids": windows.tolist(), "attention_mask": torch.ones(windows.shape, dtype=int).tolist()}
    oneshot(
        model=model,
        dataset=Dataset.from_dict(data),
        recipe=recipe(job),
        num_calibration_samples=len(windows),
        max_seq_length=windows.shape[1],
        shuffle_calibration_samples=False,
        pipeline="sequential",
    )
    tensors = {f"{name}.weight": dequantized(module) for name, module in block_linears(model).items()}
    check_levels(tensors, job)
    return {"tensors": tensors, "bits_per_weight": grouped_bits(job)}


def recipe(job: Job) -> Any:
    """The modifier that a job asks for."""
    weights = QuantizationArgs(
        num_bits=job["bits"],
        type="int",
        symmetric=job["symmetric"],
        strategy="group",
        group_size=job["group_size"],
        observer=f"memoryless_{job.get('observer', 'minmax')}",
    )
    groups = {"all": QuantizationScheme(targets=["Linear"], weights=weights)}
    if job["method"] == "gptq":
        from llmcompressor.modifiers.gptq import GPTQModifier

        return GPTQModifier(
            config_groups=groups, ignore=["lm_head"], actorder="static", dampening_frac=job["damping"]
        )
    from llmcompressor.modifiers.awq import AWQModifier

    return AWQModifier(config_groups=groups, ignore=["lm_head"])


@torch.no_grad()
def dequantized(module: Any) -> torch.Tensor:
    """The matrix that its codes and scales stand for."""
    arguments = module.quantization_scheme.weights
    return fake_quantize(module.weight, module.weight_scale, module.weight_zero_point, arguments).float()


if __name__ == "__main__":
    run(quantize, ("llmcompressor", "compressed-tensors", "torch", "transformers"))
