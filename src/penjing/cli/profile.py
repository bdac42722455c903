"""What a model costs, and what this machine could at most make of it."""

from __future__ import annotations

from pathlib import Path

from penjing.artifact import Artifact
from penjing.cli import resolve
from penjing.cli.show import megabytes, print_table
from penjing.measure.cost import ModelCost, Roofline, bytes_in_dtype, model_cost, roofline, stored_bytes
from penjing.measure.machine import Machine, probe_machine
from penjing.models import Checkpoint
from penjing.spec import Spec


class Profile(Spec):
    """A model's cost, this machine's measured limits, and the bound that both together set."""

    model: str
    family: str
    machine: Machine
    cost: ModelCost
    roofline: Roofline


def measure_profile(model: str, context_tokens: int) -> Profile:
    """Profile a checkpoint or an artifact (its best tier) at a context length. Raises PenjingError."""
    if resolve.is_artifact(model):
        artifact = Artifact.open(Path(model))
        config, sizes = artifact.config, stored_bytes(artifact)
    else:
        checkpoint = Checkpoint.open(resolve.checkpoint(model))
        config = checkpoint.config
        parameters = sum(bytes_in_dtype(config, 1).values())
        sizes = bytes_in_dtype(config, round(checkpoint.tensor_bytes / parameters))
    cost = model_cost(config, sizes, context_tokens=context_tokens, prefill_tokens=context_tokens)
    machine = probe_machine()
    return Profile(
        model=model, family=config.family, machine=machine, cost=cost, roofline=roofline(cost, machine)
    )


def print_profile(profile: Profile) -> None:
    """Three tables: the whole, its blocks, the machine."""
    cost, bound, machine = profile.cost, profile.roofline, profile.machine
    print_table(
        f"{profile.model} ({profile.family}), context {cost.context_tokens}",
        ("", ""),
        [
            ("Parameters", f"{cost.parameters:,}"),
            ("Operations to decode a token", f"{cost.decode_flops / 1e6:,.1f} MFLOP"),
            (f"Operations to read {cost.prefill_tokens} tokens", f"{cost.prefill_flops / 1e9:,.2f} GFLOP"),
            ("Weights", megabytes(cost.weight_bytes)),
            ("Working memory, a token in a step", f"{cost.activation_bytes_per_token / 1e3:,.1f} kB"),
            ("KV cache, a token", f"{cost.kv_bytes_per_token / 1e3:,.2f} kB"),
            ("KV cache, the context", megabytes(cost.kv_bytes)),
        ],
    )
    print_table(
        "Blocks",
        ("block", "parameters", "MFLOP a token", "weights", "KV a token"),
        [
            (
                str(block.index),
                f"{block.parameters:,}",
                f"{block.flops_per_token / 1e6:,.2f}",
                megabytes(block.weight_bytes),
                f"{block.kv_bytes_per_token / 1e3:,.2f} kB",
            )
            for block in cost.blocks
        ],
    )
    print_table(
        f"At most, on this machine ({machine.cpu_model}, {machine.cores} cores, {machine.isa})",
        ("", "limit", "set by"),
        [
            ("Memory reads, measured", f"{machine.read_bytes_per_second / 1e9:,.1f} GB/s", ""),
            ("int8 kernel, measured", f"{machine.int8_operations_per_second / 1e9:,.0f} GOP/s", ""),
            ("Decode", f"{bound.decode_tokens_per_second:,.0f} tokens/s", bound.decode_bound),
            ("Prefill", f"{bound.prefill_tokens_per_second:,.0f} tokens/s", bound.prefill_bound),
        ],
    )
