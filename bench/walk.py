"""Time and memory of quantizing a large checkpoint: ours to the end, peers on its first blocks.

    python bench/walk.py CHECKPOINT --method gptq    # 32,768 random tokens, int4, groups of 128
    python bench/walk.py CHECKPOINT --method qronos --blocks 3    # only the first blocks
    python bench/walk.py CHECKPOINT --peer llmcompressor --blocks 2  # in the environment of bench/quality.py

Random weights do for speed and memory. Memory is the process's peak beyond what it had after its imports
(for peers: beyond a job that only imports). Peers run on a checkpoint cut to its first blocks, without a head
of their own to quantize; their time for a block is what grows with the depth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from penjing.models.embedded import SEEDLING
from penjing.optimize.reference import cache_directory
from penjing.spec import GroupSize

SEQUENCES, LENGTH, BITS = 64, 512, 4
GROUP_SIZE: GroupSize = 128
QUALITY = cache_directory() / "quality"
PEERS: dict[str, dict[str, Any]] = {
    "llmcompressor": {"method": "gptq", "observer": "mse", "damping": 0.01},
    "autoround": {"iterations": 10, "extension": False},  # of its 200: time grows with them
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--method", default="gptq", help="of ours: gptq, qronos, auto, search ...")
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--blocks", type=int, help="only so many, the first ones")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        source = options.checkpoint.absolute()
        if options.blocks:
            source = cut(source, options.blocks, Path(scratch) / "cut")
        if options.peer:
            measure_peer(source, options.peer, options.threads, Path(scratch))
        else:
            measure_own(source, options.method, options.threads, Path(scratch) / "tray")


def cut(source: Path, blocks: int, target: Path) -> Path:
    """A checkpoint of the first blocks, with a tokenizer, which AutoRound wants to see and nobody uses."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    target.mkdir()
    kept = {}
    for path in source.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                layer = name.split(".")[2] if ".layers." in name else "0"
                if int(layer) < blocks:
                    kept[name] = file.get_tensor(name)
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"num_hidden_layers": blocks}))
    for file in SEEDLING.glob("tokenizer*"):
        (target / file.name).symlink_to(file)
    return target


def calibration() -> np.ndarray:
    """Random token ids, int64 [64, 512]."""
    return np.random.default_rng(0).integers(0, 32000, (SEQUENCES, LENGTH))


def measure_own(source: Path, method: Any, threads: int, out: Path) -> None:
    """Our walk, with what it says on the way."""
    import torch

    from penjing.models import Checkpoint
    from penjing.quantize import quantize_checkpoint
    from penjing.quantize.calibrated import quantize_calibrated
    from penjing.spec import preset

    torch.set_num_threads(threads)
    recipe = preset("int4", GROUP_SIZE, method=method)
    reset_peak()
    before, start, processor = peak_bytes(), time.perf_counter(), time.process_time()
    if recipe.steps[0].needs_data:
        quantize_calibrated(Checkpoint.open(source), out, recipe, calibration(), say=say)
    else:
        quantize_checkpoint(source, out, recipe)
    print(
        f"{method}: {time.perf_counter() - start:.0f} s, {time.process_time() - processor:.0f} s of "
        f"processor time, {(peak_bytes() - before) / 2**30:.2f} GiB beyond imports, {threads} threads"
    )


def say(line: str) -> None:
    """A line of the walk, and the memory up to now."""
    print(f"{line} | peak {peak_bytes() / 2**30:.2f} GiB", flush=True)


def reset_peak() -> None:
    """Forget the peak of what was done to prepare (Linux, proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Of this process's memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def measure_peer(source: Path, peer: str, threads: int, scratch: Path) -> None:
    """A peer's job (bench/quantizers/job.py) on the same tokens."""
    np.save(scratch / "tokens.npy", calibration())
    job = {
        "name": peer,
        "quantizer": peer,
        **PEERS[peer],
        "bits": BITS,
        "group_size": GROUP_SIZE,
        "symmetric": True,
        "model": str(source),
        "calibration": str(scratch / "tokens.npy"),
        "threads": threads,
    }
    python = QUALITY / "environment" / "bin" / "python"
    script = Path(__file__).parent / "quantizers" / f"run_{peer}.py"
    imports = subprocess.run(
        [python, "-c", f"import sys, resource; sys.path.insert(0, {str(script.parent)!r}); import run_{peer};"
         "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (scratch / "job.json").write_text(json.dumps(job))
    subprocess.run([python, script, scratch / "job.json", scratch], check=True, stdout=sys.stderr)
    facts = json.loads((scratch / "facts.json").read_text())
    beyond = facts["peak_memory_bytes"] - 1024 * int(imports.stdout.split()[-1])
    print(
        f"{peer} {facts['versions']}: {facts['seconds']:.0f} s, {facts['processor_seconds']:.0f} s of "
        f"processor time, {beyond / 2**30:.2f} GiB beyond imports, {threads} threads"
    )


if __name__ == "__main__":
    main()
