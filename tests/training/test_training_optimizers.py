"""Optimizers against their formulas, and the choice of parameters each part treats."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from penjing.errors import SpecError  # noqa: E402
from penjing.training.loop import Task, TrainingConfig, train  # noqa: E402
from penjing.training.optimizers import (  # noqa: E402
    SGD,
    AdamW,
    Lion,
    Muon,
    OptimizerConfig,
    build_optimizers,
    orthogonalize,
)
from penjing.training.schedules import Schedule  # noqa: E402


class Tied(torch.nn.Module):
    """An embedding tied to its head, one hidden matrix, one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 8)
        self.hidden = torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight


def one_step(config: OptimizerConfig, start: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    layer = torch.nn.Linear(start.shape[1], start.shape[0], bias=False)
    layer.weight.data.copy_(start)
    (optimizer,) = build_optimizers(layer, config)
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        optimizer.step()
    return layer.weight.detach()


def test_sgd_with_momentum_and_nesterov_follows_its_formula() -> None:
    start, first, second = (torch.randn(3, 5, generator=torch.manual_seed(i)) for i in range(3))
    plain = one_step(SGD(0.1, weight_decay=0.5), start, [first])
    torch.testing.assert_close(plain, start - 0.1 * (first + 0.5 * start))
    heavy = one_step(SGD(0.1, momentum=0.9), start, [first, second])
    torch.testing.assert_close(heavy, start - 0.1 * (first + (0.9 * first + second)))
    ahead = one_step(SGD(0.1, momentum=0.9, nesterov=True), start, [first])
    torch.testing.assert_close(ahead, start - 0.1 * (first + 0.9 * first))


def test_lion_moves_by_the_sign_of_the_interpolated_momentum() -> None:
    start, first, second = (torch.randn(4, 4, generator=torch.manual_seed(i)) for i in range(3))
    config = Lion(0.01, betas=(0.9, 0.99), weight_decay=0.1)
    once = start * (1 - 0.001) - 0.01 * first.sign()
    torch.testing.assert_close(one_step(config, start, [first]), once)
    direction = (0.9 * (0.01 * first) + 0.1 * second).sign()
    torch.testing.assert_close(
        one_step(config, start, [first, second]), once * (1 - 0.001) - 0.01 * direction
    )


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
def test_orthogonalize_equalizes_singular_values_and_keeps_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.manual_seed(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(matrix).float()
    assert result.shape == matrix.shape
    aligned = torch.diagonal(left.T @ result @ right.T)[values > 0.05 * values.max()]
    assert aligned.min() > 0.5
    assert aligned.max() < 1.3


def test_muon_takes_hidden_matrices_and_adamw_the_rest() -> None:
    model = Tied()
    muon, adamw = build_optimizers(model, Muon(weight_decay=0.1))
    assert [id(p) for g in muon.param_groups for p in g["params"]] == [id(model.hidden.weight)]
    others = {id(p) for g in adamw.param_groups for p in g["params"]}
    assert others == {id(model.embedding.weight), id(model.hidden.bias)}


@pytest.mark.parametrize("config", [SGD(weight_decay=0.1), AdamW(weight_decay=0.1), Lion(weight_decay=0.1)])
def test_weight_decay_spares_embeddings_and_biases(config: OptimizerConfig) -> None:
    model = Tied()
    (optimizer,) = build_optimizers(model, config)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays[id(model.hidden.weight)] == 0.1
    assert decays[id(model.hidden.bias)] == decays[id(model.embedding.weight)] == 0.0


@pytest.mark.parametrize("config", [SGD(0.3, momentum=0.9), AdamW(0.02), Muon(0.05), Lion(0.003)])
def test_every_optimizer_learns_a_rotation_to_a_thousandth(config: OptimizerConfig) -> None:
    """A product of two 16 x 16 matrices, on random inputs of unit variance: a loss near 1 falls to 1e-3."""
    generator = torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    model = torch.nn.Sequential(*(torch.nn.Linear(16, 16, bias=False) for _ in range(2)))

    def batch(number: int) -> torch.Tensor:
        return torch.randn(64, 16, generator=torch.Generator().manual_seed(number))

    def objective(inputs: torch.Tensor) -> torch.Tensor:
        return (model(inputs) - inputs @ rotation).square().mean()

    task = Task(model, batch, objective, lambda: objective(batch(10**6)).item())
    schedule = Schedule("cosine", warmup_steps=10)
    progress = train(task, TrainingConfig(600, config, schedule, evaluate_every=600))
    assert progress.heldout_curve[-1][1] < 1e-3


def test_a_frozen_model_is_refused() -> None:
    with pytest.raises(SpecError, match="no trainable parameters"):
        build_optimizers(Tied().requires_grad_(False), AdamW())
