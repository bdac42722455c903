"""Optimizers: a frozen config each, and a table from config to builder.

Every builder returns a list of torch optimizers, because Muon is defined for hidden matrices only and needs
AdamW beside it. `maximize` turns descent into ascent in all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from penjing.errors import SpecError
from penjing.training.ranks import SINGLE, Ranks


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with (Nesterov) momentum."""

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Lion:
    """The sign of an interpolated momentum (Chen et al., 2023)."""

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Muon:
    """Orthogonalized momentum for hidden matrices (Jordan et al., 2024), `adamw` for all other parameters."""

    learning_rate: float = 0.02
    momentum: float = 0.95
    weight_decay: float = 0.0
    adamw: AdamW = field(default_factory=AdamW)


OptimizerConfig = SGD | AdamW | Lion | Muon


class MomentumOptimizer(Optimizer, ABC):
    """An optimizer whose only state is one momentum tensor a parameter; subclasses give the direction."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Decay `parameter` in place, then subtract its direction `lr` times; all of one shape."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        direction = self.direction(-gradient if group["maximize"] else gradient, state["momentum"], group)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction.to(parameter.dtype), alpha=-group["lr"])

    @abstractmethod
    def direction(self, gradient: Tensor, momentum: Tensor, group: dict[str, Any]) -> Tensor:
        """What is subtracted `lr` times; updates `momentum` in place."""


class LionOptimizer(MomentumOptimizer):
    """The sign of an interpolated momentum: an update of magnitude `lr` in every coordinate."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], maximize: bool) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0, "maximize": maximize})

    def direction(self, gradient: Tensor, momentum: Tensor, group: dict[str, Any]) -> Tensor:
        """-1, 0 or 1 for every element, by the first beta; the second moves the momentum."""
        sign = momentum.lerp(gradient, 1 - group["betas"][0]).sign_()
        momentum.lerp_(gradient, 1 - group["betas"][1])
        return sign


class MuonOptimizer(MomentumOptimizer):
    """Nesterov momentum whose update matrix is replaced by its nearest semi-orthogonal matrix.

    The update of an [m, n] matrix is scaled by sqrt(max(1, m / n)), so that one learning rate serves all
    shapes.
    """

    def __init__(
        self, params: Any, lr: float, momentum: float, weight_decay: float, *, maximize: bool, ranks: Ranks
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)
        self.ranks = ranks

    def direction(self, gradient: Tensor, momentum: Tensor, group: dict[str, Any]) -> Tensor:
        """Semi-orthogonal [m, n], scaled by the shape, in the gradient's dtype. `gradient` is a matrix.

        A divided matrix is gathered, and every rank computes the whole: it has no orthogonal parts.
        """
        momentum.lerp_(gradient, 1 - group["momentum"])
        rows, columns = gradient.shape
        update = orthogonalize(self.ranks.whole(gradient.lerp(momentum, group["momentum"])))
        scaled = update.to(gradient.dtype).mul_(max(1.0, rows / columns) ** 0.5)
        return self.ranks.part(scaled, gradient)


def orthogonalize(matrix: Tensor, num_iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly: five steps of a quintic Newton-Schulz iteration in bf16.

    [m, n] to [m, n] bf16. Singular values end in about [0.7, 1.2], which is enough for an update direction;
    the coefficients are those of Jordan et al. (2024), chosen for the steepest slope at zero.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T.contiguous() if is_tall else x
    for _ in range(num_iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def build_optimizers(
    model: nn.Module, config: OptimizerConfig, maximize: bool = False, ranks: Ranks = SINGLE
) -> list[Optimizer]:
    """Optimizers over the trainable parameters of `model`; each group carries `base_lr` for the schedule.

    Weight decay and the L1 penalty apply to matrices outside embeddings only (`is_hidden` of their group):
    norms, biases and embeddings are left alone. Raises SpecError when nothing is trainable.
    """
    matrices, others = split_parameters(model)
    if not matrices and not others:
        raise SpecError("the model has no trainable parameters")
    hidden = {id(parameter) for parameter in matrices}
    optimizers = OPTIMIZERS[type(config)](config, matrices, others, maximize, ranks)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
            group["is_hidden"] = all(id(parameter) in hidden for parameter in group["params"])
    return optimizers


@torch.no_grad()
def soft_threshold(optimizers: list[Optimizer], l1_penalty: float) -> None:
    """The proximal step of an L1 penalty, w <- sign(w) max(|w| - t, 0), on hidden matrices in place.

    t = lr l1, and for AdamW lr l1 / (sqrt(v) + eps), as its gradient is scaled. So both come to rest at the
    minimum of loss plus penalty, with exact zeros, where adding sign(w) to the gradient swings around them
    (Duchi and Singer, 2009; Yun et al., 2021). The steps of Lion and Muon do not know how steep the loss
    is: for them l1 is how much every weight shrinks, in learning rates.
    """
    if not l1_penalty:
        return
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if group["is_hidden"]:
                for w in group["params"]:
                    scale = adam_scale(optimizer.state[w], group) if "eps" in group else 1.0
                    w.copy_(w.sign() * (w.abs() - group["lr"] * l1_penalty * scale).clamp_(min=0))


def adam_scale(state: dict[str, Any], group: dict[str, Any]) -> Tensor | float:
    """What AdamW multiplied the momentum of a parameter by, besides the rate; 0 where it had no gradient."""
    if not state:
        return 0.0
    corrected: Tensor = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"].item())
    scale: Tensor = 1 / (corrected.sqrt() + group["eps"])
    return scale


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters as (hidden matrices, all others). A head tied to an embedding counts as
    embedding.
    """
    embedded = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.ndim == 2 and id(p) not in embedded]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in trainable if id(p) not in chosen]


Parameters = list[nn.Parameter]


def _groups(matrices: Parameters, others: Parameters, weight_decay: float) -> list[dict[str, Any]]:
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _sgd(
    config: SGD, matrices: Parameters, others: Parameters, maximize: bool, _ranks: Ranks
) -> list[Optimizer]:
    groups = _groups(matrices, others, config.weight_decay)
    return [
        torch.optim.SGD(
            groups, config.learning_rate, config.momentum, nesterov=config.nesterov, maximize=maximize
        )
    ]


def _adamw(
    config: AdamW, matrices: Parameters, others: Parameters, maximize: bool, _ranks: Ranks
) -> list[Optimizer]:
    groups = _groups(matrices, others, config.weight_decay)
    return [torch.optim.AdamW(groups, config.learning_rate, config.betas, config.epsilon, maximize=maximize)]


def _lion(
    config: Lion, matrices: Parameters, others: Parameters, maximize: bool, _ranks: Ranks
) -> list[Optimizer]:
    groups = _groups(matrices, others, config.weight_decay)
    return [LionOptimizer(groups, config.learning_rate, config.betas, maximize)]


def _muon(
    config: Muon, matrices: Parameters, others: Parameters, maximize: bool, ranks: Ranks
) -> list[Optimizer]:
    optimizers: list[Optimizer] = []
    if matrices:
        rates = (config.learning_rate, config.momentum, config.weight_decay)
        optimizers.append(MuonOptimizer(matrices, *rates, maximize=maximize, ranks=ranks))
    return optimizers + (_adamw(config.adamw, [], others, maximize, ranks) if others else [])


OPTIMIZERS: dict[type, Callable[[Any, Parameters, Parameters, bool, Ranks], list[Optimizer]]] = {
    SGD: _sgd,
    AdamW: _adamw,
    Lion: _lion,
    Muon: _muon,
}
