"""Every parameter of source and target is accounted for, and what is copied is copied bit by bit."""

from __future__ import annotations

import numpy as np
import torch

from penjing.transfer import Kept, Transfer, transfer_parameters


def test_names_and_shapes_decide() -> None:
    source = {
        "same": np.arange(6, dtype=np.float32).reshape(2, 3),
        "wider": np.ones((2, 4), np.float32),
        "broadcastable": np.ones(3, np.float32),
        "narrower": np.ones(2, np.float16),
        "extra": np.ones(1, np.float32),
    }
    target = {
        "same": np.zeros((2, 3), np.float32),
        "wider": np.zeros((2, 3), np.float32),
        "broadcastable": np.zeros((2, 3), np.float32),
        "narrower": np.zeros(2, np.float32),
        "new": np.zeros(1, np.float32),
    }
    report = transfer_parameters(source, target)
    assert report == Transfer(
        copied=("same",),
        kept=(
            Kept("wider", "shape [2, 4] in the source, [2, 3] here"),
            Kept("broadcastable", "shape [3] in the source, [2, 3] here"),
            Kept("narrower", "dtype float16 in the source, float32 here"),
            Kept("new", "the source has no parameter of this name"),
        ),
        unused=("extra",),
    )
    assert np.array_equal(target["same"], source["same"])
    assert not any(target[kept.name].any() for kept in report.kept)
    source["same"][0] = 9
    assert target["same"][0, 0] == 0


def test_modules_are_filled_through_their_state() -> None:
    source, target = torch.nn.Linear(3, 2), torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    state = {f"0.{name}": tensor for name, tensor in source.state_dict().items()}
    report = transfer_parameters(state, target.state_dict())
    assert report.copied == ("0.weight", "0.bias")
    assert [kept.name for kept in report.kept] == ["1.weight", "1.bias"]
    inputs = torch.randn(4, 3)
    assert torch.equal(target[0](inputs), source(inputs))


def test_libraries_do_not_mix() -> None:
    report = transfer_parameters({"w": np.ones(2, np.float32)}, {"w": torch.zeros(2)})
    assert report.kept == (Kept("w", "one is a numpy array, the other a torch tensor"),)
