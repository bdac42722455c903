"""A server in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx
from openai import OpenAI

from penjing.engine import Engine
from penjing.serve import create_app
from penjing.serve.run import DrainingServer, listen


class RunningServer:
    """The application behind a real socket, in a thread; a context manager."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        api_keys: frozenset[str] = frozenset(),
        grace_seconds: float = 10.0,
        **options: int,
    ) -> None:
        self.engines = engines
        self.listener = listen("127.0.0.1", 0)
        app = create_app(engines, api_keys=api_keys, **options)
        self.server = DrainingServer(app, self.listener, grace_seconds=grace_seconds)
        self.service = self.server.service
        self.url = self.server.url
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))

    def __enter__(self) -> Self:
        self.thread.start()
        wait_until(lambda: self.server.started)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive(), "the server does not end"

    def client(self, api_key: str = "none", **options: Any) -> OpenAI:
        """The official client. It does not retry, so that a test sees the first answer."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, **options)

    def http(self, **options: Any) -> httpx.Client:
        """A plain client."""
        return httpx.Client(base_url=self.url, timeout=30, **options)


def wait_until(holds: Callable[[], bool], timeout_seconds: float = 20.0) -> None:
    """Wait for a condition that another thread makes true."""
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
