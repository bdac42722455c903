"""Keys, and ids of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from serve_fakes import FakeRunner
from serve_running import RunningServer

from penjing.engine import Engine
from penjing.errors import SpecError
from penjing.serve import load_api_keys


@pytest.fixture
def closed(make_engine: Callable[..., tuple[Engine, FakeRunner]]) -> Iterator[RunningServer]:
    with RunningServer({"bonsai": make_engine()[0]}, frozenset({"moss", "stone"})) as running:
        yield running


def test_either_key_opens(closed: RunningServer) -> None:
    for key in ("moss", "stone"):
        with closed.client(key) as client:
            assert client.completions.create(model="bonsai", prompt="x", max_tokens=1).choices


def test_a_wrong_key_is_an_authentication_error(closed: RunningServer) -> None:
    with closed.client("mos") as client, pytest.raises(openai.AuthenticationError) as refused:
        client.models.list()
    assert refused.value.code == "invalid_api_key"
    assert refused.value.response.headers["www-authenticate"] == "Bearer"
    assert refused.value.request_id


def test_everything_but_health_is_closed(closed: RunningServer) -> None:
    with closed.http() as http:
        assert http.get("/health").status_code == 200
        for path in ("/v1/models", "/v1/models/bonsai", "/metrics", "/", "/docs", "/health/", "//v1/models"):
            answer = http.get(path)
            assert answer.status_code == 401, path
            assert answer.json()["error"]["code"] == "invalid_api_key"
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/tokenize"):
            assert http.post(path, json={}).status_code == 401, path
        for header in ("moss", "Basic moss", "Bearer", "Bearer moss stone", "Bearer m\xf6ss"):
            headers = {"Authorization": header.encode("latin-1")}
            assert http.get("/metrics", headers=headers).status_code == 401, header  # type: ignore[arg-type]
        assert http.get("/metrics", headers={"Authorization": "bearer moss"}).status_code == 200


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n\n  moss \nstone\n# moss\nmoss\n")
    assert load_api_keys(path) == {"moss", "stone"}


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"two words\n", b"m\xc3\xb6ss\n", b"\xff\n"])
def test_unusable_key_files_do_not_open_the_service(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(SpecError, match="keys") as refused:
        load_api_keys(path)
    assert "two words" not in str(refused.value), "keys do not belong into messages"


def test_a_missing_key_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_api_keys(tmp_path / "none")


def test_request_ids(server: RunningServer) -> None:
    with server.http() as http:
        assert http.get("/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
        made = {http.get("/health").headers["x-request-id"] for _ in range(3)}
        assert len(made) == 3
        for unusable in ("", "a b", "x" * 129):
            answer = http.get("/health", headers={"X-Request-Id": unusable})
            assert answer.headers["x-request-id"].startswith("req-")
        stream = {"model": "bonsai", "prompt": "x", "max_tokens": 1, "stream": True}
        answer = http.post("/v1/completions", json=stream, headers={"X-Request-Id": "mine"})
        assert answer.headers["x-request-id"] == "mine"
