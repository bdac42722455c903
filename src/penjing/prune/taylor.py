"""What units are worth by the loss: |w dL/dw|, summed over all weights of a unit (Molchanov et al. 2019).

It is what the loss changes by, to first order, where single weights are set to 0, signs aside.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from penjing.artifact.config import ModelConfig, block_tensors
from penjing.models.trainable import TrainableModel
from penjing.prune.axes import check_dense, sum_by_axis
from penjing.prune.importance import Importance

BATCH_TOKENS = 2048  # whose gradient is taken at a time; its magnitudes are added up over batches


def gradient_importance(config: ModelConfig, tensors: Mapping[str, Tensor], tokens: Tensor) -> Importance:
    """Scores of a model with these tensors (float32, by canonical name) on tokens int64 [sequences, length].

    The loss is the mean NLL of the next token. Raises UnsupportedConfigError for a model with experts.
    """
    check_dense(config)
    products = gradient_products(config, tensors, tokens)
    groups, channels, blocks = [], [], []
    for index, block in enumerate(config.blocks):
        names = block_tensors(config, block)
        inside = {name: products[f"blocks.{index}.{name}"] for name in names}
        heads = torch.zeros(block.num_kv_heads)
        for axis in ("query", "key"):
            heads += total(inside, axis).view(block.num_kv_heads, -1).sum(1)
        groups.append(heads)
        channels.append(total(inside, "inner"))
        blocks.append(sum((product.sum() for product in inside.values()), torch.zeros(())))
    return Importance(tuple(groups), tuple(channels), total(products, "hidden"), torch.stack(blocks))


def gradient_products(
    config: ModelConfig, tensors: Mapping[str, Tensor], tokens: Tensor
) -> dict[str, Tensor]:
    """|w dL/dw| of every weight, the mean over batches, by canonical name."""
    model = TrainableModel(config, tensors, tokens.shape[1])
    parameters = model.tensors()
    products = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for batch in torch.split(tokens, max(1, BATCH_TOKENS // tokens.shape[1])):
        with torch.enable_grad():
            logits = model(batch)[:, :-1].flatten(0, 1)
            loss = functional.cross_entropy(logits, batch[:, 1:].flatten())
            gradients = torch.autograd.grad(loss, list(parameters.values()))
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            products[name] += (parameter.detach() * gradient).abs() * (len(batch) / len(tokens))
    return products


def total(products: Mapping[str, Tensor], axis: str) -> Tensor:
    """Sums over all tensors that have an axis, float32 [n]."""
    parts = [sum_by_axis(product, name.rpartition(".")[2], axis) for name, product in products.items()]
    return torch.stack([part for part in parts if part is not None]).sum(0)
