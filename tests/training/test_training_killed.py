"""A run killed by SIGKILL, at a moment nobody chose, goes on with the exact sequence of losses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

SCRIPT = """
import dataclasses, sys, time
from pathlib import Path
from regression import regression_task
from penjing.training.loop import TrainingConfig, train

task, directory, seconds = regression_task(), Path(sys.argv[1]), float(sys.argv[2])
slow = dataclasses.replace(task, batch=lambda number: time.sleep(seconds) or task.batch(number))
config = TrainingConfig(40, evaluate_every=7, log_every=1, save_seconds=0.0)
train(slow, config, directory)
"""


def start(directory: Path, seconds_per_step: float) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", SCRIPT, str(directory), str(seconds_per_step)]
    return subprocess.Popen(arguments, cwd=Path(__file__).parent)


def test_a_killed_run_goes_on_with_the_exact_losses(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with start(whole, 0.0) as uninterrupted:
        assert uninterrupted.wait() == 0
    with start(killed, 0.05) as run:
        while not (killed / "curve.json").exists():
            assert run.poll() is None
            time.sleep(0.01)
        time.sleep(0.2)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    before = torch.load(killed / "state.pt", weights_only=True)
    assert 0 < before["progress"]["step"] < 40, "it was killed on its way"
    with start(killed, 0.0) as resumed:
        assert resumed.wait() == 0
    curves = [json.loads((directory / "curve.json").read_text()) for directory in (whole, killed)]
    assert curves[0] == curves[1]
    assert len(curves[0]["train"]) == 40
    states = [torch.load(directory / "state.pt", weights_only=True)["model"] for directory in (whole, killed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
