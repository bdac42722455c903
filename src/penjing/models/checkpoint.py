"""A model as published, read lazily: configuration now, one tensor at a time later."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.config import ModelConfig, TensorRole, expected_tensors
from penjing.errors import CheckpointNotFoundError, CheckpointShapeError, CorruptCheckpointError
from penjing.models.configuration import read_config
from penjing.models.embedded import SEEDLING, SEEDLING_NAME
from penjing.models.families import family_named
from penjing.models.hub import fetch, looks_like_repository
from penjing.models.layout import HEAD, published_name, split_fused, text_tensors
from penjing.models.settings import Settings
from penjing.models.shards import DTYPES, StoredTensor, read_json, reading, stored_tensors
from penjing.spec import FloatFormat, canonical_json

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
FORMATS: dict[str, FloatFormat] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
IGNORED_SUFFIX = ".rotary_emb.inv_freq"  # computed from the configuration; old checkpoints store it too


class Checkpoint:
    """A checkpoint directory. Make one with `Checkpoint.open`.

    name, revision: the repository and the commit that it was fetched at. A plain directory has neither: what
    it is called says nothing about what is in it. notes: what of the model is left out, a line each.
    """

    def __init__(self, path: Path, name: str | None = None, revision: str | None = None) -> None:
        self.path = path
        self.name = name
        self.revision = revision
        settings = read_settings(path)
        config = read_config(settings)
        stored = stored_tensors(path)
        text = text_tensors(stored)
        self.tensors = match_tensors(path, config, text)
        self.config: ModelConfig = in_own_dtype(config, self.tensors)
        self.notes = notes(settings, config, num_left_out=len(stored) - len(text))
        self.digests: dict[str, str] = {}

    @classmethod
    def open(cls, name_or_path: str | Path) -> Checkpoint:
        """Open a directory, the embedded model (`seedling`), or fetch a repository by name (extra `hub`).

        A name is `owner/name`, or `owner/name@revision` for a branch, tag or commit. What of the model is
        left out is said on stderr. Raises a subclass of CheckpointError, or MissingExtraError.
        """
        checkpoint = cls._find(name_or_path)
        for note in checkpoint.notes:
            print(f"penjing: {checkpoint.path}: {note}", file=sys.stderr)
        return checkpoint

    @classmethod
    def _find(cls, name_or_path: str | Path) -> Checkpoint:
        """What `open` opens, before it says anything."""
        path = Path(name_or_path)
        with reading(path):
            if str(name_or_path) == SEEDLING_NAME and not path.exists():
                path = SEEDLING
            if path.is_dir():
                return cls(path)
        if not isinstance(name_or_path, str) or not looks_like_repository(name_or_path):
            raise CheckpointNotFoundError(f"{path}: no such directory")
        return cls(*fetch(name_or_path))

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors the model uses, in their own dtypes; a tied head counts once."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def formats(self) -> dict[str, FloatFormat]:
        """Every tensor's own format, by canonical name; those that cannot be read are left out."""
        known = {name: FORMATS.get(tensor.dtype) for name, tensor in self.tensors.items()}
        return {name: format for name, format in known.items() if format is not None}

    def read(self, name: str) -> NDArray[Any]:
        """A tensor by canonical name, in its own dtype (ml_dtypes.bfloat16 for bf16).

        Raises CorruptCheckpointError if it is not what it was when it was read before.
        """
        array = self.tensors[name].read()
        digest = hashlib.sha256(array.reshape(-1).view("u1").data).hexdigest()
        if self.digests.setdefault(name, digest) != digest:
            raise CorruptCheckpointError(
                f"{self.tensors[name].file}: {name} was changed while it was in use; begin again"
            )
        return array

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over the configuration and every tensor's name, dtype, shape and bytes.

        The same for one file or many shards. Tensors that were not read yet are read, one at a time.
        """
        for name in self.tensors:
            if name not in self.digests:
                self.read(name)
        table = [
            [name, tensor.dtype, list(tensor.shape), self.digests[name]]
            for name, tensor in self.tensors.items()
        ]
        config = self.config.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(canonical_json({"config": config, "tensors": table}).encode()).hexdigest()


def read_settings(directory: Path) -> Settings:
    """config.json, and generation_config.json if there is one."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise CheckpointNotFoundError(f"{directory}: not a checkpoint (no {CONFIG_FILE} in it)")
    generation = directory / GENERATION_FILE
    return Settings(path, read_json(path), read_json(generation) if generation.is_file() else {})


def in_own_dtype(config: ModelConfig, tensors: dict[str, StoredTensor]) -> ModelConfig:
    """The embedding's scale rounded to the embedding's dtype, as transformers computes it."""
    dtype = DTYPES.get(tensors["embedding"].dtype)
    if config.embedding_scale == 1.0 or dtype is None:
        return config
    return config.model_copy(
        update={"embedding_scale": float(dtype.type(np.float32(config.embedding_scale)))}
    )


def notes(settings: Settings, config: ModelConfig, *, num_left_out: int) -> tuple[str, ...]:
    """What of the published model is left out: a context beyond the original one, and all but text."""
    found = []
    published = settings.data.get("max_position_embeddings", 0)
    if config.rope.type == "longrope" and published > config.max_positions:
        found.append(
            f"the context is {config.max_positions} tokens of {published}: longer ones would turn what is "
            "cached already by other factors (longrope)"
        )
    if num_left_out:
        found.append(f"text only: {num_left_out} tensors of the vision part are left out")
    return tuple(found)


def match_tensors(
    directory: Path, config: ModelConfig, text: dict[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """The model's tensors by canonical name, in the order of execution; none missing, none unexplained."""
    family, stored = family_named(config.family), split_fused(text, config)
    matched: dict[str, StoredTensor] = {}
    for name, role in expected_tensors(config).items():
        published = published_name(name, family)
        matched[name] = check_shape(directory, published, role, stored.pop(published, None))
    head = stored.pop(HEAD, None)
    if head is not None and not same_bytes(head, matched["embedding"]):
        raise CheckpointShapeError(
            f"{head.file}: {HEAD} differs from the embedding it is tied to; set tie_word_embeddings to false"
        )
    unexplained = sorted(name for name in stored if not name.endswith(IGNORED_SUFFIX))
    if unexplained:
        raise CheckpointShapeError(
            f"{directory}: {CONFIG_FILE} does not account for the tensor {unexplained[0]}; check its settings"
        )
    return matched


def check_shape(directory: Path, name: str, role: TensorRole, tensor: StoredTensor | None) -> StoredTensor:
    """The tensor, if it is there with the right shape. Raises CheckpointShapeError."""
    if tensor is None:
        raise CheckpointShapeError(
            f"{directory}: the tensor {name} is missing; download the checkpoint again"
        )
    if tensor.shape != role.shape:
        raise CheckpointShapeError(
            f"{tensor.file}: {name} is {list(tensor.shape)}, and {CONFIG_FILE} says {list(role.shape)}"
        )
    return tensor


def same_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two tensors hold the same, compared by their bytes."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return bool((first.read().view("u1") == second.read().view("u1")).all())
