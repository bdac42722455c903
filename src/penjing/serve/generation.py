"""One request's answers, on the event loop's side: admission, events as they come, and an end in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from penjing.serve.http_errors import from_engine, internal
from penjing.serve.worker import Answered, EngineWorker, Failed, Job, Prompt, Update
from penjing.spec import Tier


class Generation:
    """Events of every answer, to be received until there are no more.

    Used as `async with`: however the block is left (finished, failed, client gone, task cancelled), what has
    not ended is cancelled and its pages are freed. While it is open, a client that disconnects ends it with
    ClientDisconnect, in the middle of a stream or of a long silent computation alike.
    """

    def __init__(
        self, worker: EngineWorker, prompts: Sequence[Prompt], tier: Tier | None, prompt_param: str
    ) -> None:
        self.num_prompt_tokens = sum(len(prompt.tokens) for prompt in prompts)
        self.num_completion_tokens = self.num_cached_tokens = 0
        self._num_open = sum(len(prompt.samplings) for prompt in prompts)
        self._prompt_param = prompt_param
        self._worker = worker
        self._answered: list[Answered] = []
        self._failure: Exception | None = None
        self._has_news = asyncio.Event()
        self._job = Job(prompts, tier, self._take_in)
        self._watcher: asyncio.Task[None] | None = None

    async def admit(self) -> None:
        """Hand the prompts over. Raises ApiError if the engine refuses them."""
        self._worker.submit(self._job)
        try:
            await self._has_news.wait()
        except asyncio.CancelledError:
            self._worker.cancel(self._job)
            raise
        if self._failure is not None:
            raise self._failure

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

    async def receive(self) -> list[Answered]:
        """What came since the last call, or comes next; nothing when all answers have ended.

        Raises ApiError if one of them cannot go on, ClientDisconnect if nobody listens any more.
        """
        while not self._answered and self._failure is None and self._num_open:
            self._has_news.clear()
            await self._has_news.wait()
        if not self._answered and self._failure is not None:
            raise self._failure
        answered, self._answered = self._answered, []
        return answered

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens so far, in OpenAI's shape. A prompt counts once, however many answers it gets."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_completion_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }

    def _take_in(self, updates: Sequence[Update]) -> None:
        """In order, up to the first failure."""
        for update in updates:
            if self._failure is None and isinstance(update, Answered):
                self._take_in_answer(update)
            elif self._failure is None and isinstance(update, Failed):
                self._failure = from_engine(update.error, self._prompt_param, update.is_permanent)
        self._has_news.set()

    def _take_in_answer(self, answered: Answered) -> None:
        event = answered.event
        if event.finish_reason == "error":
            self._failure = internal("the model produced NaN or Inf for this request")
            return
        self.num_completion_tokens += event.token is not None
        self.num_cached_tokens += event.prefix_hit_tokens
        self._num_open -= event.finish_reason is not None
        self._answered.append(answered)

    async def _await_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._failure is None:
            self._failure = ClientDisconnect()
        self._has_news.set()
