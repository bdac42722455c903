"""Several processes take the steps of one: whole models or sharded ones, met by file or by torchrun."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from regression import assert_same_bytes, regression_task, weights  # noqa: E402

from penjing.errors import SpecError  # noqa: E402
from penjing.training.bounds import Bounds  # noqa: E402
from penjing.training.loop import Task, TrainingConfig, train  # noqa: E402
from penjing.training.optimizers import SGD, AdamW, Lion, Muon  # noqa: E402
from penjing.training.ranks import SINGLE, Ranks, joined, joined_by_torchrun  # noqa: E402
from penjing.training.stopping import EarlyStopping  # noqa: E402

STOPPING = EarlyStopping(patience=10)
# Two micro-batches: a sum of two is the same in any order, so that only the clipped norm may round.
CONFIGS = {
    "adamw": TrainingConfig(10, AdamW(0.01), micro_batches=2, max_gradient_norm=None, evaluate_every=5),
    "clipped": TrainingConfig(10, AdamW(0.01), micro_batches=2, evaluate_every=5, early_stopping=STOPPING),
    "bounded": TrainingConfig(
        10, SGD(0.1, momentum=0.9), micro_batches=2, l1_penalty=0.01, bounds=Bounds(0.3, 0.1)
    ),
    "lion": TrainingConfig(10, Lion(0.01), micro_batches=2, max_gradient_norm=None),
    "muon": TrainingConfig(10, Muon(0.02), micro_batches=2, max_gradient_norm=None),
}
EXACT = {"adamw", "lion", "muon"}


def task_of(rank: int) -> Task[torch.Tensor]:
    """Without dropout, for which ranks draw different numbers; `evaluate` covers the rank's share."""
    task = regression_task(dropout=0.0)
    shares = {0: (1001, 1002), 1: (1003, 1004), -1: (1001, 1002, 1003, 1004)}
    return dataclasses.replace(
        task, evaluate=lambda: [task.objective(task.batch(n)).item() for n in shares[rank]]
    )


def train_as_rank(rank: int, directory: Path) -> None:
    # Only here, as it takes most of a second.
    from penjing.training.sharding import shard

    torch.set_num_threads(1)
    with joined(rank, 2, directory / "meeting") as ranks:
        assert ranks.gather([rank + 0.5] * (rank + 1)) == [0.5, 1.5, 1.5]
        for name, config in CONFIGS.items():
            train(task_of(rank), config, directory / f"{name} whole", ranks=ranks)
            for num_steps in (7, 10):  # a sharded run is resumed from a state that holds the whole
                task = task_of(rank)
                sharded = shard(task.model, [task.model[0]], ranks)
                part = task.model[0].weight.to_local()
                assert part.shape == (4, 6), "half of the rows are here"
                shorter = dataclasses.replace(config, num_steps=num_steps)
                train(task, shorter, directory / f"{name} sharded", ranks=sharded)


def test_two_ranks_take_the_steps_of_one_whole_or_sharded(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=train_as_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0]
    for name, config in CONFIGS.items():
        train(task_of(-1), config, tmp_path / f"{name} alone")
        alone = state_in(tmp_path / f"{name} alone")
        for kind in ("whole", "sharded"):
            together = state_in(tmp_path / f"{name} {kind}")
            for key in ("model", "best_weights") if config.early_stopping else ("model",):
                if name in EXACT:
                    assert_same_bytes(together[key], alone[key])
                torch.testing.assert_close(together[key], alone[key], rtol=0, atol=1e-6)
            for left, right in zip(*(s["progress"]["heldout_curve"] for s in (together, alone)), strict=True):
                assert left == (right[0], pytest.approx(right[1], abs=1e-6))


def state_in(directory: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(directory / "state.pt", weights_only=True)
    return state


TORCHRUN = """
import sys
import torch
from pathlib import Path
from test_training_ranks import CONFIGS, task_of
from penjing.training.loop import train
from penjing.training.ranks import joined_by_torchrun

torch.set_num_threads(1)
with joined_by_torchrun() as ranks:
    train(task_of(ranks.rank), CONFIGS["adamw"], Path(sys.argv[1]), ranks=ranks)
"""


def test_torchrun_starts_ranks_that_take_the_steps_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TORCHRUN)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, str(script), str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    alone = task_of(-1)
    train(alone, CONFIGS["adamw"])
    assert_same_bytes(state_in(tmp_path / "run")["model"], weights(alone))


def test_without_torchrun_there_is_one_rank_and_half_an_environment_is_refused() -> None:
    with joined_by_torchrun({}) as ranks:
        assert ranks == SINGLE
    whole = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with joined_by_torchrun(whole) as ranks:
        assert ranks == SINGLE
    wrong = [({"RANK": "0"}, "lacks WORLD_SIZE"), ({**whole, "RANK": "1"}, "rank 1 is not one of 1")]
    for environment, message in [*wrong, ({**whole, "RANK": "-1"}, "not counts")]:
        with pytest.raises(SpecError, match=message), joined_by_torchrun(environment):
            pass


def test_micro_batches_must_be_shared_evenly() -> None:
    with pytest.raises(SpecError, match="shared evenly"):
        train(regression_task(), TrainingConfig(1, micro_batches=3), ranks=Ranks(0, 2))
