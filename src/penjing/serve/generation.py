"""One request's answers, on the event loop's side: admission, events as they come, and an end in any case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from penjing.engine.outputs import Event
from penjing.serve.http_errors import from_engine, internal
from penjing.serve.worker import Admitted, Answered, EngineWorker, Failed, Job, Prompt, Update
from penjing.spec import Tier


class Generation:
    """An asynchronous iterator over the events of every answer.

    Used as `async with`: however the block is left (finished, failed, client gone, task cancelled), what has
    not ended is cancelled and its pages are freed. While it is open, a client that disconnects ends the
    iteration with ClientDisconnect, in the middle of a stream or of a long silent computation alike.
    """

    def __init__(
        self, worker: EngineWorker, prompts: Sequence[Prompt], tier: Tier | None, prompt_param: str
    ) -> None:
        self.num_prompt_tokens = sum(len(prompt.tokens) for prompt in prompts)
        self.num_completion_tokens = self.num_cached_tokens = 0
        self._num_open = sum(len(prompt.samplings) for prompt in prompts)
        self._prompt_param = prompt_param
        self._worker = worker
        self._updates: asyncio.Queue[Update] = asyncio.Queue()
        self._job = Job(prompts, tier, self._updates.put_nowait)
        self._watcher: asyncio.Task[None] | None = None

    async def admit(self) -> None:
        """Hand the prompts over. Raises ApiError if the engine refuses them."""
        self._worker.submit(self._job)
        try:
            update = await self._updates.get()
        except asyncio.CancelledError:
            self._worker.cancel(self._job)
            raise
        if isinstance(update, Failed):
            self._raise(update)
        assert isinstance(update, Admitted)

    def watch(self, receive: Receive) -> Self:
        """End the iteration when the client disconnects. The request's body must have been read."""
        self._watcher = asyncio.create_task(self._await_disconnect(receive))
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._num_open:
            self._worker.cancel(self._job)
        if self._watcher is not None:
            self._watcher.cancel()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        while self._num_open:
            update = await self._updates.get()
            if isinstance(update, Failed):
                self._raise(update)
            assert isinstance(update, Answered)
            if update.event.finish_reason == "error":
                raise internal("the model produced NaN or Inf for this request")
            self.num_completion_tokens += update.event.token is not None
            self.num_cached_tokens += update.event.prefix_hit_tokens
            if update.event.finish_reason is not None:
                self._num_open -= 1
            yield update.index, update.event

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens so far, in OpenAI's shape. A prompt counts once, however many answers it gets."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_completion_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }

    async def _await_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._updates.put_nowait(Failed(ClientDisconnect()))

    def _raise(self, update: Failed) -> None:
        if isinstance(update.error, ClientDisconnect):
            raise update.error
        raise from_engine(update.error, self._prompt_param, update.is_permanent) from None
