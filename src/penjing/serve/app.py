"""The application: routes, what surrounds them, and the engines' threads while it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from penjing.engine import Engine
from penjing.serve import chat, completions, inspection
from penjing.serve.auth import ApiKeyMiddleware
from penjing.serve.http_errors import install_error_handlers
from penjing.serve.middleware import BodyLimitMiddleware, RequestIdMiddleware
from penjing.serve.service import Service

MAX_BODY_BYTES = 16 * 2**20


def create_app(
    engines: Mapping[str, Engine],
    *,
    api_keys: frozenset[str] = frozenset(),
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """An OpenAI-compatible service over `engines`, by model name.

    From its start to its end (ASGI lifespan) every engine belongs to a thread of the service: nobody else may
    call it. api_keys: none leaves the service open; else everything but /health needs one of them.
    Raises SpecError if there is no engine, or if two models would have one id.
    """
    service = Service(engines)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(title="Penjing", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    install_error_handlers(app)
    for routes in (completions.router, chat.router, inspection.router):
        app.include_router(routes)
    app.add_middleware(BodyLimitMiddleware, max_bytes=max_body_bytes)
    app.add_middleware(ApiKeyMiddleware, keys=api_keys)
    app.add_middleware(RequestIdMiddleware)  # the outermost: refusals have an id too
    return app
