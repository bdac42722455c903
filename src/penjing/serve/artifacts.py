"""Serving artifacts by their paths: what `penjing serve` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fastapi import FastAPI

from penjing.engine import Engine
from penjing.serve.app import create_app
from penjing.serve.auth import load_api_keys
from penjing.serve.run import run


def serve_models(
    locate: Callable[[], Mapping[str, str | Path]],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: str | Path | None = None,
    grace_seconds: float = 30.0,
    threads: int | None = None,
) -> None:
    """Serve artifacts under the names that `locate` gives them, until a signal ends it.

    Keys and port are settled before `locate` is called, which may take its time to make an artifact first.
    threads: of each engine. Raises what `load_api_keys`, `run`, `locate` and `Engine` raise.
    """
    keys = frozenset() if api_key_file is None else load_api_keys(api_key_file)

    def load() -> FastAPI:
        engines = {name: Engine(path, threads=threads) for name, path in locate().items()}
        return create_app(engines, api_keys=keys)

    run(load, host, port, grace_seconds=grace_seconds)
