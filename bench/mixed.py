"""Prints what mixing formats wins: uniform and mixed models of equal size, judged on held-out text.

python bench/mixed.py [--method search|auto] [--bits 3 4] [--cache-dir DIRECTORY] [--threads N]

The mixture is chosen by predicted losses alone (penjing.optimize.sensitivity), on calibration text; both
models are made by the same method and judged in Penjing's engine, weights as they are stored, activations in
float32, on windows that no choice has seen. Sizes are those of whole files, embedding included: a mixture
may take from the embedding, which a uniform recipe keeps at 8 bits, and give it to the blocks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from quantizers.judge import Judge
from quantizers.ours import Made, make
from quantizers.texts import Windows, calibration_windows, evaluation_windows

from penjing.measure.cost import artifact_bytes
from penjing.models import SEEDLING, Checkpoint
from penjing.optimize.choices import OFFERED, fixed_bytes, overrides_of
from penjing.optimize.costing import Costs
from penjing.optimize.progress import silent
from penjing.optimize.sensitivity import Sensitivity, sensitivity
from penjing.optimize.solver import Assignment, Limits, solve
from penjing.quantize.assignment import label
from penjing.spec import Budget, MethodName, WeightFormat, WeightFormatName

UNIFORM: dict[int, WeightFormatName] = {2: "table2", 3: "table3", 4: "table4"}
EMBEDDING = WeightFormat(name="int8")
SENSITIVITY_WINDOWS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", choices=("search", "auto"), default="search")
    parser.add_argument("--bits", type=int, nargs="+", choices=sorted(UNIFORM), default=[3, 4])
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "penjing" / "quality")
    parser.add_argument("--windows", type=int, default=None, help="of evaluation text; all by default")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    checkpoint, calibration, held_out = Checkpoint.open(SEEDLING), calibration_windows(), evaluation_windows()
    every = len(held_out.tokens) // (options.windows or len(held_out.tokens))
    held_out = Windows(held_out.tokens[::every], held_out.documents[::every])
    judge = Judge(SEEDLING, held_out, options.cache_dir, options.threads)
    tokens = calibration.tokens[:SENSITIVITY_WINDOWS]
    losses = sensitivity(
        checkpoint, tokens, OFFERED, directory=options.cache_dir / "sensitivity", progress=silent
    )
    print("| formats | bytes of tensors | predicted KL | KL, nats | ratio |")
    print("|---|---:|---:|---:|---:|")
    chosen = {}
    for bits in options.bits:
        weights = WeightFormat(name=UNIFORM[bits])
        chosen[bits] = mixture(checkpoint, losses, weights, options.method)
        steps = {
            label(weights): step_of(options.method, weights, ()),
            f"mixed, as {label(weights)}": step_of(
                options.method, weights, overrides_of(chosen[bits].formats.items())
            ),
        }
        predicted = [uniform_loss(losses, weights), chosen[bits].loss]
        made = [make(checkpoint, step, calibration, options.cache_dir) for step in steps.values()]
        found = [kl(judge, one) for one in made]
        for name, one, loss, mean in zip(steps, made, predicted, found, strict=True):
            cells = (
                name,
                f"{one.artifact.tensor_bytes:,}",
                f"{loss:.4f}",
                f"{mean:.4f}",
                f"{mean / found[0]:.2f}",
            )
            print("| " + " | ".join(cells) + " |", flush=True)
    for bits, assignment in chosen.items():
        print(f"\nAs {UNIFORM[bits]}:")
        for name, format in assignment.formats.items():
            print(f"  {name}: {label(format)}")


def mixture(
    checkpoint: Checkpoint, losses: Sensitivity, weights: WeightFormat, method: MethodName
) -> Assignment:
    """The assignment of least predicted loss that is no larger than the uniform model."""
    config, own = checkpoint.config, checkpoint.formats
    limits = Limits(
        nbytes=artifact_bytes(config, weights, EMBEDDING, own), fixed_bytes=fixed_bytes(config, own)
    )
    return solve(Costs(checkpoint, checkpoint, Budget(), losses, None, method).groups(), limits, "loss")


def uniform_loss(losses: Sensitivity, weights: WeightFormat) -> float:
    """What is predicted for a uniform model: groups add up."""
    blocks = sum(each[label(weights)] for name, each in losses.items() if name.startswith("blocks."))
    nearest = WeightFormat(name="int8", group_size=128)  # offered; a grain coarser than the recipe's
    return blocks + losses["embedding"][label(nearest)]


def step_of(method: MethodName, weights: WeightFormat, overrides: Any) -> dict[str, Any]:
    """A recipe's step; neither model is tuned after the walk."""
    step = {
        "method": method,
        "weights": weights.model_dump(),
        "embedding": EMBEDDING.model_dump(),
        "overrides": [override.model_dump() for override in overrides],
    }
    return step | ({"tuning_steps": 0} if method == "auto" else {})


def kl(judge: Judge, made: Made) -> float:
    """Mean KL to the original, embedding and head included."""
    return float(judge.weights(made.tensors("best", embedding=True)).kl.mean())


if __name__ == "__main__":
    main()
