"""Serving artifacts by their paths: what `penjing serve` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fastapi import FastAPI

from penjing.engine import MAX_STRETCH, Engine
from penjing.serve.app import create_app
from penjing.serve.auth import load_api_keys
from penjing.serve.run import run


def serve_models(
    models: Mapping[str, str | Path] | Callable[[], Mapping[str, str | Path]],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: str | Path | None = None,
    grace_seconds: float = 30.0,
    threads: int | None = None,
    max_stretch: float = MAX_STRETCH,
) -> None:
    """Serve artifacts by name, until a signal ends it.

    models: name -> artifact directory, or a function that gives these; it is called when keys and port are
    settled, and may take its time to make an artifact first. threads, max_stretch: of each engine. Raises
    what `load_api_keys`, `run`, `models` and `Engine` raise.
    """
    keys = frozenset() if api_key_file is None else load_api_keys(api_key_file)

    def load() -> FastAPI:
        paths = models() if callable(models) else models
        engines = {
            name: Engine(path, threads=threads, max_stretch=max_stretch) for name, path in paths.items()
        }
        return create_app(engines, api_keys=keys)

    run(load, host, port, grace_seconds=grace_seconds)
