"""Serving artifacts by their paths: what `penjing serve` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI

from penjing.engine import Engine
from penjing.errors import SpecError
from penjing.serve.app import create_app
from penjing.serve.auth import load_api_keys
from penjing.serve.run import run
from penjing.spec import Tier


def serve_artifacts(
    paths: Sequence[str | Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    api_key_file: str | Path | None = None,
    tier: Tier | None = None,
    threads: int | None = None,
    grace_seconds: float = 30.0,
) -> None:
    """Serve every artifact under its directory's name, until a signal ends it.

    Keys and port are settled before an artifact is read. tier: the default of each; threads: of each.
    Raises SpecError (two directories of one name, unusable keys), PortInUseError, and what Engine raises.
    """
    keys = load_api_keys(api_key_file) if api_key_file is not None else frozenset()
    by_name = {Path(path).resolve().name: path for path in paths}
    if len(by_name) < len(paths):
        raise SpecError("two artifacts have the same directory name, and models are called by it: rename one")

    def load() -> FastAPI:
        engines = {name: Engine(path, tier=tier, threads=threads) for name, path in by_name.items()}
        return create_app(engines, api_keys=keys)

    run(load, host, port, grace_seconds=grace_seconds)
