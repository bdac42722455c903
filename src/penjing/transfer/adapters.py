"""Low-rank adapters (LoRA, Hu et al. 2021): a model learns W + (alpha / rank) B A, and only A and B train."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from penjing.artifact.config import ModelConfig, expected_tensors
from penjing.artifact.staging import output_errors
from penjing.errors import CheckpointNotFoundError, CorruptCheckpointError, OutputExistsError, SpecError
from penjing.models.checkpoint import Checkpoint
from penjing.models.torch_model import tensor_of
from penjing.models.trainable import TrainableModel

METADATA_KEY = "penjing_adapters"


@dataclass(frozen=True)
class AdapterConfig:
    """matrices: names inside a block, adapted in every block that has them (`experts.0.up` is one expert's),
    or `head`. rank: of the change. alpha: the change is multiplied by alpha / rank. seed: of A's values.
    """

    matrices: tuple[str, ...] = ("query", "key", "value", "output", "gate", "up", "down")
    rank: int = 8
    alpha: float = 16.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or not math.isfinite(self.alpha):
            raise SpecError(f"rank {self.rank}, alpha {self.alpha}: rank is at least 1 and alpha finite")


class AdaptedModel(TrainableModel):
    """A model whose own parameters are frozen, with adapters beside some of its matrices.

    It begins as the base: B is 0, and A uniform as torch begins a linear layer. `tensors()` gives the merged
    weights. Raises SpecError for a name that is no matrix of this model.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, Tensor],
        length: int,
        dropout: float = 0.0,
        adapters: AdapterConfig = AdapterConfig(),
    ) -> None:
        super().__init__(config, tensors, length, dropout)
        self.requires_grad_(False)
        self.adapters = adapters
        generator = torch.Generator().manual_seed(adapters.seed)
        self.lower, self.upper = nn.ParameterDict(), nn.ParameterDict()
        for name in adapted_names(config, adapters):
            outputs, inputs = expected_tensors(config)[name].shape
            reach = inputs**-0.5
            lower = (torch.rand(adapters.rank, inputs, generator=generator) * 2 - 1) * reach
            self.lower[name.replace(".", "/")] = nn.Parameter(lower)
            self.upper[name.replace(".", "/")] = nn.Parameter(torch.zeros(outputs, adapters.rank))

    def tensor(self, name: str) -> Tensor:
        """A parameter by its canonical name, an adapted one with its change."""
        base, key = super().tensor(name), name.replace(".", "/")
        if key not in self.lower:
            return base
        change: Tensor = self.upper[key] @ self.lower[key]
        return base + change * (self.adapters.alpha / self.adapters.rank)

    def adapter_tensors(self) -> dict[str, Tensor]:
        """`NAME.lower` [rank, inputs] and `NAME.upper` [outputs, rank] of every adapted matrix, float32."""
        return {
            f"{key.replace('/', '.')}.{part}": parameters[key].detach()
            for part, parameters in (("lower", self.lower), ("upper", self.upper))
            for key in parameters
        }

    def merged(self) -> dict[str, Tensor]:
        """The weights with their changes, by canonical name, as a plain `TrainableModel` takes them."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors().items()}


def adapted_names(config: ModelConfig, adapters: AdapterConfig) -> list[str]:
    """The canonical names of the matrices that are adapted, in the order of execution. Raises SpecError."""
    names = [
        name
        for name, role in expected_tensors(config).items()
        if role.is_matrix and inside(name) in adapters.matrices and name != "embedding"
    ]
    missing = set(adapters.matrices) - {inside(name) for name in names}
    if missing:
        raise SpecError(f"{min(missing)!r} is no matrix of this {config.family} that can be adapted")
    return names


def inside(name: str) -> str:
    """The name inside the block."""
    return name.split(".", 2)[2] if name.startswith("blocks.") else name


def adapt(checkpoint: Checkpoint, length: int, adapters: AdapterConfig, dropout: float = 0.0) -> AdaptedModel:
    """A checkpoint with new adapters."""
    names = expected_tensors(checkpoint.config)
    tensors = {name: tensor_of(checkpoint.read(name)) for name in names}
    return AdaptedModel(checkpoint.config, tensors, length, dropout, adapters)


def save_adapters(path: Path, model: AdaptedModel, base: Checkpoint, *, force: bool = False) -> None:
    """Write the adapters alone, as safetensors, with their settings and the hash of the base.

    Raises OutputExistsError unless `force`, OutputNotWritableError.
    """
    if path.exists() and not force:
        raise OutputExistsError(f"{path}: exists already; choose another name or use --force")
    settings = {"base": base.hash, **asdict(model.adapters)}
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with output_errors(path):
        try:
            save_file(model.adapter_tensors(), partial, {METADATA_KEY: json.dumps(settings)})
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def load_adapters(path: Path, base: Checkpoint, length: int, dropout: float = 0.0) -> AdaptedModel:
    """The base with the adapters in `path`.

    Raises CheckpointNotFoundError, CorruptCheckpointError, SpecError for adapters of another base.
    """
    trained_on, adapters, tensors = read_adapters(path)
    if trained_on != base.hash:
        raise SpecError(
            f"{path}: made for the model {trained_on[:12]}, and {base.path} is {base.hash[:12]}; "
            "choose the base that they were trained on"
        )
    model = adapt(base, length, adapters, dropout)
    own = model.adapter_tensors()
    for name in sorted(set(own) | set(tensors)):
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape:
            raise CorruptCheckpointError(f"{path}: {name} does not fit its settings; save it again")
        own[name].copy_(tensors[name])
    return model


def read_adapters(path: Path) -> tuple[str, AdapterConfig, dict[str, Tensor]]:
    """The hash of the base, the settings and the tensors in a file."""
    if not path.is_file():
        raise CheckpointNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            settings = json.loads((file.metadata() or {})[METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        base, matrices = str(settings.pop("base")), tuple(settings.pop("matrices"))
        return base, AdapterConfig(matrices, **settings), tensors
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(f"{path}: not Penjing's adapters ({error}); choose others") from error
