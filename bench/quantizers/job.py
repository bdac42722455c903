"""One quantizer's job, as its process is told it, and what it hands back. Runs in the peers' environment too.

A job is a JSON object: quantizer, model (a Hugging Face directory), calibration (token ids, .npy), threads,
and settings of the quantizer's own. Its process writes to a directory

    weights.safetensors   float32, under the checkpoint's names: what the quantized matrices stand for
    facts.json            bits per weight, seconds, peak memory, versions
"""

from __future__ import annotations

import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Job = Mapping[str, Any]
SCALE_BITS = 16
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def run(quantize: Callable[[Job], dict[str, Any]], packages: tuple[str, ...]) -> None:
    """`python run_NAME.py JOB.json DIRECTORY`. quantize: a job to tensors and facts of its own."""
    import torch
    from safetensors.torch import save_file

    job, directory = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    begin, begin_processor = time.perf_counter(), time.process_time()
    found = quantize(job)
    seconds, processor_seconds = time.perf_counter() - begin, time.process_time() - begin_processor
    tensors = found.pop("tensors")
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, directory / "weights.safetensors"
    )
    facts = {
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    (directory / "facts.json").write_text(json.dumps(found | facts, indent=1) + "\n")


def load_model(job: Job) -> Any:
    """The checkpoint in float32, as transformers has it."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()


def calibration(job: Job) -> np.ndarray:
    """Token ids int64 [windows, tokens]."""
    return np.load(job["calibration"])


def block_linears(model: Any) -> dict[str, Any]:
    """The modules that are quantized, by name: the linears of every block, not the head."""
    return {name: module for name, module in model.named_modules() if name.rpartition(".")[2] in LINEARS}


def grouped_bits(job: Job) -> float:
    """Bits of a weight: its code, and its share of a scale and, if there is one, of a zero point."""
    shared = SCALE_BITS + (0 if job["symmetric"] else job["bits"])
    return float(job["bits"] + shared / job["group_size"])


def check_levels(tensors: Mapping[str, Any], job: Job) -> None:
    """No group may hold more values than there are codes: nothing is judged that was not quantized."""
    import torch

    for name, weight in tensors.items():
        ordered = weight.reshape(-1, job["group_size"]).sort(dim=1).values
        spread = ordered.abs().amax(dim=1, keepdim=True)
        levels = 1 + (torch.diff(ordered, dim=1) > 1e-5 * spread).sum(dim=1)
        if levels.max() > 2 ** job["bits"]:
            raise SystemExit(f"{name}: a group holds {levels.max()} values, more than {job['bits']} bits can")
