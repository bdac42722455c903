"""The pool of threads below a step."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from penjing.kernels import _core
from penjing.measure.probe_model import ProbeShape, Stored, probe_model, step_of


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("tasks", [0, 1, 2, 5, 1000])
def test_every_task_runs_once_a_loop(threads: int, tasks: int) -> None:
    assert _core.run_tasks(threads, tasks, 50, -1) == [50] * tasks


@pytest.mark.parametrize("threads", [1, 3])
def test_failure_reaches_the_caller(threads: int) -> None:
    with pytest.raises(RuntimeError, match="task 37 failed"):
        _core.run_tasks(threads, 100, 1, 37)


def test_no_threads() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        _core.run_tasks(0, 1, 1, -1)


def test_pools_side_by_side() -> None:
    """More threads than processors, coming and going."""
    results: list[list[int]] = []
    callers = [
        threading.Thread(target=lambda: results.append(_core.run_tasks(4, 20, 200, -1))) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [[200] * 20] * 4


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux where threads may run")
@pytest.mark.parametrize("threads", [2, 3])
def test_a_worker_that_slept_is_kept_off_the_callers_processor(threads: int) -> None:
    """And off other workers' processors where there is just one for each thread."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < threads:
        pytest.skip(f"{threads} threads do not have a processor each")
    before = set(os.listdir("/proc/self/task"))
    shape = ProbeShape(hidden=512, inner=1408, heads=4, kv_heads=1, head_dim=128, blocks=1)
    model = probe_model(shape, Stored("int8", 64), threads, "scalar", rows=1)
    workers = set(os.listdir("/proc/self/task")) - before
    assert len(workers) == threads - 1
    time.sleep(0.05)  # long enough to fall asleep
    step_of(model, 1)()
    masks = [os.sched_getaffinity(int(worker)) for worker in workers]
    if len(allowed) == threads:
        assert all(len(mask) == 1 for mask in masks)
        assert len(set.union(*masks)) == threads - 1
    else:
        assert all(mask < allowed for mask in masks)
    assert os.sched_getaffinity(0) == allowed  # the caller is left alone
