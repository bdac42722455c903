"""An OpenAI-compatible service over one or more engines. It needs no torch."""

from penjing.serve.app import create_app
from penjing.serve.artifacts import serve_models
from penjing.serve.auth import load_api_keys
from penjing.serve.run import run

__all__ = ["create_app", "load_api_keys", "run", "serve_models"]
