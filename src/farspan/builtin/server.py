"""The built-in engine behind the OpenAI API."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from farspan import __version__
from farspan.builtin.answers import AnswerShape, error_body
from farspan.builtin.engine import InferenceEngine
from farspan.builtin.engine_metrics import EngineMetrics
from farspan.builtin.protocol import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    DetokenizeRequest,
    Sampling,
    TokenizeRequest,
    token_ids,
)
from farspan.builtin.runner import (
    EngineRunner,
    EngineStoppedError,
    RequestFailedError,
    RequestNoRoomError,
)
from farspan.builtin.server_tokenizer import ChatTokenizer, StreamDecoder
from farspan.errors import FarspanError, InputError

_LOG = logging.getLogger(__name__)
Body = TypeVar("Body", bound=BaseModel)


class TextPiece:
    """What the text of an answer gained with one token."""

    __slots__ = ("cached_tokens", "finish_reason", "text", "tokens")

    def __init__(self, text: str, tokens: int, finish_reason: str | None, cached_tokens: int) -> None:
        self.text = text
        self.tokens = tokens
        self.finish_reason = finish_reason
        self.cached_tokens = cached_tokens


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes need."""

    engine: InferenceEngine
    runner: EngineRunner
    metrics: EngineMetrics
    tokenizer: ChatTokenizer
    model_name: str

    async def answer(
        self, prompt: NDArray[np.int32], body: Sampling, max_tokens: int
    ) -> AsyncIterator[TextPiece]:
        """Yield the answer's text token by token; it ends at a stop string, which is not part of it."""
        decoder = StreamDecoder(self.tokenizer)
        stops = body.stop_strings
        held, tokens = "", 0
        async with aclosing(
            self.runner.generate(prompt, body.params(max_tokens), body.namespace)
        ) as generated:  # type: ignore[type-var]
            async for item in generated:
                tokens += 1
                held += decoder.push(item.token_id)
                if item.finish_reason is not None:
                    held += decoder.finish()
                cut = min((at for stop in stops if (at := held.find(stop)) >= 0), default=None)
                if cut is not None:
                    yield TextPiece(held[:cut], tokens, "stop", item.cached_tokens)
                    return
                # The tail that may yet become a stop string waits for the next token.
                keep = 0 if item.finish_reason is not None else _possible_stop(held, stops)
                text, held = held[: len(held) - keep], held[len(held) - keep :]
                yield TextPiece(text, tokens, item.finish_reason, item.cached_tokens)


def create_app(
    engine: InferenceEngine, tokenizer: ChatTokenizer, model_name: str, api_key: str | None = None
) -> FastAPI:
    """Return the server as an ASGI application; the engine's thread lives as long as it."""
    metrics = EngineMetrics(model_name)
    service = Service(engine, EngineRunner(engine, metrics), metrics, tokenizer, model_name)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.runner.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.runner.stop)

    app = FastAPI(title="farspan built-in engine", version=__version__, lifespan=lifespan)
    app.add_exception_handler(FarspanError, _refused)
    app.add_exception_handler(Exception, _refused)
    _add_key_check(app, api_key)
    _add_state_routes(app, service)
    _add_token_routes(app, service)
    _add_generation_routes(app, service)
    return app


def _add_key_check(app: FastAPI, api_key: str | None) -> None:
    if not api_key:
        return
    expected = f"Bearer {api_key}".encode()

    @app.middleware("http")
    async def check(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("authorization", "").encode()
        if request.url.path != "/health" and not hmac.compare_digest(given, expected):
            return JSONResponse(error_body("the API key is missing or wrong", "unauthorized", 401), 401)
        return await call(request)


def _add_state_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if service.runner.alive else 503)

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__, "engine": "farspan-builtin"}

    # SGLang's path: who measures a server keeps with the result what it was started with.
    @app.get("/server_info")
    async def server_info() -> dict[str, Any]:
        return {"version": __version__, **service.engine.settings()}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/reset_prefix_cache")
    async def reset_prefix_cache() -> Response:
        service.runner.reset_prefix_cache()
        return Response(status_code=200)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {
            "id": service.model_name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "farspan",
            "root": str(service.engine.model.folder.resolve()),
            "max_model_len": service.engine.max_model_len,
        }
        return {"object": "list", "data": [model]}


def _add_token_routes(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = _parse(TokenizeRequest, _json(await request.body()))
        if (body.prompt is None) == (body.messages is None):
            raise InputError("send either prompt or messages")
        if body.messages is not None:
            ids = await asyncio.to_thread(service.tokenizer.encode_chat, _dump(body.messages))
        else:
            ids = await asyncio.to_thread(
                service.tokenizer.encode, body.prompt or "", add_special_tokens=body.add_special_tokens
            )
        limit = service.engine.max_model_len
        answer = {"count": len(ids), "max_model_len": limit, "tokens": ids}
        return Response(
            orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
        )

    @app.post("/detokenize")
    async def detokenize(request: Request) -> dict[str, str]:
        body = _parse(DetokenizeRequest, _json(await request.body()))
        ids = token_ids(body.tokens, service.engine.model.config.vocab_size)
        return {"prompt": service.tokenizer.decode(ids.tolist(), skip_special_tokens=False)}


def _add_generation_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        raw = _json(await request.body())
        prompt = raw.pop("prompt", None)
        body = _parse(CompletionRequest, raw)
        if isinstance(prompt, list):
            ids = token_ids(prompt, service.engine.model.config.vocab_size)
        elif isinstance(prompt, str):
            ids = await asyncio.to_thread(
                service.tokenizer.encode, prompt, add_special_tokens=body.add_special_tokens
            )
        else:
            raise InputError(
                "the prompt is neither a text nor a list of token ids", "send one prompt a request"
            )
        return await _respond(service, request, body, ids, body.max_tokens, chat=False)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = _parse(ChatCompletionRequest, _json(await request.body()))
        ids = await asyncio.to_thread(service.tokenizer.encode_chat, _dump(body.messages))
        limit = body.max_completion_tokens or body.max_tokens or service.engine.max_model_len - len(ids)
        return await _respond(service, request, body, ids, max(limit, 1), chat=True)


async def _respond(
    service: Service, request: Request, body: Sampling, ids: NDArray[np.int32], max_tokens: int, *, chat: bool
) -> Response:
    if body.model not in (None, service.model_name):
        message = f"this server has no model {body.model!r}; it serves {service.model_name!r}"
        return JSONResponse(error_body(message, "not_found", 404), 404)
    # Checked here, so that a stream that cannot start is a plain error and not a 200 that breaks off.
    body.params(max_tokens)
    service.engine.check(len(ids), max_tokens)
    shape = AnswerShape(chat, service.model_name, len(ids))
    pieces = service.answer(ids, body, max_tokens)
    if body.stream:
        options = body.stream_options
        events = _events(shape, pieces, usage=options is not None and options.include_usage)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
    whole = await _until_gone(request, _collect(shape, pieces))
    return Response(status_code=499) if whole is None else JSONResponse(whole)


async def _events(
    shape: AnswerShape, pieces: AsyncIterator[TextPiece], *, usage: bool
) -> AsyncIterator[bytes]:
    last: TextPiece | None = None
    try:
        async with aclosing(pieces) as items:  # type: ignore[type-var]
            async for item in items:
                yield _event(shape.piece(item.text, item.finish_reason, first=last is None))
                last = item
    except Exception as error:  # noqa: BLE001 the status is sent: what is left to say goes into the stream
        yield _event(_error(error)[0])
        return
    if usage and last is not None:
        yield _event(shape.usage_piece(shape.usage(last.tokens, last.cached_tokens)))
    yield b"data: [DONE]\n\n"


async def _collect(shape: AnswerShape, pieces: AsyncIterator[TextPiece]) -> dict[str, Any]:
    text = []
    last: TextPiece | None = None
    async with aclosing(pieces) as items:  # type: ignore[type-var]
        async for last in items:
            text.append(last.text)
    assert last is not None, "an answer has at least one token"
    usage = shape.usage(last.tokens, last.cached_tokens)
    return shape.whole("".join(text), last.finish_reason or "", usage)


async def _until_gone(request: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the result, or None, with the work cancelled, when the client goes away first."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=1.0)
            if not task.done() and await request.is_disconnected():
                return None
        return task.result()
    finally:
        task.cancel()


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _possible_stop(text: str, stops: tuple[str, ...]) -> int:
    """Return the length of the longest end of `text` that begins a stop string."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(stop.startswith(tail) for stop in stops):
            return length
    return 0


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError("the body is not a JSON object")
    return value


def _parse(kind: type[Body], raw: dict[str, Any]) -> Body:
    try:
        # null means "not given", as OpenAI's clients send it
        return kind.model_validate({name: value for name, value in raw.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"the built-in engine does not know the field {field!r}", "leave it out"
            ) from error
        raise InputError(f"{field}: {first['msg']}") from error


def _dump(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    return [message.model_dump() for message in messages]


async def _refused(_: Request, error: Exception) -> Response:
    body, status = _error(error)
    return JSONResponse(body, status)


def _error(error: Exception) -> tuple[dict[str, Any], int]:
    """Return OpenAI's error object and the status that goes with it."""
    if isinstance(error, RequestNoRoomError):
        return error_body(str(error), "server_error", 503), 503
    if isinstance(error, EngineStoppedError | RequestFailedError):
        return error_body(str(error), "internal_error", 500), 500
    if isinstance(error, FarspanError):
        return error_body(str(error), "invalid_request_error", 400), 400
    _LOG.error("a request failed", exc_info=error)
    return error_body(
        f"the server failed on this request ({type(error).__name__})", "internal_error", 500
    ), 500
