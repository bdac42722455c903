"""Models, health, and what a service refuses to begin with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from openai import OpenAI
from serve_fakes import FakeRunner
from serve_running import RunningServer

from penjing.engine import Engine
from penjing.errors import SpecError
from penjing.serve import create_app

MakeEngine = Callable[..., tuple[Engine, FakeRunner]]


def test_models_and_their_tiers(client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert list(models) == ["bonsai", "tray", "tray:fast", "tray:best"]
    fast = client.models.retrieve("tray:fast")
    assert fast == models["tray:fast"]
    assert (fast.object, fast.owned_by) == ("model", "penjing")
    assert fast.root == "tray"  # type: ignore[attr-defined]
    assert fast.max_model_len == 512  # type: ignore[attr-defined]


def test_two_models_answer_each_for_itself(server: RunningServer, client: OpenAI) -> None:
    before = {name: engine.stats().generated_tokens for name, engine in server.engines.items()}
    client.completions.create(model="tray", prompt="x", max_tokens=3)
    after = {name: engine.stats().generated_tokens for name, engine in server.engines.items()}
    assert after == {"bonsai": before["bonsai"], "tray": before["tray"] + 3}


def test_names_with_slashes(make_engine: MakeEngine) -> None:
    with RunningServer({"org/tree": make_engine()[0]}) as server, server.client() as client:
        assert client.models.retrieve("org/tree").id == "org/tree"
        assert client.completions.create(model="org/tree", prompt="x", max_tokens=1).model == "org/tree"


def test_health(server: RunningServer) -> None:
    with server.http() as http:
        answer = http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_no_engines_and_twice_the_same_id(make_engine: MakeEngine) -> None:
    with pytest.raises(SpecError, match="nothing to serve"):
        create_app({})
    layered, _ = make_engine(tiers=("fast", "best"))
    plain, _ = make_engine()
    with pytest.raises(SpecError, match="a:fast"):
        create_app({"a": layered, "a:fast": plain})
