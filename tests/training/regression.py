"""A small task that many tests train on, and what they compare."""

from __future__ import annotations

import torch

from penjing.training.loop import Task


def regression_task(dropout: float = 0.2) -> Task[torch.Tensor]:
    """A small network with dropout (so that random numbers matter) that learns the sum of its inputs."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 1)
    )

    def batch(number: int) -> torch.Tensor:
        return torch.randn(16, 6, generator=torch.Generator().manual_seed(number))

    def objective(inputs: torch.Tensor) -> torch.Tensor:
        return (model(inputs)[:, 0] - inputs.sum(1)).square().mean()

    return Task(model, batch, objective, lambda: objective(batch(10**6)).item())


def weights(task: Task[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of the model's tensors by name."""
    return {name: tensor.clone() for name, tensor in task.model.state_dict().items()}


def assert_same_bytes(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Equal names and equal numbers."""
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
