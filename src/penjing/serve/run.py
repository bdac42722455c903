"""Running the application: the port first, then the models, and an end that loses no answer."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from penjing.errors import PortInUseError, SpecError
from penjing.serve.service import Service

logger = logging.getLogger("penjing.serve")

BACKLOG = 2048
CLOSING_SECONDS = 5  # for the last bytes, after the grace period has ended every answer


def run(
    app: FastAPI | Callable[[], FastAPI],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    grace_seconds: float = 30.0,
    log_level: str = "warning",
) -> None:
    """Serve until SIGTERM or SIGINT; returns when all is finished.

    app: an application of `create_app`, or a function that makes one. The function is called after the port
    is taken, so that a port in use is known before gigabytes are read. Port 0 takes a free one. The real
    address is printed when the service is ready.

    The first signal starts the drain: new requests and /health get 503, running ones finish; what is not
    finished after `grace_seconds` ends with an error. A second signal ends them at once.
    Raises PortInUseError if the address cannot be listened on, SpecError for a number that is no port.
    """
    listener = listen(host, port)
    try:
        application = app if isinstance(app, FastAPI) else app()
        server = DrainingServer(application, listener, grace_seconds=grace_seconds, log_level=log_level)
        server.run(sockets=[listener])
    finally:
        listener.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that holds the address from now on.

    Raises PortInUseError, which names address and reason, or SpecError for a number that is no port.
    """
    if not 0 <= port <= 65535:  # the system would silently take it modulo 65536
        raise SpecError(f"port {port}: must be between 0 (a free one) and 65535")
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        reason = error.strerror or str(error)
        advice = "choose another address, or port 0 for a free one"
        raise PortInUseError(f"cannot listen on {host}:{port}: {reason}; {advice}") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """The address that a listening socket really has."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class DrainingServer(uvicorn.Server):
    """uvicorn, but a signal first lets the running requests finish while others are told to go elsewhere."""

    def __init__(
        self, app: FastAPI, listener: socket.socket, *, grace_seconds: float, log_level: str = "warning"
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_level=log_level,
                backlog=BACKLOG,
                server_header=False,
                timeout_graceful_shutdown=CLOSING_SECONDS,
            )
        )
        self.service: Service = app.state.service
        self.url = url_of(listener)
        self.grace_seconds = grace_seconds
        self.drain_ends_seconds: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where we are once requests are answered."""
        await super().startup(sockets)
        models = ", ".join(self.service.models)
        print(f"serving {models} at {self.url} (API under /v1; Ctrl-C drains and stops)", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Start to drain; a second signal ends the wait. Signals count as handled: the exit code is 0."""
        now_seconds = time.monotonic()
        is_first = self.drain_ends_seconds is None
        self.drain_ends_seconds = now_seconds + (self.grace_seconds if is_first else 0)
        self.service.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether to end: when drained, or when the grace period is over."""
        if self.drain_ends_seconds is not None:
            is_overdue = time.monotonic() >= self.drain_ends_seconds
            if is_overdue and self.server_state.tasks:
                logger.warning("grace period over: ending %d requests", len(self.server_state.tasks))
                self.service.abort()
            self.should_exit = is_overdue or not self.server_state.tasks
        return await super().on_tick(counter)
