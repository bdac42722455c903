"""One block of the walk: every matrix is quantized for the inputs that it will really get.

Two versions of the model go through the block side by side. The original runs on the checkpoint's weights;
the quantized one gets each matrix as soon as it is done, so that the next one's inputs carry its error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from penjing.artifact import block_tensors
from penjing.formats.codes import Codes, dequantize
from penjing.models.axes import divided_norm
from penjing.models.torch_model import TorchModel
from penjing.quantize.gathering import Gathering
from penjing.quantize.methods import Method, StageStatistics
from penjing.quantize.streams import Stream
from penjing.quantize.tracks import Chunk, Track
from penjing.spec import Tier, WeightFormat

Inputs = Callable[[Track, Chunk], Tensor]
RoundMatrix = Callable[[str, Tensor, StageStatistics | None, WeightFormat], Codes]
MIN_TOKENS_OF_COLUMNS = (
    1 / 16
)  # an expert that saw fewer tokens than this part of its inputs is not calibrated


@dataclass(eq=False)
class BlockWalk:
    """One block, to be quantized at one tier.

    read: a tensor of the checkpoint by its name inside the block, in its own dtype. formats: of the block's
    matrices, likewise. original: None where the method never asks for it. round_matrix: from a name, a weight
    float32 [N, K], statistics and a format to codes; round_unseen: the same without statistics, for experts
    that hardly any token went to. codes, channel_scales, unseen: the results.
    """

    model: TorchModel
    index: int
    read: Callable[[str], Tensor]
    formats: Mapping[str, WeightFormat]
    method: Method
    given_scales: Mapping[str, Tensor] | None
    tier: Tier
    original: Track | None
    quantized: Track
    chunks: list[Chunk]
    dtype: torch.dtype
    round_matrix: RoundMatrix
    codes: dict[str, Codes] = field(default_factory=dict)
    channel_scales: dict[str, Tensor] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Quantize the block and bring both tracks to its end."""
        self.block = self.model.block(self.index)
        self.load()
        self.quantize(("query", "key", "value"), self.attention_input, norm="attention_norm")
        self.wait_for("output")
        self.quantize(("output",), self.attended)
        for chunk, attended in self.waited():
            self.finish_attention(self.quantized, chunk, attended)
        if self.block.block.feed_forward == "dense":
            self.quantize(("gate", "up"), self.feed_forward_input, norm="feed_forward_norm")
            self.wait_for("down")
            self.quantize(("down",), self.inner)
            for chunk, inner in self.waited():
                outputs = self.block.linear(self.quantized.weights, "down", inner)
                self.finish_feed_forward(self.quantized, chunk, outputs)
        else:
            self.quantize_experts()
        for track in self.tracks:
            track.weights = {}

    def wait_for(self, name: str) -> None:
        """Make room for what a matrix reads on the quantized track, until that matrix is quantized as well.

        It lies there in the dtype in which the matrix will read it.
        """
        columns = block_tensors(self.model.config, self.block.block)[name].shape[1]
        sequences, length, _ = self.quantized.hidden.shape
        self.waiting = Stream(sequences, length, columns, self.dtype, self.quantized.hidden.directory)

    def waited(self) -> Iterator[tuple[Chunk, Tensor]]:
        """What was put there, chunk by chunk; then the room is given back."""
        for chunk in self.chunks:
            yield chunk, self.waiting.read(chunk.first, chunk.last)
        self.waiting.close()

    @property
    def tracks(self) -> list[Track]:
        """Those that there are."""
        return [self.quantized] if self.original is None else [self.original, self.quantized]

    def load(self) -> None:
        """All of the original's weights; of the quantized one's, those that stay as they are."""
        for name, role in block_tensors(self.model.config, self.block.block).items():
            kept = not role.is_matrix or self.formats[name].name == "keep"
            if self.original is not None or kept:
                tensor = self.read(name)
                tensor = tensor.to(self.dtype) if role.is_matrix and not role.keeps_dtype else tensor.float()
                for track in self.tracks:
                    if kept or track is self.original:
                        track.weights[name] = tensor

    def attention_input(self, track: Track, chunk: Chunk) -> Tensor:
        """What query, key and value read."""
        return self.block.attention_input(track.weights, track.hidden.read(chunk.first, chunk.last))

    def attended(self, track: Track, chunk: Chunk) -> Tensor:
        """What `output` reads; the original goes on past it."""
        attended = self.block.attention(track.weights, self.attention_input(track, chunk))
        if track is self.original:
            self.finish_attention(track, chunk, attended)
        else:
            self.waiting.write(chunk.first, attended)
        return attended

    def finish_attention(self, track: Track, chunk: Chunk, attended: Tensor) -> None:
        """The residual stream after attention."""
        track.update(chunk, lambda hidden: self.block.after_attention(track.weights, hidden, attended))

    def feed_forward_input(self, track: Track, chunk: Chunk) -> Tensor:
        """What gate and up read."""
        return self.block.feed_forward_input(track.weights, track.hidden.read(chunk.first, chunk.last))

    def inner(self, track: Track, chunk: Chunk) -> Tensor:
        """What `down` reads; the original goes on past it."""
        inner = self.block.inner(track.weights, self.feed_forward_input(track, chunk))
        if track is self.original:
            self.finish_feed_forward(track, chunk, self.block.linear(track.weights, "down", inner))
        else:
            self.waiting.write(chunk.first, inner)
        return inner

    def finish_feed_forward(self, track: Track, chunk: Chunk, outputs: Tensor) -> None:
        """The residual stream after the block."""
        track.update(chunk, lambda hidden: self.block.after_feed_forward(track.weights, hidden, outputs))

    def quantize(self, names: Sequence[str], inputs: Inputs, norm: str | None = None) -> None:
        """Quantize matrices that read one input; `norm`: what makes it, if channel scales may go there."""
        if all(self.formats[name].name == "keep" for name in names):
            for chunk in self.chunks:
                for track in self.tracks:
                    inputs(track, chunk)  # for what running it leaves behind
            return
        statistics = self.gather(names, inputs)
        weights = {name: self.weight(name) for name in names}
        if self.method.scale is not None and norm is not None:
            if self.given_scales is None:
                scales = self.method.scale(list(weights.values()), statistics, self.formats[names[0]])
            else:
                scales = self.given_scales[norm]
            statistics = self.scale_norm(norm, scales, statistics)
            weights = {name: weight * scales for name, weight in weights.items()}
        for name in names:
            self.put(name, self.round_matrix(name, weights.pop(name), statistics, self.formats[name]))

    def weight(self, name: str) -> Tensor:
        """A matrix of the checkpoint, float32 [N, K]."""
        return self.read(name).float()

    def gather(self, names: Sequence[str], inputs: Inputs) -> StageStatistics:
        """Statistics of one input over all chunks."""
        columns = block_tensors(self.model.config, self.block.block)[names[0]].shape[1]
        gathering = Gathering(columns, self.method, self.dtype, self.label(names))
        for chunk in self.chunks:
            original = None if self.original is None else inputs(self.original, chunk)
            gathering.add(inputs(self.quantized, chunk), original, held=chunk.held)
        return gathering.result()

    def scale_norm(self, norm: str, scales: Tensor, statistics: StageStatistics) -> StageStatistics:
        """Divide what a norm makes by channel scales, on the quantized track."""
        self.channel_scales[norm] = scales
        weight, offset = self.quantized.weights[norm], self.model.config.norm_offset
        self.quantized.weights[norm] = divided_norm(weight, offset, scales)
        return statistics.rescaled(scales)

    def put(self, name: str, codes: Codes) -> None:
        """Keep a matrix's codes; from here on the quantized track computes with what they stand for."""
        self.codes[name] = codes
        self.quantized.weights[name] = torch.from_numpy(dequantize(codes, self.tier)).to(self.dtype)

    def label(self, names: Sequence[str]) -> str:
        """Matrices by their names in the model."""
        return ", ".join(f"blocks.{self.index}.{name}" for name in names)

    def quantize_experts(self) -> None:
        """Every expert, with the inputs of the tokens that the quantized track's router sends to it."""
        routes = []
        for chunk in self.chunks:
            inputs = self.feed_forward_input(self.quantized, chunk).flatten(0, -2)
            routes.append(self.block.route(self.quantized.weights, inputs) > 0)
        for expert in range(self.block.block.num_experts):
            rows = [torch.nonzero(route[:, expert]).flatten() for route in routes]
            prefix = f"experts.{expert}."
            self.quantize_expert((f"{prefix}gate", f"{prefix}up"), rows)
            self.quantize_expert((f"{prefix}down",), rows, through=prefix)
        for track in self.tracks:
            for chunk in self.chunks:
                outputs = self.block.feed_forward(track.weights, self.feed_forward_input(track, chunk))
                self.finish_feed_forward(track, chunk, outputs)

    def quantize_expert(self, names: Sequence[str], rows: list[Tensor], through: str | None = None) -> None:
        """Matrices of one expert, which read these tokens of each chunk; `through`: the prefix of the expert
        whose inner activations they read."""
        if all(self.formats[name].name == "keep" for name in names):
            return
        columns = block_tensors(self.model.config, self.block.block)[names[0]].shape[1]
        gathering = Gathering(columns, self.method, self.dtype, self.label(names))
        for chunk, chosen in zip(self.chunks, rows, strict=True):
            if len(chosen):
                parts = [self.expert_inputs(track, chunk, chosen, through) for track in self.tracks]
                gathering.add(parts[-1], None if self.original is None else parts[0], held=chunk.held)
        seen = gathering.calibration.tokens >= MIN_TOKENS_OF_COLUMNS * columns
        statistics = gathering.result()
        for name in names:
            codes = self.round_matrix(
                name, self.weight(name), statistics if seen else None, self.formats[name]
            )
            self.put(name, codes)
        if not seen:
            self.unseen += names

    def expert_inputs(self, track: Track, chunk: Chunk, rows: Tensor, through: str | None) -> Tensor:
        """What an expert's matrices read of a chunk, [tokens, columns]."""
        hidden = track.hidden.read(chunk.first, chunk.last).flatten(0, -2)[rows]
        inputs = self.block.feed_forward_input(track.weights, hidden)
        return inputs if through is None else self.block.inner(track.weights, inputs, through)


def advance_block(walk: BlockWalk, codes: Mapping[str, Codes], channel_scales: Mapping[str, Tensor]) -> None:
    """Bring both tracks past a block that was quantized before, with the very operations of `run`."""
    walk.block = walk.model.block(walk.index)
    walk.load()
    for norm, scales in channel_scales.items():
        weight = walk.quantized.weights[norm]
        walk.quantized.weights[norm] = divided_norm(weight, walk.model.config.norm_offset, scales)
    for name, matrix in codes.items():
        walk.put(name, matrix)
    for track in walk.tracks:
        track.advance(walk.block, walk.chunks)
        track.weights = {}
