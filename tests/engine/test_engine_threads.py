"""The pool of threads below a step."""

from __future__ import annotations

import threading

import pytest

from penjing.kernels import _core


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
