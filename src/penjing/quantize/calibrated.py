"""Quantization with data: block by block from disk, in bounded memory, to be resumed at any block.

The first pass makes every matrix for the path that tier `fast` (or the only tier) computes. Where matrices
are layered, a second pass follows the path of tier `best`, and adds residual planes to base planes that stay
what they are: those of the same recipe with `int4` in place of `layered`.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.artifact import Artifact, ArtifactWriter, Provenance, block_tensors, expected_tensors
from penjing.errors import DataError, NonFiniteWeightError
from penjing.formats import pack, tiny_notice
from penjing.models import Checkpoint
from penjing.models.axes import divided_norm
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.quantize.assignment import assign_formats
from penjing.quantize.block_walk import BlockWalk, advance_block
from penjing.quantize.methods import METHODS
from penjing.quantize.planes import Rounder
from penjing.quantize.preflight import preflight
from penjing.quantize.state import BlockResult, WorkDirectory
from penjing.quantize.tracks import Track, begin_track, compute_dtype, cut_chunks
from penjing.quantize.tuning import tune_blocks
from penjing.quantize.walk import (
    Origin,
    encode_without_data,
    last_step,
    provenance_of,
    readable_text_files,
    with_kv_format,
)
from penjing.spec import QuantizeStep, Recipe, Tier, WeightFormat

DEFAULT_MAX_RAM_BYTES = 1536 * 2**20
HELD_PART = 8  # every eighth sequence is held apart, where a method judges its stages
PASS_OF_TIER: dict[Tier, str] = {"fast": "base", "best": "residual"}

Say = Callable[[str], None]
Report = Callable[[str, int, int], None]
Check = Callable[[Artifact, Iterator[BlockResult]], None]


@dataclass(eq=False)
class CalibratedWalk:
    """One run. tokens: int64 [sequences, length]. say: one line for a person; report: progress."""

    checkpoint: Checkpoint
    step: QuantizeStep
    tokens: NDArray[np.int64]
    work: WorkDirectory
    spill: bool
    say: Say
    report: Report
    seed: int = 0
    tuning_tokens: NDArray[np.int64] | None = None
    formats: dict[str, WeightFormat] = field(init=False)

    def __post_init__(self) -> None:
        config = self.checkpoint.config
        self.formats = assign_formats(config, self.step)
        self.method = METHODS[self.step.method]
        self.dtype = compute_dtype(config.hidden_size)
        count, length = self.tokens.shape
        self.num_held = min(-(-count // HELD_PART), count - 1) if self.method.held else 0
        self.chunks = cut_chunks(count, length, self.num_held)
        self.model = TorchModel(config, self.read, length)

    def read(self, name: str) -> Tensor:
        """A tensor of the checkpoint, in its own dtype. Raises NonFiniteWeightError."""
        tensor = tensor_of(self.checkpoint.read(name))
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteWeightError(f"{name}: NaN or Inf among the weights; the checkpoint is damaged")
        return tensor

    @property
    def tiers(self) -> list[Tier]:
        """The passes: a second one where matrices are layered."""
        layered = any(format.name == "layered" for format in self.formats.values())
        return ["fast", "best"] if layered else ["fast"]

    @torch.no_grad()
    def run(self) -> None:
        """All passes over all blocks, as far as they are not finished already."""
        for tier in self.tiers:
            kind, num_blocks = PASS_OF_TIER[tier], len(self.model.config.blocks)
            if tier == "best":
                self.tune()
            done = self.work.num_finished(kind, num_blocks)
            if done == num_blocks:
                continue
            directory = self.work.path if self.spill else None
            sequences = torch.from_numpy(self.tokens)
            original = (
                begin_track(self.model, sequences, self.chunks, directory) if self.method.cross else None
            )
            quantized = begin_track(self.model, sequences, self.chunks, directory)
            try:
                self.run_pass(tier, done, original, quantized)
            finally:
                for track in (original, quantized):
                    if track is not None:
                        track.hidden.close()
        self.tune()

    @property
    def base_kind(self) -> str:
        """The files that hold the finished path of tier `fast`."""
        return "tuned" if self.step.tuning_steps else PASS_OF_TIER["fast"]

    def tune(self) -> None:
        """Tune the finished base planes, if the step asks for it and that is not done."""
        num_blocks = len(self.model.config.blocks)
        if not self.step.tuning_steps or self.work.num_finished("tuned", num_blocks) == num_blocks:
            return
        tokens = self.tokens[: len(self.tokens) - self.num_held]
        self.report("tune", 0, 1)
        blocks, before, after = tune_blocks(
            self.model.config,
            {name: self.read(name).float() for name in expected_tensors(self.model.config)},
            [self.work.load(PASS_OF_TIER["fast"], index) for index in range(num_blocks)],
            tokens if self.tuning_tokens is None else self.tuning_tokens,
            self.tokens[len(tokens) :] if self.num_held else tokens,
            steps=self.step.tuning_steps,
            seed=self.seed,
        )
        for index, block in enumerate(blocks):
            self.work.save("tuned", index, block)
        self.report("tune", 1, 1)
        self.say(
            f"tuned {self.step.tuning_steps} steps: KL on text held apart {before:.5f}, then {after:.5f}"
        )

    def run_pass(self, tier: Tier, done: int, original: Track | None, quantized: Track) -> None:
        """One pass, the first `done` blocks of which are finished."""
        kind, num_blocks, unseen = PASS_OF_TIER[tier], len(self.model.config.blocks), 0
        for index in range(num_blocks):
            self.report(f"quantize ({kind})", index, num_blocks)
            walk = self.block_walk(index, tier, original, quantized)
            if index < done:
                saved = self.work.load(kind, index)
                advance_block(walk, saved.codes, tensors_of(saved.channel_scales))
                continue
            start = time.monotonic()
            walk.run()
            unseen += len(walk.unseen)
            channel_scales = {name: scales.numpy() for name, scales in walk.channel_scales.items()}
            self.work.save(kind, index, BlockResult(walk.codes, channel_scales))
            left = (num_blocks - 1 - index) * (time.monotonic() - start) / 60
            self.say(
                f"block {index + 1} of {num_blocks} ({kind}), about {left:.1f} minutes left in this pass"
            )
        self.report(f"quantize ({kind})", num_blocks, num_blocks)
        if unseen:
            self.say(f"{unseen} matrices of experts saw too few tokens: quantized without data")

    def block_walk(self, index: int, tier: Tier, original: Track | None, quantized: Track) -> BlockWalk:
        """What quantizes block `index`."""
        prefix = f"blocks.{index}."
        names = block_tensors(self.model.config, self.model.config.blocks[index])
        base = self.work.load(self.base_kind, index) if tier == "best" else None
        return BlockWalk(
            model=self.model,
            index=index,
            read=lambda name: self.read(prefix + name),
            formats={name: self.formats[prefix + name] for name, role in names.items() if role.is_matrix},
            method=self.method,
            given_scales=None if base is None else tensors_of(base.channel_scales),
            tier=tier,
            original=original,
            quantized=quantized,
            chunks=self.chunks,
            dtype=self.dtype,
            round_matrix=Rounder(self.step, prefix, base),
        )

    def results(self) -> Iterator[BlockResult]:
        """Every block, finished: vectors as tier `fast` has them, codes for all tiers."""
        for index in range(len(self.model.config.blocks)):
            base = self.work.load(self.base_kind, index)
            codes = base.codes if len(self.tiers) == 1 else self.work.load(PASS_OF_TIER["best"], index).codes
            yield replace(base, codes=codes)


def tensors_of(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Arrays as tensors."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def quantize_calibrated(
    checkpoint: Checkpoint,
    out: str | Path,
    recipe: Recipe,
    tokens: NDArray[np.int64],
    *,
    origin: Origin | None = None,
    max_ram_bytes: int = DEFAULT_MAX_RAM_BYTES,
    resume: bool = False,
    force: bool = False,
    say: Say = print,
    report: Report = lambda *_: None,
    check: Check | None = None,
    tuning_tokens: NDArray[np.int64] | None = None,
) -> Artifact:
    """Write the artifact that a recipe with a method of `METHODS` makes of a checkpoint.

    tokens: the calibration text, int64 [sequences, length]. origin: as in `quantize_checkpoint`.
    max_ram_bytes: activations go to a file beside `out` where memory would grow past it; the result is the
    same. What is finished lies in `OUT.work`, and `resume` goes on from there. check: called with the
    artifact and the finished blocks before that goes; what it raises takes the artifact away. tuning_tokens:
    what `auto` tunes the whole model on, where the step says so; None for `tokens`. Raises SpecError,
    CheckpointError, DataError, FormatError, NonFiniteActivationError or OutputError; all but the first leave
    the work to be resumed.
    """
    step, out = last_step(recipe, origin), Path(out)
    check_tokens(tokens, checkpoint)
    if step.tuning_steps is None:
        step = step.model_copy(update={"tuning_steps": 0})
    recipe = recipe.model_copy(update={"steps": (*recipe.shaping, step)})
    provenance = provenance_of(checkpoint, recipe, digest_of(tokens, tuning_tokens), origin)
    passes = 2 if any(f.name == "layered" for f in assign_formats(checkpoint.config, step).values()) else 1
    ahead = preflight(checkpoint.config, METHODS[step.method], tokens.size, max_ram_bytes, passes=passes)
    say(f"{step.method} on {tokens.shape[0]} sequences of {tokens.shape[1]} tokens: {ahead}")
    with WorkDirectory(out, provenance.model_dump(mode="json"), resume=resume, force=force) as work:
        walk = CalibratedWalk(
            checkpoint, step, tokens, work, ahead.spill, say, report, recipe.seed, tuning_tokens
        )
        walk.run()
        artifact = write_artifact(walk, out, provenance, force=force)
        if check is not None:
            try:
                check(artifact, walk.results())
            except BaseException:
                shutil.rmtree(artifact.path)
                raise
        work.remove()
    return artifact


def digest_of(*texts: NDArray[np.int64] | None) -> str:
    """SHA-256 of token ids and their shapes."""
    digest = hashlib.sha256()
    for tokens in texts:
        if tokens is not None:
            digest.update(repr(tokens.shape).encode() + np.ascontiguousarray(tokens, "<i8").tobytes())
    return digest.hexdigest()


def check_tokens(tokens: NDArray[np.int64], checkpoint: Checkpoint) -> None:
    """Raise DataError for calibration tokens that the model cannot read."""
    config = checkpoint.config
    if tokens.ndim != 2 or tokens.size == 0 or tokens.shape[1] > config.max_positions:
        raise DataError(
            f"calibration tokens {list(tokens.shape)}: sequences of up to {config.max_positions} are needed"
        )
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        raise DataError(f"calibration tokens: ids must lie from 0 to {config.vocab_size - 1}")


def write_artifact(walk: CalibratedWalk, out: Path, provenance: Provenance, *, force: bool) -> Artifact:
    """Put the finished blocks, the embedding and the head into an artifact."""
    checkpoint, step, config = walk.checkpoint, walk.step, walk.checkpoint.config
    results, finished, current = walk.results(), None, -1
    with TemporaryDirectory() as scratch:
        files = readable_text_files(checkpoint.path, Path(scratch))
        with ArtifactWriter(out, with_kv_format(config, step), force=force) as writer:
            for name, role in expected_tensors(config).items():
                index, inner = place_of(name)
                if index not in (None, current):
                    finished, current = next(results), index
                if index is not None and finished is not None and inner in finished.codes:
                    writer.add_matrix(name, pack(finished.codes[inner]))
                elif role.is_matrix:
                    encoded = encode_without_data(checkpoint.read(name), walk.formats[name], step, name)
                    if encoded.tiny_groups:
                        walk.say(tiny_notice(name, encoded))
                    writer.add_matrix(name, encoded)
                else:
                    vector = walk.read(name).float()
                    if index is not None and finished is not None and inner in finished.channel_scales:
                        scales = torch.from_numpy(finished.channel_scales[inner])
                        vector = divided_norm(vector, config.norm_offset, scales)
                    best = vector.numpy()
                    tuned = best if index is None or finished is None else finished.vectors.get(inner, best)
                    writer.add_vector(name, tuned, best if len(walk.tiers) == 2 else None)
            for file in files:
                writer.add_file(file)
            writer.finish(provenance)
    return Artifact.open(writer.path, verify="none")


def place_of(name: str) -> tuple[int | None, str]:
    """The block of a canonical name, and the name inside it."""
    if not name.startswith("blocks."):
        return None, name
    _, index, inner = name.split(".", 2)
    return int(index), inner
