"""A minimal client of OpenAI-style servers: one request, its events as they come. Standard library only."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

from penjing.errors import EndpointError, SpecError

TIMEOUT_SECONDS = 600  # without a byte
DATA = b"data:"


class Server:
    """Where an API lives, and the key to it. Raises SpecError for what is no http(s) address."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(f"{url!r} is no address of a server: give one like http://127.0.0.1:8000/v1")
        self.url = url.rstrip("/")
        self.host, self.port, self.base = parts.hostname, parts.port, parts.path.rstrip("/")
        self.connection = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self.headers = {"Content-Type": "application/json"}
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"

    def models(self) -> list[str]:
        """The ids it answers to. Raises EndpointError."""
        with self.exchange("GET", "/models") as answer:
            body = parsed(answer.read())
        try:
            return [str(entry["id"]) for entry in body["data"]]  # type: ignore[index]
        except (LookupError, TypeError):
            raise EndpointError(
                f"{self.url}/models: is no list of models; say which one with --model"
            ) from None

    def stream(self, payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed completion, as they come. Raises EndpointError."""
        with self.exchange("POST", "/completions", json.dumps(payload).encode()) as answer:
            for line in answer:
                text = line.removeprefix(DATA).strip()
                if not line.startswith(DATA) or text == b"[DONE]":
                    continue
                event = parsed(text)
                if not isinstance(event, dict) or "error" in event:
                    raise EndpointError(f"{self.url}: {message_of(event)}")
                yield event

    @contextmanager
    def exchange(
        self, method: str, path: str, body: bytes | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request; the answer, of which nothing but the head has been read.

        Raises EndpointError, also if reading breaks off; RefusedError if the request itself is at fault.
        """
        connection = self.connection(self.host, self.port, timeout=TIMEOUT_SECONDS)
        with closing(connection):
            try:
                connection.request(method, self.base + path, body, {**self.headers, "Connection": "close"})
                with connection.getresponse() as answer:
                    if answer.status != 200:
                        reason = message_of(parsed(answer.read()))
                        error_type = RefusedError if answer.status in (400, 422) else EndpointError
                        raise error_type(f"{self.url}{path}: answers {answer.status} ({reason})")
                    yield answer
            except (OSError, http.client.HTTPException) as error:
                raise EndpointError(f"{self.url}: cannot be reached, or broke off ({error})") from None


class RefusedError(EndpointError):
    """The server is there, and does not take this request."""


def parsed(body: bytes) -> object:
    """JSON if it is JSON, else text."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def message_of(body: object) -> str:
    """The message inside an error of OpenAI's shape, or the beginning of whatever it is."""
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:200]
