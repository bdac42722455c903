"""API keys. Everything needs one except /health: a route added later is protected without anyone's help."""

from __future__ import annotations

import hmac
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from penjing.errors import SpecError
from penjing.serve.http_errors import ApiError

OPEN_PATHS = frozenset({"/health"})


def load_api_keys(path: str | Path) -> frozenset[str]:
    """Read keys, one a line; empty lines and lines that start with # do not count.

    Raises SpecError if the file cannot be read, has a key with blanks in it, or has no key at all: a service
    that was meant to be closed must not be open because of an empty file.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"API keys {path}: cannot be read ({error})") from None
    keys = set()
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise SpecError(f"API keys {path}, line {number}: a key is printable ASCII without blanks")
        keys.add(key)
    if not keys:
        raise SpecError(f"API keys {path}: no keys in it; put one on each line")
    return frozenset(keys)


def is_known_key(presented: bytes, keys: frozenset[str]) -> bool:
    """Compare with every key, each in constant time, so that timing tells nothing of any of them."""
    matches = [hmac.compare_digest(presented, key.encode()) for key in keys]
    return any(matches)


class ApiKeyMiddleware:
    """Answers 401 unless `Authorization: Bearer KEY` names a known key. Without keys every request passes."""

    def __init__(self, app: ASGIApp, keys: frozenset[str]) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = not self.keys or scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS
        if is_open or self._is_authorized(scope):
            await self.app(scope, receive, send)
            return
        refusal = ApiError(
            401,
            "missing or unknown API key: send Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refusal.response()(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and is_known_key(key.strip().encode("latin-1"), self.keys)
