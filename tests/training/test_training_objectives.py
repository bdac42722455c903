"""Language-model objectives against their formulas, and the L1 penalty against its closed form."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from penjing.errors import EmptyDataError, SpecError  # noqa: E402
from penjing.training.loop import Task, TrainingConfig, train  # noqa: E402
from penjing.training.objectives import next_token_loss, next_token_objective, sequence_losses  # noqa: E402
from penjing.training.optimizers import SGD, AdamW, Lion, Muon, OptimizerConfig  # noqa: E402
from penjing.training.schedules import Schedule  # noqa: E402

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(3, 5, 7, generator=GENERATOR)
TARGETS = torch.randint(0, 7, (3, 5), generator=GENERATOR)


def test_smoothing_mixes_the_target_with_the_uniform_distribution() -> None:
    log_probabilities = LOGITS.log_softmax(-1)
    chosen = log_probabilities.gather(-1, TARGETS[..., None])[..., 0]
    torch.testing.assert_close(next_token_loss(LOGITS, TARGETS), -chosen.mean())
    smoothed = -(0.9 * chosen + 0.1 * log_probabilities.mean(-1)).mean()
    torch.testing.assert_close(next_token_loss(LOGITS, TARGETS, smoothing=0.1), smoothed)


def test_a_masked_position_has_no_part_in_loss_or_gradient() -> None:
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 2:] = False
    broken = LOGITS.clone()
    broken[1, 2:] = torch.nan
    broken.requires_grad_(True)
    loss = next_token_loss(broken, TARGETS, mask=mask)
    loss.backward()
    expected = torch.nn.functional.cross_entropy(LOGITS[mask], TARGETS[mask])
    torch.testing.assert_close(loss, expected)
    assert broken.grad is not None
    assert broken.grad[1, 2:].abs().max() == 0
    assert broken.grad.isfinite().all()


def test_sequence_losses_average_to_the_loss() -> None:
    losses = sequence_losses(LOGITS, TARGETS)
    assert losses.shape == (3,)
    torch.testing.assert_close(losses.mean(), next_token_loss(LOGITS, TARGETS))
    torch.testing.assert_close(losses[1], next_token_loss(LOGITS[1], TARGETS[1]))


def test_the_objective_shifts_blocks_by_one() -> None:
    table = torch.nn.Embedding(7, 7)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    expected = next_token_loss(table(tokens[:, :2]), tokens[:, 1:], smoothing=0.2)
    torch.testing.assert_close(next_token_objective(table, smoothing=0.2)(tokens), expected)


def test_wrong_smoothing_and_empty_masks_are_refused() -> None:
    with pytest.raises(SpecError, match="smoothing"):
        next_token_loss(LOGITS, TARGETS, smoothing=1.0)
    with pytest.raises(EmptyDataError, match="no position"):
        next_token_loss(LOGITS, TARGETS, mask=torch.zeros(3, 5, dtype=torch.bool))


@pytest.mark.parametrize(("optimizer", "accuracy"), [(SGD(0.1), 1e-5), (AdamW(0.02), 1e-2)])
def test_the_l1_penalty_comes_to_rest_at_the_lasso_solution(
    optimizer: OptimizerConfig, accuracy: float
) -> None:
    """For 0.5 |w - a|^2 + l |w|_1 that is a, l nearer to 0; the bias is not a hidden matrix."""
    torch.manual_seed(0)
    aims = torch.tensor([[2.0, -0.3, 0.1, -1.0, 0.2]])
    model = torch.nn.Linear(5, 1)

    def objective(_: int) -> torch.Tensor:
        return 0.5 * ((model.weight - aims).square().sum() + (model.bias - 0.1).square().sum())

    task = Task(model, lambda number: number, objective)
    schedule = Schedule("trapezoid", decay_steps=100)
    train(task, TrainingConfig(400, optimizer, schedule, max_gradient_norm=None, l1_penalty=0.25))
    expected = torch.tensor([[1.75, -0.05, 0.0, -0.75, 0.0]])
    torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=accuracy)
    assert model.weight[0, [2, 4]].tolist() == [0.0, 0.0], "exactly, not nearly"
    assert model.bias.item() == pytest.approx(0.1, abs=accuracy)


@pytest.mark.parametrize("optimizer", [Lion(0.01), Muon(0.01)])
def test_lion_and_muon_shrink_by_learning_rates(optimizer: OptimizerConfig) -> None:
    model = torch.nn.Linear(3, 2, bias=False)
    torch.nn.init.constant_(model.weight, 0.5)
    task = Task(model, lambda number: number, lambda _: 0.0 * model.weight.sum())
    train(task, TrainingConfig(10, optimizer, l1_penalty=2.0))
    torch.testing.assert_close(model.weight.detach(), torch.full((2, 3), 0.5 - 10 * 0.01 * 2.0))


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(SpecError, match="l1_penalty"):
        TrainingConfig(1, l1_penalty=-0.1)
