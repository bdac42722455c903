"""The service behind the routes: which model ids there are, their engines at work, and whether it drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from penjing.engine import Engine
from penjing.engine.step import PAGE_TOKENS
from penjing.errors import SpecError
from penjing.serve.http_errors import ApiError, shutting_down
from penjing.serve.metrics import Metrics
from penjing.serve.token_text import TokenText
from penjing.serve.worker import EngineWorker
from penjing.spec import Tier


@dataclass(frozen=True)
class Model:
    """One addressable model: an engine, and the tier it runs at (None is the engine's own default)."""

    id: str
    root: str
    engine: Engine
    worker: EngineWorker
    tier: Tier | None

    @cached_property
    def token_text(self) -> TokenText:
        """Texts of single tokens, for logprobs."""
        return TokenText(self.engine.tokenizer)

    @property
    def max_tokens(self) -> int:
        """Most tokens of prompt and answer together: the context, or less if the KV pages hold less."""
        capacity = self.worker.snapshot().pages_total * PAGE_TOKENS
        return min(self.engine.config.max_positions, capacity)

    @property
    def fingerprint(self) -> str:
        """What an answer is a function of, besides the request: the artifact and the tier."""
        return f"penjing-{self.engine.artifact.hash[:16]}" + (f"-{self.tier}" if self.tier else "")


class Service:
    """Engines by name, each with its worker. A layered artifact NAME is also NAME:fast and NAME:best.

    Raises SpecError if no engine is given, or if two models would have one id.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        if not engines:
            raise SpecError("nothing to serve: give at least one engine")
        self.metrics = Metrics()
        self.created = int(time.time())
        self.is_draining = False
        self.models: dict[str, Model] = {}
        self._workers: dict[str, EngineWorker] = {}
        for name, engine in engines.items():
            worker = EngineWorker(name, engine, self.metrics.for_model(name))
            self._workers[name] = worker
            tiers = engine.artifact.tiers
            named_tiers: tuple[Tier | None, ...] = (None, *tiers) if len(tiers) > 1 else (None,)
            for tier in named_tiers:
                model_id = f"{name}:{tier}" if tier else name
                if model_id in self.models:
                    raise SpecError(f"two models would be called {model_id!r}: rename one")
                self.models[model_id] = Model(model_id, name, engine, worker, tier)
        self.metrics.watch({name: worker.snapshot for name, worker in self._workers.items()})

    def start(self) -> None:
        """Start every engine's thread; call it on the event loop that serves."""
        for worker in self._workers.values():
            worker.start(asyncio.get_running_loop())

    async def stop(self) -> None:
        """End what still runs with 503, and every thread after its current step."""
        self.is_draining = True
        for worker in self._workers.values():
            await asyncio.to_thread(worker.stop, shutting_down())

    def abort(self) -> None:
        """End what still runs with 503; called when the grace period of a drain is over."""
        for worker in self._workers.values():
            worker.abort(shutting_down())

    def find(self, model_id: str) -> Model:
        """The model of that id. Raises ApiError 404 if there is none."""
        model = self.models.get(model_id)
        if model is None:
            known = ", ".join(self.models)
            message = f"the model {model_id!r} does not exist; there are: {known}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return model

    def require_open(self) -> None:
        """Raise ApiError 503 while the service drains."""
        if self.is_draining:
            raise shutting_down()

    @property
    def failures(self) -> dict[str, str]:
        """Models whose engine failed, and the kind of failure."""
        return {
            name: type(worker.failure).__name__
            for name, worker in self._workers.items()
            if worker.failure is not None
        }
