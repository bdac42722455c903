"""Server-sent events: one `data:` line of JSON each, and `data: [DONE]` at the end, also after an error.

This runs for every token, beside the engine on the same processors: for each answer one waking, one rendering
and one write for all that came since the last, and what its chunks repeat is rendered once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from json import JSONEncoder
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from penjing.engine.outputs import Event
from penjing.serve.answering import Reply
from penjing.serve.http_errors import ApiError

to_json = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
Choice = Mapping[str, Any]
ChoiceOf = Callable[[int, Event], Choice]


class EventStream(StreamingResponse):
    """Streams a reply: `opening` at once, then a chunk with `choice_of(index, event)` for events worth one.

    include_usage: every chunk has a usage field, and the last one a usage and no choices. every_event: send
    chunks for tokens without a text, too. While a client is slow to read, its tokens gather in the generation
    and leave together. Client and generation end each other, though an answer that waits in line writes
    nothing that could fail: Starlette leaves that to the server's version of ASGI.
    """

    def __init__(
        self,
        reply: Reply,
        choice_of: ChoiceOf,
        *,
        opening: Iterable[Choice] = (),
        include_usage: bool = False,
        every_event: bool = False,
    ) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._events(), headers=headers, media_type="text/event-stream")
        self._reply = reply
        self._choice_of = choice_of
        self._opening = opening
        self._include_usage = include_usage
        self._every_event = every_event
        frame = to_json(reply.body([], usage=None) if include_usage else reply.body([]))
        self._before, _, self._after = event_of(frame).rpartition("[]")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async with self._reply.generation.watch(receive):
            with suppress(ClientDisconnect, OSError):
                await self.stream_response(send)

    async def _events(self) -> AsyncIterator[str]:
        """The body, one write each. An error after the start becomes the last event but one."""
        generation = self._reply.generation
        if opening := self._chunks(self._opening):
            yield opening
        try:
            while answered := await generation.receive():
                worth_one = [
                    self._choice_of(index, event)
                    for index, event in answered
                    if event.text or event.finish_reason or self._every_event
                ]
                if worth_one:
                    yield self._chunks(worth_one)
            if self._include_usage:
                yield event_of(to_json(self._reply.body([], usage=generation.usage)))
        except ApiError as error:
            yield event_of(to_json(error.body))
        yield event_of("[DONE]")

    def _chunks(self, choices: Iterable[Choice]) -> str:
        return "".join([f"{self._before}[{to_json(choice)}]{self._after}" for choice in choices])


def event_of(data: str) -> str:
    """One event."""
    return f"data: {data}\n\n"
