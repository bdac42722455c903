"""What a model costs, and what this machine could at most make of it."""

from __future__ import annotations

from pathlib import Path

from penjing.artifact import Artifact, is_artifact
from penjing.measure.cost import ModelCost, Roofline, model_cost, roofline, stored_bytes
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


def measure_profile(model: str | Path, context_tokens: int = 512) -> Profile:
    """Profile a checkpoint or an artifact (its best tier) at a context length, without running it.

    Bytes are those of the tensors as stored. Raises ArtifactError or CheckpointError.
    """
    if is_artifact(model):
        artifact = Artifact.open(model)
        config, sizes = artifact.config, stored_bytes(artifact)
    else:
        checkpoint = Checkpoint.open(model)
        config = checkpoint.config
        sizes = {name: tensor.nbytes for name, tensor in checkpoint.tensors.items()}
    cost = model_cost(config, sizes, context_tokens=context_tokens, prefill_tokens=context_tokens)
    machine = probe_machine()
    return Profile(
        model=str(model), family=config.family, machine=machine, cost=cost, roofline=roofline(cost, machine)
    )
