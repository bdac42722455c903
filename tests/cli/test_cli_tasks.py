"""`penjing evaluate --tasks`: what it prints where, and what is refused in one line."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from running import Run
from task_files import DOCUMENTS, write_tasks

needs_harness = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="no lm-eval here: pip install 'penjing[tasks]'"
)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "tasks")


@needs_harness
def test_tasks_before_and_after(run: Run, tasks: Path, tmp_path: Path) -> None:
    tray = tmp_path / "tray"
    assert run("quantize", "seedling", "-o", tray, "--format", "int8").code == 0
    command = ["evaluate", tray, "--against", "seedling", "--tasks", "tiny_choice, tiny_write"]
    command += ["--tasks-dir", tasks, "--max-drop", "50%", "--threads", 1]
    done = run(*command, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [task["task"] for task in found["tasks"]] == ["tiny_choice", "tiny_write"]
    assert all(task["claim"]["proved"] for task in found["tasks"])
    assert found["max_drop"] == 0.5
    said = run(*command, "--limit", 9)
    assert said.code == 0, said.err
    assert "tiny_choice acc_norm" in said.out
    assert "Drop of at most 50.00%, all that is proved together with 95% confidence" in said.out
    assert "tiny_write, exact_match: " in said.out
    assert f"{9 * 5} requests to each side" in said.out
    assert DOCUMENTS > 9


@needs_harness
def test_an_unknown_task_has_near_names(run: Run, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    index = TaskManager(include_path=str(tasks), include_defaults=False)  # all others take seconds to read
    monkeypatch.setattr("penjing.optimize.tasks.find_tasks", lambda *_: index)
    done = run(
        "evaluate", "seedling", "--against", "seedling", "--tasks", "tiny_chioce", "--tasks-dir", tasks
    )
    assert done.code == 2
    assert done.out == ""
    assert "SpecError: there is no task 'tiny_chioce'; near it are tiny_choice" in done.err


def test_without_the_extra_it_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penjing.cli.inspect.find_spec", lambda _: None)
    done = run("evaluate", "seedling", "--against", "seedling", "--tasks", "arc_easy")
    assert done.code == 2
    assert done.err == "penjing: MissingExtraError: --tasks needs lm-eval: pip install 'penjing[tasks]'\n"


def test_options_that_do_not_go_together(run: Run, text: Path) -> None:
    assert "say with --against" in run("evaluate", "seedling", "--tasks", "arc_easy").err
    beside = run("evaluate", "seedling", "--against", "seedling", "--tasks", "arc_easy", "--data", text)
    assert "leave out --data, --tokens" in beside.err
    assert "name some with --tasks" in run("evaluate", "seedling", "--max-drop", "1%").err
    assert beside.code == 2


@needs_harness
def test_settings_out_of_range(run: Run) -> None:
    both = ("evaluate", "seedling", "--against", "seedling", "--tasks")
    assert "SpecError: tasks: names" in run(*both, ",").err
    assert "SpecError: tasks: max_drop" in run(*both, "arc_easy", "--max-drop", "much").err
