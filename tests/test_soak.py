"""The soak notices what it is there to notice."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from penjing.engine import Engine

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", HERE.parent / "bench" / "soak.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["soak"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HERE / "engine"))
    return importlib.import_module("engine_fakes")


def test_an_episode_passes_and_a_wrong_token_does_not(soak: ModuleType, fakes: ModuleType) -> None:
    engine: Engine = fakes.fake_engine(num_pages=8, max_step_tokens=64, max_sequences=24)
    alone: Engine = fakes.fake_engine(num_pages=64, prefix_cache=False)
    requests = soak.make_requests(Random(1), engine.artifact, 200)
    answers = soak.run_episode(engine, requests)
    assert engine.stats().preemptions > 0
    assert soak.check_answers(alone, requests, answers) == len(answers) > 40
    finished = next(r.ids[0] for r in requests if r.ids and r.cancel_step is None)
    answers[finished].tokens[-1] ^= 1
    with pytest.raises(soak.LostError, match=f"answer {finished}"):
        soak.check_answers(alone, requests, answers)


def test_a_lost_page_is_noticed(soak: ModuleType, fakes: ModuleType) -> None:
    engine: Engine = fakes.fake_engine(num_pages=8)
    page = engine._pool.take()
    with pytest.raises(AssertionError, match="page 0"):
        soak.run_episode(engine, soak.make_requests(Random(1), engine.artifact, 200))
    engine._pool.release([page])
