"""Routes that generate nothing: models, tokens, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool

from penjing.serve.prompts import encode_chat, encode_text
from penjing.serve.protocol import TokenizeRequest
from penjing.serve.service import Model, Service

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Every model id that requests may name."""
    service: Service = request.app.state.service
    models = [model_card(model, service.created) for model in service.models.values()]
    return {"object": "list", "data": models}


@router.get("/v1/models/{model_id:path}")
async def show_model(model_id: str, request: Request) -> dict[str, Any]:
    """One of them."""
    service: Service = request.app.state.service
    return model_card(service.find(model_id), service.created)


def model_card(model: Model, created: int) -> dict[str, Any]:
    """OpenAI's fields, and what a client needs to know of the artifact."""
    return {
        "id": model.id,
        "object": "model",
        "created": created,
        "owned_by": "penjing",
        "root": model.root,
        "tier": model.tier,
        "max_model_len": model.max_tokens,
        "artifact_hash": model.engine.artifact.hash,
    }


@router.post("/v1/tokenize")
async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
    """Tokens exactly as the generating routes would submit them."""
    service: Service = request.app.state.service
    model = service.find(body.model)
    if body.messages is not None:
        tokens = await run_in_threadpool(encode_chat, model, body.messages)
    else:
        tokens = await run_in_threadpool(encode_text, model, body.prompt or "", body.add_special_tokens)
    return {"tokens": tokens, "count": len(tokens), "max_model_len": model.max_tokens}


@router.get("/health")
async def health(request: Request) -> Response:
    """200 while requests are taken and every engine works, else 503 and the reason."""
    service: Service = request.app.state.service
    if service.failures:
        return JSONResponse({"status": "unhealthy", "failures": service.failures}, 503)
    if service.is_draining:
        return JSONResponse({"status": "draining"}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The Prometheus exposition format."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
