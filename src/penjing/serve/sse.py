"""Server-sent events: one `data:` line of JSON each, and `data: [DONE]` at the end, also after an error."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from penjing.serve.generation import Generation
from penjing.serve.http_errors import ApiError

Chunk = Mapping[str, Any]


class EventStream(StreamingResponse):
    """Sends `chunks` while `generation` runs, and ends both as soon as the client leaves.

    Starlette notices that at the next write, or at once, depending on the server's version of ASGI; an
    answer that waits in line writes nothing, so this class does not leave it to chance.
    """

    def __init__(self, generation: Generation, chunks: AsyncIterator[Chunk]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(encode_all(chunks), headers=headers, media_type="text/event-stream")
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async with self._generation.watch(receive):
            with suppress(ClientDisconnect, OSError):
                await self.stream_response(send)


async def encode_all(chunks: AsyncIterator[Chunk]) -> AsyncIterator[bytes]:
    """The bytes of a whole stream. An error after the start becomes its last event but one."""
    try:
        async for chunk in chunks:
            yield encode(chunk)
    except ApiError as error:
        yield encode(error.body)
    yield b"data: [DONE]\n\n"


def encode(payload: Chunk) -> bytes:
    """One event."""
    return f"data: {json.dumps(payload, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
