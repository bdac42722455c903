"""What pruning costs Seedling before any training: NLL on held-out text, and bytes.

    python bench/pruning.py                      # all rows
    python bench/pruning.py --only 'wanda|2:4'   # those whose name matches

Calibration and evaluation text are those of bench/quality.py. Models are pruned and run in float32, in torch.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator

import torch
from quantizers.texts import calibration_windows, evaluation_windows
from torch import Tensor
from torch.nn import functional

from penjing.artifact.config import ModelConfig, expected_tensors
from penjing.models.checkpoint import Checkpoint
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.prune.patterns import Sparsity
from penjing.prune.plan import Shrinking
from penjing.prune.storage import to_masked
from penjing.prune.structured import StructuredPruning, prune_structured
from penjing.prune.walk import METHODS, UnstructuredPruning, prune_checkpoint

BATCH = 8
Tensors = dict[str, Tensor]
Pruned = tuple[ModelConfig, Tensors]
SPARSITIES = ("0.5", "2:4", "4:8", "0.3")
SHAPES: dict[str, Shrinking] = {
    "groups and channels, even": Shrinking(),
    "groups and channels, ranked": Shrinking(spread="ranked"),
    "channels": Shrinking(axes=("channels",)),
    "hidden": Shrinking(axes=("hidden",)),
    "blocks": Shrinking(axes=("blocks",)),
    "groups, channels and hidden": Shrinking(axes=("groups", "channels", "hidden")),
}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    checkpoint = Checkpoint.open("seedling")
    calibration = torch.from_numpy(calibration_windows().tokens)[: options.calibration]
    evaluation = torch.from_numpy(evaluation_windows().tokens)[:: options.stride]
    tensors = {name: tensor_of(checkpoint.read(name)).float() for name in expected_tensors(checkpoint.config)}
    base = nll(checkpoint.config, tensors, evaluation)
    print("| pruning | bytes of the blocks | NLL | more | seconds |\n|---|---:|---:|---:|---:|")
    print(f"| none | 100% | {base:.4f} | | |")
    for name, prune in rows(checkpoint, tensors, calibration):
        if re.search(options.only, name):
            start = time.thread_time()
            config, pruned = prune()
            seconds = time.thread_time() - start
            found = nll(config, pruned, evaluation)
            kept = nbytes(config, pruned) / nbytes(checkpoint.config, tensors)
            print(f"| {name} | {kept:.1%} | {found:.4f} | +{found - base:.4f} | {seconds:.0f} |", flush=True)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a regular expression: only rows whose name matches")
    parser.add_argument("--calibration", type=int, default=128, help="windows of 256 tokens, at most 256")
    parser.add_argument("--stride", type=int, default=1, help="evaluate on every so many-th window")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def rows(
    checkpoint: Checkpoint, tensors: Tensors, calibration: Tensor
) -> Iterator[tuple[str, Callable[[], Pruned]]]:
    """Names, and what makes the pruned model."""
    for sparsity in SPARSITIES:
        for method in METHODS:
            config = UnstructuredPruning(method=method, sparsity=Sparsity.of(sparsity))
            yield (
                f"{method}, {sparsity}",
                lambda config=config: (
                    checkpoint.config,
                    tensors | dict(prune_checkpoint(checkpoint, calibration, config)),
                ),
            )
    for shape, shrinking in SHAPES.items():
        for importance in ("activation", "gradient"):
            for reconstruct in (False, True):
                pruning = StructuredPruning(
                    fraction=0.25, shrinking=shrinking, importance=importance, reconstruct=reconstruct
                )
                yield (
                    f"{shape}, {importance}{', reconstructed' if reconstruct else ''}",
                    lambda pruning=pruning: prune_structured(
                        checkpoint.config, tensors, calibration, pruning
                    ),
                )


def nbytes(config: ModelConfig, tensors: Tensors) -> int:
    """Bytes of all blocks in 16 bits; a matrix with zeros, as a bit a weight and its other weights."""
    total = 0
    for name, role in expected_tensors(config).items():
        if name.startswith("blocks."):
            array = tensors[name].to(torch.bfloat16).view(torch.int16).numpy()
            total += min(to_masked(array).nbytes, array.nbytes) if role.is_matrix else array.nbytes
    return total


def nll(config: ModelConfig, tensors: Tensors, windows: Tensor) -> float:
    """Mean NLL of every token but the first of its window, nats."""
    model = TorchModel(config, tensors.__getitem__, windows.shape[1])
    total = 0.0
    for batch in torch.split(windows, BATCH):
        logits = model(batch)[:, :-1].flatten(0, 1)
        total += float(functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum"))
    return total / windows[:, 1:].numel()


if __name__ == "__main__":
    main()
