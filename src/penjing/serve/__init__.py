"""An OpenAI-compatible service over one or more engines. It needs no torch."""

from __future__ import annotations

from penjing.serve.app import create_app
from penjing.serve.artifacts import serve_models
from penjing.serve.auth import load_api_keys
from penjing.serve.run import run
from penjing.verbs import make_callable

__all__ = ["create_app", "load_api_keys", "run", "serve_models"]

make_callable(__name__, "penjing.serve.artifacts", "serve_models")
