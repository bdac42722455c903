"""End-to-end tuning: what the whole model loses, by gradient, on text of which it writes plenty itself.

The loss is the KL divergence of the quantized model's next-token distributions from the original's. Trained
are scales, tables, norms and other vectors (EfficientQAT's second phase, Chen et al. 2024) and, if the model
and its gradients fit, rounding itself: latents of every code, straight through (quantization-aware
distillation).
Block by block methods cannot see what one block may leave to the next; this one can, and on few parameters
and much text it hardly overfits. The best iterate on text held apart wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from penjing.errors import DivergedError
from penjing.formats.codes import Codes
from penjing.quantize.latent import LatentMatrix, latent_matrices
from penjing.quantize.rounding import BatchLoss, Judge, present

Forward = Callable[[Mapping[str, Tensor], Tensor], Tensor]
ORDINARY_LOSS = 0.1  # nats per token


@dataclass(frozen=True)
class TuneConfig:
    """steps: of Adam, one batch each. rounding: whether codes are learned too; reach: how many steps of the
    grid their latents may leave the original weight by (None: no bound). `layered` needs less than 1, lest
    the residual plane cannot bring the weight back; 0.5 would begin many latents at the border of two codes.
    latent_rate and table_rate: in mean gaps between levels; scale_rate and vector_rate: relative; all are for
    a model that begins at a loss of ORDINARY_LOSS, and go with the square root of the loss, since what they
    shake is squared in it; they rise over `warmup` steps and then fall by half a cosine. judge_every: steps
    between judgements.
    """

    steps: int = 400
    rounding: bool = True
    reach: float | None = None
    latent_rate: float = 0.01
    table_rate: float = 5e-4
    scale_rate: float = 3e-3
    vector_rate: float = 1e-3
    warmup: int = 10
    judge_every: int = 50


@dataclass(frozen=True, eq=False)
class Tuned:
    """matrices and vectors by name, as tuned; the judged loss before and after, nats per token."""

    matrices: dict[str, Codes]
    vectors: dict[str, Tensor]
    before: float
    after: float


def mean_kl(original: Tensor, quantized: Tensor) -> Tensor:
    """Mean over positions of KL(original || quantized), nats, of logits [..., vocabulary], in float32."""
    log_original = functional.log_softmax(original.float(), -1).flatten(0, -2)
    log_quantized = functional.log_softmax(quantized.float(), -1).flatten(0, -2)
    return functional.kl_div(log_quantized, log_original, reduction="batchmean", log_target=True)


def tune(
    codes: Mapping[str, Codes],
    weights: Mapping[str, Tensor],
    vectors: Mapping[str, Tensor],
    *,
    loss: BatchLoss,
    judge: Judge,
    config: TuneConfig,
) -> Tuned:
    """The matrices and vectors of the best iterate; what was handed in, if none is better.

    codes, weights: every quantized matrix by name and its original, float32 [N, K]. vectors: norms and
    biases, float32. loss: from all matrices and vectors by name and a batch number 0 .. steps - 1 to a
    differentiable scalar (`mean_kl` of the whole model). judge: the same over text held apart. Raises
    DivergedError for a loss that is not finite.
    """
    matrices = latent_matrices(dict(codes), dict(weights), config.reach)
    trained = {name: vector.detach().clone().requires_grad_() for name, vector in vectors.items()}
    optimizer = torch.optim.Adam(parameter_groups(matrices, trained, config), betas=(0.9, 0.98), eps=1e-12)
    best = Tuned(dict(codes), dict(vectors), before := judge({**vectors, **present(matrices)}), before)
    size = math.sqrt(max(before, 0.0) / ORDINARY_LOSS)
    peaks = [group["lr"] * size for group in optimizer.param_groups]
    for step in range(config.steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_at(step, config)
        optimizer.zero_grad()
        value = loss({**trained, **{name: matrix() for name, matrix in matrices.items()}}, step)
        if not bool(torch.isfinite(value)):
            raise DivergedError(
                f"tuning: the loss of batch {step} is {float(value.detach())}; lower the rates"
            )
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for matrix in matrices.values():
            matrix.confine()
        if (step + 1) % config.judge_every == 0 or step + 1 == config.steps:
            found = judge({**snapshot(trained), **present(matrices)})
            if found < best.after:
                kept = {name: matrix.to_codes() for name, matrix in matrices.items()}
                best = Tuned(kept, snapshot(trained), before, found)
    return best


def against_original(
    forward: Forward,
    originals: Mapping[str, Tensor],
    tokens: Tensor,
    held: Tensor,
    *,
    sequences: int,
    seed: int,
) -> tuple[BatchLoss, Judge]:
    """The loss and judge of `tune`: the mean KL to the original model, of a batch and of the held-apart text.

    forward: from every tensor by name and token ids int64 [sequences, length] to logits. originals: every
    tensor of the model, which those being tuned replace by name. tokens, held: int64 [count, length];
    `sequences` of `tokens`, in an order drawn anew from `seed` for every round, make a batch. Batches compute
    in bf16 where matrices do, held-apart text as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    orders: list[Tensor] = []
    per_round = max(len(tokens) // sequences, 1)

    def loss(tensors: Mapping[str, Tensor], step: int) -> Tensor:
        while len(orders) <= step // per_round:
            orders.append(torch.randperm(len(tokens), generator=generator))
        first = step % per_round * sequences
        batch = tokens[orders[step // per_round][first : first + sequences]]
        with torch.autocast(batch.device.type, torch.bfloat16):
            with torch.no_grad():
                wanted = forward(originals, batch)
            return mean_kl(wanted, forward({**originals, **tensors}, batch))

    @torch.no_grad()
    def judge(tensors: Mapping[str, Tensor]) -> float:
        total = 0.0
        for first in range(0, len(held), sequences):
            batch = held[first : first + sequences]
            found = mean_kl(forward(originals, batch), forward({**originals, **tensors}, batch))
            total += float(found) * len(batch)
        return total / len(held)

    return loss, judge


def parameter_groups(
    matrices: Mapping[str, LatentMatrix], vectors: Mapping[str, Tensor], config: TuneConfig
) -> list[dict[str, object]]:
    """What Adam trains, each kind at its own rate; latents stay where rounding is not learned."""
    groups: list[dict[str, object]] = [
        {"params": [matrix.log_scales for matrix in matrices.values()], "lr": config.scale_rate},
        {"params": list(vectors.values()), "lr": config.vector_rate},
        {"params": [m.levels for m in matrices.values() if m.levels is not None], "lr": config.table_rate},
    ]
    latents = [matrix.latents.requires_grad_(config.rounding) for matrix in matrices.values()]
    if config.rounding:
        groups.append({"params": latents, "lr": config.latent_rate})
    return [group for group in groups if group["params"]]


def rate_at(step: int, config: TuneConfig) -> float:
    """The part of the peak rates at a step."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - config.warmup) / max(config.steps - config.warmup, 1))


def snapshot(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies without gradients."""
    return {name: vector.detach().clone() for name, vector in vectors.items()}
