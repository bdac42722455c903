"""The process around the service: its port, its signals, its end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from fastapi import FastAPI
from openai import OpenAI
from serve_running import wait_until

from penjing.errors import PortInUseError, SpecError
from penjing.serve import run, serve_models
from penjing.serve.run import listen, url_of

FAKE_SERVICE = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from serve_fakes import fake_engine
from penjing.serve import create_app, run
load = lambda: create_app({{"m": fake_engine(Path({directory!r}), step_seconds=0.02)[0]}})
run(load, "127.0.0.1", 0, grace_seconds={grace_seconds})
"""


@contextmanager
def process_of(code: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process that serves, and its URL once it says so."""
    command = [sys.executable, "-W", "error", "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://\S+", line)
        assert address, process.communicate(timeout=10)
        yield process, address[0]
    finally:
        process.kill()
        process.communicate()


def fake_service(directory: Path, grace_seconds: float) -> str:
    here = str(Path(__file__).parent)
    return FAKE_SERVICE.format(here=here, directory=str(directory), grace_seconds=grace_seconds)


def client_of(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_sigterm_finishes_what_runs_and_refuses_the_rest(tokenizer_directory: Path) -> None:
    with process_of(fake_service(tokenizer_directory, 30)) as (process, url), client_of(url) as client:
        stream = client.completions.create(model="m", prompt="x", max_tokens=100, stream=True)
        chunks = [next(iter(stream))]
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/health").status_code == 503)
        assert httpx.get(f"{url}/health").json() == {"status": "draining"}
        with pytest.raises(openai.InternalServerError) as refused:
            client.completions.create(model="m", prompt="y")
        assert refused.value.status_code == 503
        assert refused.value.code == "shutting_down"
        assert refused.value.response.headers["retry-after"]
        chunks += stream
        assert chunks[-1].choices[0].finish_reason == "length"
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_services_end_at_once(tokenizer_directory: Path, number: signal.Signals) -> None:
    with process_of(fake_service(tokenizer_directory, 30)) as (process, url), httpx.Client() as http:
        assert http.get(f"{url}/health").status_code == 200  # and keeps its connection open
        started_seconds = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert time.monotonic() - started_seconds < 3


@pytest.mark.parametrize(("grace_seconds", "num_signals"), [(0.3, 1), (60, 2)])
def test_what_is_not_finished_in_time_ends_with_an_error(
    tokenizer_directory: Path, grace_seconds: float, num_signals: int
) -> None:
    service = fake_service(tokenizer_directory, grace_seconds)
    with process_of(service) as (process, url), client_of(url) as client:
        stream = client.completions.create(model="m", prompt="x", max_tokens=500, stream=True)
        next(iter(stream))
        for _ in range(num_signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert process.wait(10) == 0


def test_a_port_in_use_is_known_before_anything_is_loaded() -> None:
    def load() -> FastAPI:
        raise AssertionError("loaded in vain")

    with listen("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"127.0.0.1:{port}") as refused:
            run(load, "127.0.0.1", port)
        assert "\n" not in str(refused.value)
        with pytest.raises(PortInUseError):
            serve_models(dict, host="127.0.0.1", port=port)


@pytest.mark.parametrize(("host", "port"), [("host.invalid", 80), ("192.0.2.1", 0)])
def test_addresses_that_cannot_be(host: str, port: int) -> None:
    with pytest.raises(PortInUseError, match=host):
        listen(host, port)


def test_numbers_that_are_no_port() -> None:
    for port in (-1, 65536):
        with pytest.raises(SpecError, match=str(port)):
            listen("127.0.0.1", port)


def test_urls() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url_of(listener))
        with socket.create_connection(listener.getsockname()):
            pass
    if socket.has_ipv6:
        with listen("::1", 0) as listener:
            assert url_of(listener).startswith("http://[::1]:")


def test_unusable_keys_are_known_before_anything_else(tmp_path: Path) -> None:
    def locate() -> dict[str, str | Path]:
        raise AssertionError("loaded in vain")

    with pytest.raises(SpecError, match="cannot be read"):
        serve_models(locate, port=0, api_key_file=tmp_path / "none")
