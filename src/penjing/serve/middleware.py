"""What happens around every request: an id, a limit on its size, and an answer even to our own bugs."""

from __future__ import annotations

import logging
import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penjing.serve.http_errors import ApiError, internal

logger = logging.getLogger("penjing.serve")

USABLE_REQUEST_ID = re.compile(r"[!-~]{1,128}")


class RequestIdMiddleware:
    """Sends the caller's X-Request-Id back, or one of our own; answers 500 to whatever nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if USABLE_REQUEST_ID.fullmatch(given) else f"req-{uuid4().hex}"
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            if has_started:
                raise  # the status line is out: all that is left is to break the connection
            await internal().response()(scope, receive, send_with_id)


class BodyLimitMiddleware:
    """Refuses bodies over `max_bytes` with 413, announced or not, before they are held in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            await self._refusal().response()(scope, receive, send)
            return
        received_bytes = 0

        async def receive_limited() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self.max_bytes:
                raise self._refusal()
            return message

        await self.app(scope, receive_limited, send)

    def _refusal(self) -> ApiError:
        return ApiError(413, f"the body exceeds {self.max_bytes} bytes", code="body_too_large")
