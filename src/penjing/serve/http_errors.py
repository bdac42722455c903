"""Errors as OpenAI shapes them: `{"error": {"message", "type", "param", "code"}}`, whatever went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from penjing.errors import CapacityError, InputError, PenjingError, PromptTooLongError

INVALID_REQUEST = "invalid_request_error"


class ApiError(Exception):
    """An answer other than 200. `param` names the field at fault, `code` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.error = {
            "message": printable(message),
            "type": type,
            "param": None if param is None else printable(param),
            "code": code,
        }

    @property
    def body(self) -> dict[str, Any]:
        """What is sent, as JSON or as a server-sent event."""
        return {"error": self.error}

    def response(self) -> JSONResponse:
        """The same as an HTTP response."""
        return JSONResponse(self.body, self.status, self.headers)


def printable(text: str) -> str:
    """The text with half surrogate pairs escaped: JSON lets them in, and UTF-8 does not let them out."""
    return text.encode("utf-8", "backslashreplace").decode()


def unsupported(name: str) -> ApiError:
    """400: a field that OpenAI knows, and this service does not act on."""
    return ApiError(400, f"{name} is not supported by this service", param=name, code="unsupported_parameter")


def context_too_long(message: str, param: str) -> ApiError:
    """400: prompt and completion together exceed the context."""
    return ApiError(400, message, param=param, code="context_length_exceeded")


def overloaded(message: str) -> ApiError:
    """429: the queue is full; clients retry after a second."""
    return ApiError(429, message, type="overloaded_error", code="queue_full", headers={"Retry-After": "1"})


def shutting_down() -> ApiError:
    """503: the service drains, and takes no new work."""
    message = "the service is shutting down"
    return ApiError(
        503, message, type="service_unavailable_error", code="shutting_down", headers={"Retry-After": "5"}
    )


def internal(message: str = "internal error; the server's log has the details") -> ApiError:
    """500, without details of the inside."""
    return ApiError(500, message, type="server_error", code="internal_error")


def from_engine(error: Exception, prompt_param: str, is_permanent: bool = False) -> ApiError:
    """What the engine refused, as the client should see it; what is not the client's doing is a 500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLongError):
        return context_too_long(str(error), prompt_param)
    if isinstance(error, CapacityError):
        return ApiError(400, str(error), code="request_too_large") if is_permanent else overloaded(str(error))
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    if isinstance(error, PenjingError):
        return internal(str(error))
    return internal()


def from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first complaint of pydantic; the place is the field's path inside the body."""
    error = errors[0]
    place = ".".join(str(part) for part in error["loc"] if part != "body") or None
    match error["type"]:
        case "extra_forbidden":
            return ApiError(400, f"unknown field: {place}", param=place, code="unknown_parameter")
        case "missing" if place is None:
            return ApiError(400, "the request has no JSON body; is Content-Type: application/json set?")
        case "missing":
            return ApiError(400, f"missing field: {place}", param=place, code="missing_required_parameter")
        case "json_invalid":
            return ApiError(400, "the body is not valid JSON", code="invalid_json")
        case _:
            message = f"{place or 'body'}: {str(error['msg']).removeprefix('Value error, ')}"
            return ApiError(400, message, param=place, code="invalid_value")


def install_error_handlers(app: FastAPI) -> None:
    """Give every failure of `app` the one shape, unknown routes and our own bugs included."""

    def on_api_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    def on_validation_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return from_validation(error.errors()).response()

    def on_http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, ApiError):  # FastAPI wraps what is raised while it reads a body
            return error.__cause__.response()
        message = {
            404: f"unknown URL: {request.method} {request.url.path}",
            405: f"method {request.method} is not allowed on {request.url.path}",
        }.get(error.status_code, str(error.detail))
        code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
        return ApiError(error.status_code, message, code=code, headers=error.headers).response()

    def on_penjing_error(_request: Request, error: Exception) -> JSONResponse:
        return from_engine(error, "prompt").response()

    def on_disconnect(_request: Request, _error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it: the client is gone

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(PenjingError, on_penjing_error)
