"""AutoRound (Cheng et al. 2023): roundings and ranges learned block by block, by signed gradients.

A job's own settings: group_size, symmetric, iterations, extension (its algorithm extension, for low bits).
"""

from __future__ import annotations

from typing import Any

import torch
from auto_round import AutoRound
from job import Job, block_linears, calibration, check_levels, grouped_bits, load_model, run
from transformers import AutoTokenizer

BATCH_WINDOWS = 8


def quantize(job: Job) -> dict[str, Any]:
    """Its own recipe ("auto-round-best" has 1000 iterations too), in float32 on the processor."""
    windows = torch.from_numpy(calibration(job))
    data = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in windows]
    scheme = {
        "bits": job["bits"],
        "group_size": job["group_size"],
        "sym": job["symmetric"],
        "data_type": "int",
    }
    rounder = AutoRound(
        load_model(job),
        tokenizer=AutoTokenizer.from_pretrained(job["model"]),
        scheme=scheme,
        dataset=data,
        iters=job["iterations"],
        seqlen=windows.shape[1],
        nsamples=len(windows),
        batch_size=BATCH_WINDOWS,
        enable_alg_ext=job["extension"],
        device_map="cpu",
        enable_torch_compile=False,
    )
    model, _ = rounder.quantize()
    tensors = {
        f"{name}.weight": module.weight.detach().float() for name, module in block_linears(model).items()
    }
    check_levels(tensors, job)
    return {"tensors": tensors, "bits_per_weight": grouped_bits(job)}


if __name__ == "__main__":
    run(quantize, ("auto-round", "torch", "transformers"))
