"""What rounding a group of matrices would cost the whole model, predicted from gradients, block by block.

If rounding changes the outputs y_t of a matrix by d_t at position t, KL to the original is, to second order,

    1/2 E (sum_t g_t . d_t)^2,        g_t the gradient of log p(labels) by y_t,

labels being drawn from the model itself (Fisher information; the sum is over a sequence, as labels at all its
positions depend on y_t). d_t = (Q - W) x_t holds the real rounding error, so that formats are told apart by
what they do, and not by their bits. One pass forward, one back, and a product for each format: the model is
read twice, a block at a time. What a gradient cannot see is left out: tokens that rounding sends to other
experts cost more than is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from penjing.artifact import ModelConfig
from penjing.errors import FormatError
from penjing.formats import decode, encode
from penjing.models.block import Weights
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.spec import WeightFormat

Read = Callable[[str], NDArray[Any]]
Done = Callable[[int, int], None]
Sums = NDArray[np.float64]  # of g . d over each sequence, [sequences, draws]
STATES = "block-inputs.npy"


@dataclass(frozen=True, eq=False)
class Recorded:
    """A matrix on one sequence: what it read [rows, K], and gradients by what it gave [draws, rows, N]."""

    sequence: int
    inputs: Tensor
    gradients: Tensor


@dataclass(eq=False)
class Recorder:
    """Applies matrices and remembers what they read and gave, in the order of use."""

    names: list[str] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def __call__(self, weights: Weights, name: str, inputs: Tensor) -> Tensor:
        """As `models.block.linear`."""
        outputs = functional.linear(inputs, weights[name])
        self.names.append(name)
        self.inputs.append(inputs.detach())
        self.outputs.append(outputs)
        bias = weights.get(f"{name}_bias")
        return outputs if bias is None else outputs + bias


class RoundingLosses:
    """The prediction for one model and one text.

    read: tensors by canonical name. tokens: int64 [sequences, length]. draws: of labels for each sequence.
    directory: where block inputs are kept meanwhile. Memory: one block in float32, and what its matrices read
    and give on all tokens.
    """

    def __init__(
        self,
        config: ModelConfig,
        read: Read,
        tokens: NDArray[np.int64],
        *,
        draws: int,
        seed: int,
        directory: Path,
    ) -> None:
        self.config, self.read, self.draws = config, read, draws
        self.tokens = torch.from_numpy(tokens)
        self.generator = torch.Generator().manual_seed(seed)
        self.model = TorchModel(config, self.tensor, tokens.shape[1])
        self.path = directory / STATES

    def tensor(self, name: str) -> Tensor:
        """A tensor in float32."""
        return tensor_of(self.read(name)).float()

    def by_group(
        self,
        groups: Mapping[str, Sequence[str]],
        formats: Mapping[str, WeightFormat],
        known: Container[str] = (),
        done: Done | None = None,
    ) -> Iterator[tuple[str, dict[str, float]]]:
        """(group, nats of KL a token by format) of every group that is not known, from the last block on.

        groups: the matrices of each group, by its name. formats: by label. done: called as (blocks, all).
        """
        blocks = len(self.config.blocks)
        wanted = {name: matrices for name, matrices in groups.items() if name not in known}
        states = self.forward()
        labels, gradients = self.from_logits(states[-1])
        ends = {name: self.of_head(states[-1], labels, formats) for name in wanted if name == self.head}
        for index in reversed(range(blocks)):
            if done is not None:
                done(blocks - 1 - index, blocks)
            recorded, gradients = self.back(index, states[index], gradients)
            prefix = f"blocks.{index}."
            for name, matrices in wanted.items():
                if name.startswith(prefix):
                    yield name, self.losses(self.of_block(prefix, matrices, recorded, formats))
        if "embedding" in wanted:
            looked_up = self.of_embedding(gradients, formats)
            ends["embedding"] = {
                label: sums + ends["embedding"][label] if "embedding" in ends else sums
                for label, sums in looked_up.items()
            }
        for name, sums in ends.items():
            yield name, self.losses(sums)
        if done is not None:
            done(blocks, blocks)

    @property
    def head(self) -> str:
        """The matrix that makes logits."""
        return "embedding" if self.config.tied_head else "head"

    def with_head(self) -> TorchModel:
        """The model, for its logits alone: what they take is read once."""
        return replace(self.model, read=cache(self.tensor))

    @torch.no_grad()
    def forward(self) -> NDArray[np.float32]:
        """What every block reads, and what the last one gives: [blocks + 1, sequences, length, hidden]."""
        shape = (len(self.config.blocks) + 1, *self.tokens.shape, self.config.hidden_size)
        states = np.lib.format.open_memmap(self.path, "w+", np.float32, shape)
        states[0] = self.model.embed(self.tokens).numpy()
        for index in range(len(self.config.blocks)):
            block, weights = self.model.block(index), self.model.block_weights(index)
            for number, hidden in enumerate(states[index]):
                states[index + 1, number] = block(weights, tensor_of(hidden)[None])[0].numpy()
        return states

    def from_logits(self, last: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Labels int64 [draws, sequences, length] and gradients by the last states [..., hidden]."""
        labels, gradients, model = [], [], self.with_head()
        for hidden in last:
            states = tensor_of(hidden).requires_grad_()
            chances = model.logits(states[None])[0].log_softmax(-1)
            drawn = torch.multinomial(
                chances.detach().exp(), self.draws, replacement=True, generator=self.generator
            )
            labels.append(drawn)
            sums = [chances.gather(-1, drawn[:, draw, None]).sum() for draw in range(self.draws)]
            gradients.append(
                torch.stack([torch.autograd.grad(each, states, retain_graph=True)[0] for each in sums])
            )
        return torch.stack(labels).permute(2, 0, 1), torch.stack(gradients, 1)

    def back(
        self, index: int, inputs: NDArray[np.float32], gradients: Tensor
    ) -> tuple[dict[str, list[Recorded]], Tensor]:
        """What the matrices of a block read and which gradients they got, by name, one for each sequence that
        used them; and the gradients by what the block read [draws, sequences, length, hidden].
        """
        weights = self.model.block_weights(index)
        recorded: dict[str, list[Recorded]] = {}
        before = torch.empty_like(gradients)
        for number, hidden in enumerate(inputs):
            recorder = Recorder()
            states = tensor_of(hidden)[None].requires_grad_()
            after = replace(self.model, linear=recorder).block(index)(weights, states)
            found = [
                torch.autograd.grad(after, [states, *recorder.outputs], each[None], retain_graph=True)
                for each in gradients[:, number]
            ]
            before[:, number] = torch.stack([each[0][0] for each in found])
            for place, name in enumerate(recorder.names):
                of_outputs = torch.stack([each[place + 1].flatten(0, -2) for each in found])
                recorded.setdefault(name, []).append(
                    Recorded(number, recorder.inputs[place].flatten(0, -2), of_outputs)
                )
        return recorded, before

    def of_block(
        self,
        prefix: str,
        matrices: Sequence[str],
        recorded: Mapping[str, Sequence[Recorded]],
        formats: Mapping[str, WeightFormat],
    ) -> dict[str, Sums]:
        """Sums of g . d over each sequence, for the matrices of a group together, by format."""
        sums = {label: self.no_sums() for label in formats}
        for name in matrices:
            weight = self.read(name)
            for label, format in formats.items():
                error = rounding_error(weight, format, name)
                for use in recorded.get(name.removeprefix(prefix), ()):
                    change = functional.linear(use.inputs, error)
                    sums[label][use.sequence] += torch.einsum("trn,rn->t", use.gradients, change).numpy()
        return sums

    @torch.no_grad()
    def of_head(
        self, last: NDArray[np.float32], labels: Tensor, formats: Mapping[str, WeightFormat]
    ) -> dict[str, Sums]:
        """The same for the head; g is what the labels are more than was expected."""
        sums, weight, cap = {}, self.read(self.head), self.config.logit_softcap
        model, norm, block = self.with_head(), self.tensor("final_norm"), self.model.block(0)
        for label, format in formats.items():
            error, sums[label] = rounding_error(weight, format, self.head), self.no_sums()
            for number, hidden in enumerate(last):
                states = tensor_of(hidden)
                logits = model.logits(states[None])[0]
                change = functional.linear(block.norm(norm, states), error)
                if cap is not None:
                    change *= 1 - (logits / cap).square()
                expected = (logits.softmax(-1) * change).sum(-1)
                found = change.gather(-1, labels[:, number].T) - expected[:, None]
                sums[label][number] = found.sum(0).numpy()
        return sums

    @torch.no_grad()
    def of_embedding(self, gradients: Tensor, formats: Mapping[str, WeightFormat]) -> dict[str, Sums]:
        """The same for the rows that are looked up. gradients: by what the first block reads."""
        sums, weight = {}, self.read("embedding")
        for label, format in formats.items():
            change = functional.embedding(self.tokens, rounding_error(weight, format, "embedding"))
            found = torch.einsum("dsth,sth->sd", gradients, change)
            sums[label] = found.double().numpy() * self.config.embedding_scale
        return sums

    def no_sums(self) -> Sums:
        """Zeros [sequences, draws]."""
        return np.zeros((len(self.tokens), self.draws))

    def losses(self, sums: Mapping[str, Sums]) -> dict[str, float]:
        """Half the mean square of each, by token."""
        length = self.tokens.shape[1]
        return {label: float(np.square(each).mean()) / (2 * length) for label, each in sums.items()}


def rounding_error(weight: NDArray[Any], format: WeightFormat, name: str) -> Tensor:
    """Q - W, float32 [N, K], of a format by the method `search`; NaN of one that cannot hold the weights."""
    try:
        rounded = decode(encode(weight, format, "search", name))
    except FormatError:
        return torch.full(weight.shape, torch.nan)
    return torch.from_numpy(rounded - weight.astype(np.float32))
