"""The built-in engine behind the OpenAI API."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from farspan import __version__
from farspan.builtin.answers import AnswerShape, error_body
from farspan.builtin.bodies import BodyReader, RefusedBodyError, body_limit
from farspan.builtin.budget_routes import add_budget_routes
from farspan.builtin.engine_channel import EngineStoppedError, RequestFailedError, RequestNoRoomError
from farspan.builtin.engine_client import EngineClient, TokenStream
from farspan.builtin.gate import AccessGate, AccessRules
from farspan.builtin.protocol import ChatFields, CompletionRequest, GenerationFields
from farspan.builtin.server_tokenizer import ChatTokenizer, StreamDecoder
from farspan.builtin.text_jobs import TextJob
from farspan.builtin.text_pool import ReadText, TextFailedError, TextPool
from farspan.errors import FarspanError
from farspan.kv.interface import KVCacheShrunkError

_LOG = logging.getLogger(__name__)
_OPEN = AccessRules()
_GONE = Response(status_code=499)  # nobody reads it
Result = TypeVar("Result")


class TextPiece(NamedTuple):
    """What the text of an answer gained with one token."""

    text: str
    tokens: int
    finish_reason: str | None
    cached_tokens: int
    token_id: int


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes need."""

    engine: EngineClient
    tokenizer: ChatTokenizer
    model_name: str
    bodies: BodyReader
    text: TextPool

    async def read(self, request: Request, job: TextJob) -> ReadText | None:
        """Receive and read a request's body; None when the client went away.

        Raises:
            RefusedBodyError: It is too large, or too slow.
            TextFailedError: It is not what the route takes.
        """
        async with self.bodies.read(request) as body:
            return await _until_gone(request.receive, self.text.run(job, body))

    async def answer(self, tokens: TokenStream, body: GenerationFields) -> AsyncIterator[TextPiece]:
        """Yield the answer's text token by token; it ends at a stop string, which is not part of it."""
        decoder = StreamDecoder(self.tokenizer)
        stops = body.stop_strings
        held, count = "", 0
        async for item in tokens:
            count += 1
            held += decoder.push(item.token_id)
            if item.finish_reason is not None:
                held += decoder.finish()
            cut = min((at for stop in stops if (at := held.find(stop)) >= 0), default=None)
            if cut is not None:
                yield TextPiece(held[:cut], count, "stop", item.cached_tokens, item.token_id)
                return
            # The tail that may yet become a stop string waits for the next token.
            keep = 0 if item.finish_reason is not None else _possible_stop(held, stops)
            text, held = held[: len(held) - keep], held[len(held) - keep :]
            yield TextPiece(text, count, item.finish_reason, item.cached_tokens, item.token_id)


def create_app(
    engine: EngineClient, tokenizer: ChatTokenizer, model_name: str, rules: AccessRules = _OPEN
) -> FastAPI:
    """Return the server as an ASGI application; the engine and the text processes live as long as it."""
    about = engine.description
    bodies = BodyReader(body_limit(about.max_model_len))
    text = TextPool(Path(about.folder), about.vocab_size, about.max_model_len, bodies.limit)
    service = Service(engine, tokenizer, model_name, bodies, text)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        text.start()
        try:
            yield
        finally:
            text.close()
            await engine.close()

    app = FastAPI(title="farspan built-in engine", version=__version__, lifespan=lifespan)
    app.add_middleware(AccessGate, rules=rules)
    app.add_exception_handler(FarspanError, _refused)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _refused)
    _add_state_routes(app, service, rules)
    add_budget_routes(app, None if about.budget_file is None else Path(about.budget_file))
    _add_token_routes(app, service)
    _add_generation_routes(app, service)
    return app


def _add_state_routes(app: FastAPI, service: Service, rules: AccessRules) -> None:
    about = service.engine.description

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if service.engine.alive else 503)

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__, "engine": "farspan-builtin"}

    # SGLang's path: who measures a server keeps with the result what it was started with.
    @app.get("/server_info")
    async def server_info() -> dict[str, Any]:
        hosts = None if rules.hosts is None else ",".join(sorted(rules.hosts))
        return {"version": __version__, **about.settings, "allowed_hosts": hosts}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await service.engine.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/reset_prefix_cache")
    async def reset_prefix_cache() -> Response:
        service.engine.reset_prefix_cache()
        return Response(status_code=200)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {
            "id": service.model_name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "farspan",
            "root": str(Path(about.folder).resolve()),
            "max_model_len": about.max_model_len,
        }
        return {"object": "list", "data": [model]}


def _add_token_routes(app: FastAPI, service: Service) -> None:
    async def answer(request: Request, job: TextJob) -> Response:
        text = await service.read(request, job)
        return _GONE if text is None else StreamingResponse(_each(text), media_type="application/json")

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        return await answer(request, TextJob.TOKENIZE)

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        return await answer(request, TextJob.DETOKENIZE)


def _add_generation_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        text = await service.read(request, TextJob.COMPLETION)
        if text is None:
            return _GONE
        body = CompletionRequest.model_validate(text.fields)
        return await _respond(service, request, body, text.token_ids(), body.max_tokens, chat=False)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        text = await service.read(request, TextJob.CHAT)
        if text is None:
            return _GONE
        body, ids = ChatFields.model_validate(text.fields), text.token_ids()
        limit = (
            body.max_completion_tokens
            or body.max_tokens
            or service.engine.description.max_model_len - len(ids)
        )
        return await _respond(service, request, body, ids, max(limit, 1), chat=True)


async def _each(text: ReadText) -> AsyncIterator[memoryview]:
    for piece in text.pieces():
        yield piece


async def _respond(
    service: Service,
    request: Request,
    body: GenerationFields,
    ids: NDArray[np.int32],
    max_tokens: int,
    *,
    chat: bool,
) -> Response:
    if body.model not in (None, service.model_name):
        message = f"this server has no model {body.model!r}; it serves {service.model_name!r}"
        return JSONResponse(error_body(message, "not_found", 404), 404)
    # Queued before anything is answered, so that a stream that cannot start is a plain error and not a 200 that
    # breaks off.
    queued = service.engine.generate(ids, body.params(max_tokens), body.namespace)
    tokens = await _until_gone(request.receive, queued)
    if tokens is None:
        return _GONE
    shape = AnswerShape(chat, service.model_name, len(ids))
    pieces = service.answer(tokens, body)
    if body.stream:
        options = body.stream_options
        with_usage = options is not None and options.include_usage
        events = _events(shape, pieces, usage=with_usage, token_ids=body.return_token_ids)
        return EventStream(events, tokens)
    with closing(tokens):
        collected = _collect(shape, pieces, token_ids=body.return_token_ids)
        whole = await _until_gone(request.receive, collected)
    return _GONE if whole is None else JSONResponse(whole)


class EventStream(StreamingResponse):
    """Server-sent events, made no longer than the client is there."""

    def __init__(self, events: AsyncIterator[bytes], tokens: TokenStream) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._events = events
        self._tokens = tokens

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the events; leave off, and end what makes them, when the client goes away."""
        with closing(self._tokens):
            async with aclosing(self._events):  # type: ignore[type-var]
                await _until_gone(receive, self.stream_response(send))


async def _events(
    shape: AnswerShape, pieces: AsyncIterator[TextPiece], *, usage: bool, token_ids: bool
) -> AsyncIterator[bytes]:
    last: TextPiece | None = None
    try:
        async with aclosing(pieces) as items:  # type: ignore[type-var]
            async for item in items:
                ids = (item.token_id,) if token_ids else None
                yield _event(shape.piece(item.text, item.finish_reason, first=last is None, token_ids=ids))
                last = item
    except Exception as error:  # noqa: BLE001 the status is sent: what is left to say goes into the stream
        yield _event(_error(error)[0])
        return
    if usage and last is not None:
        yield _event(shape.usage_piece(shape.usage(last.tokens, last.cached_tokens)))
    yield b"data: [DONE]\n\n"


async def _collect(
    shape: AnswerShape, pieces: AsyncIterator[TextPiece], *, token_ids: bool
) -> dict[str, Any]:
    text = []
    ids: list[int] = []
    last: TextPiece | None = None
    async with aclosing(pieces) as items:  # type: ignore[type-var]
        async for last in items:
            text.append(last.text)
            ids.append(last.token_id)
    assert last is not None, "an answer has at least one token"
    usage = shape.usage(last.tokens, last.cached_tokens)
    return shape.whole("".join(text), last.finish_reason or "", usage, ids if token_ids else None)


async def _until_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return the result, or None, with the work cancelled, when the client goes away first.

    The request's body has been received: what comes next is that the client is gone.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _possible_stop(text: str, stops: tuple[str, ...]) -> int:
    """Return the length of the longest end of `text` that begins a stop string."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest


async def _gone(_: Request, __: Exception) -> Response:
    return _GONE


async def _refused(_: Request, error: Exception) -> Response:
    body, status = _error(error)
    return JSONResponse(body, status)


def _error(error: Exception) -> tuple[dict[str, Any], int]:
    """Return OpenAI's error object and the status that goes with it."""
    if isinstance(error, TextFailedError):
        return error_body(str(error), error.kind, error.status), error.status
    if isinstance(error, RefusedBodyError):
        return error_body(str(error), "invalid_request_error", error.status), error.status
    if isinstance(error, RequestNoRoomError | KVCacheShrunkError):
        return error_body(str(error), "server_error", 503), 503
    if isinstance(error, EngineStoppedError | RequestFailedError):
        return error_body(str(error), "internal_error", 500), 500
    if isinstance(error, FarspanError):
        return error_body(str(error), "invalid_request_error", 400), 400
    _LOG.error("a request failed", exc_info=error)
    return error_body(
        f"the server failed on this request ({type(error).__name__})", "internal_error", 500
    ), 500
