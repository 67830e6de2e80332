"""A server that does as it is told: known delays, counts and faults, over real sockets.

It answers a prompt with `w<n> w<n+1> ...`, n being the prompt's last token id (or last word), as
`CountingPrompt` expects.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web

from farspan.measurement.runs.job import Job
from farspan.models.probe import vocabulary


@dataclass
class Script:
    """What the server does with every request."""

    ttft_s: float = 0.0
    itl_s: float = 0.0
    status: int = 200
    error: object = None
    cut_after: int | None = None  # close the connection after so many tokens
    error_after: int | None = None  # send an error event after so many tokens
    stop_after: int | None = None  # finish early
    close_before_answer: bool = False
    usage: bool = True
    cached_tokens: int | None = 0
    count_offset: int = 0
    tokens_per_event: int = 1
    stream: bool = True
    done: bool = True
    raw: bytes | None = None  # sent instead of the events
    reply: str | None = None
    hang: bool = False
    hang_above: int | None = None  # never answer a prompt of more tokens
    recall: bool = False  # answer as the recall checkpoint does: what followed the last token's earlier self
    refuse_early: bool = False  # answer before the body has been read
    pieces: bool = False  # /generate sends each token alone, not the reply so far
    queue_time: bool = False  # /generate says how long the request waited
    together: asyncio.Barrier | None = None  # answer when so many requests are there
    after_first: asyncio.Event | None = None  # send what follows the first token when this is set


@dataclass
class ScriptedServer:
    url: str = ""
    script: Script = field(default_factory=Script)
    scripts: list[Script] = field(default_factory=list)  # used up first, one a request
    card: dict[str, Any] = field(default_factory=lambda: {"id": "scripted", "owned_by": "vllm"})
    models_status: int = 200
    key: str | None = None
    settings: dict[str, Any] | None = None  # what /get_server_info says
    metrics: str | None = None  # what /metrics says
    requests: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def models(self, request: web.Request) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        if self.models_status != 200:
            return web.json_response({"detail": "still loading"}, status=self.models_status)
        return web.json_response({"object": "list", "data": [self.card]})

    async def exposition(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=self.metrics) if self.metrics else web.Response(status=404)

    async def server_info(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.settings) if self.settings else web.Response(status=404)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        script = self.scripts.pop(0) if self.scripts else self.script
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._answer(request, script)
        finally:
            self.running -= 1

    async def _answer(self, request: web.Request, script: Script) -> web.StreamResponse:
        if script.refuse_early:
            return web.json_response({"error": {"message": "body too large"}}, status=413)
        body = json.loads(await request.read())
        self.requests.append(body)
        if script.together is not None:
            await script.together.wait()
        if script.close_before_answer:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if script.status != 200:
            error = script.error or {"error": {"message": "as scripted", "code": script.status}}
            if isinstance(error, str):
                return web.Response(text=error, status=script.status)
            return web.json_response(error, status=script.status)
        chat, generate = "messages" in body, request.path == "/generate"
        if generate:
            prompt = body["text"] if "text" in body else body["input_ids"]
            asked = body["sampling_params"]["max_new_tokens"]
        else:
            prompt = body["messages"][0]["content"] if chat else body["prompt"]
            asked = body["max_tokens"]
        words = prompt.split() if isinstance(prompt, str) else prompt
        if script.hang_above is not None and len(words) > script.hang_above:
            await asyncio.sleep(600)
        wanted = min(asked, script.stop_after or asked)
        if script.reply is not None:
            reply = [script.reply]
        elif not script.recall:
            reply = [f"w{int(words[-1]) + i} " for i in range(wanted)]
        else:
            known = vocabulary().tokens
            ids = [known.index(word) for word in words] if isinstance(prompt, str) else words
            begin = ids.index(ids[-1]) + 1
            reply = [f"{known[token]} " for token in ids[begin : begin + wanted]]
        finish = "length" if script.stop_after is None else "stop"
        usage = None
        if script.usage:
            usage = {"prompt_tokens": len(words) + script.count_offset, "completion_tokens": len(reply)}
            if script.cached_tokens is not None:
                usage["prompt_tokens_details"] = {"cached_tokens": script.cached_tokens}

        def generated(number: int) -> dict[str, Any]:
            """Return SGLang's event for the first `number` tokens, the whole text so far or its last piece."""
            last = number == len(reply)
            first = number - 1 if script.pieces else 0
            meta: dict[str, Any] = {"prompt_tokens": len(words) + script.count_offset}
            meta |= {"completion_tokens": number, "queue_time": 0.25 if script.queue_time else None}
            meta["finish_reason"] = {"type": finish} if last else None
            if script.cached_tokens is not None:
                meta["cached_tokens"] = script.cached_tokens
            text = "".join(reply[first:number])
            return {"text": text, "output_ids": list(range(first, number)), "meta_info": meta}

        await asyncio.sleep(script.ttft_s)
        if not script.stream:
            text = "".join(reply)
            if generate:
                return web.json_response(generated(len(reply)))
            choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            return web.json_response({"choices": [choice | {"finish_reason": finish}], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if script.hang:
            await asyncio.sleep(3600)
        if script.raw is not None:
            await response.write(script.raw)
            return response

        async def event(payload: object) -> None:
            await response.write(b"data: " + json.dumps(payload).encode() + b"\n\n")

        def choice_of(text: str, finish: str | None = None) -> dict[str, Any]:
            part = {"delta": {"content": text}} if chat else {"text": text}
            return {"choices": [{"index": 0, **part, "finish_reason": finish}]}

        if chat:
            await event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for start in range(0, len(reply), script.tokens_per_event):
            if start and script.itl_s:
                await asyncio.sleep(script.itl_s)
            if start and script.after_first is not None:
                await script.after_first.wait()
            if script.cut_after is not None and start >= script.cut_after:
                assert request.transport is not None
                request.transport.close()
                return response
            if script.error_after is not None and start >= script.error_after:
                await event({"error": {"message": "engine died", "type": "InternalServerError"}})
                return response
            if generate:
                await event(generated(start + 1))
            else:
                await event(choice_of("".join(reply[start : start + script.tokens_per_event])))
        if not generate:
            await event(choice_of("", finish))
        if usage is not None and not generate:
            await event({"choices": [], "usage": usage})
        if script.done:
            await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def serve_script() -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer()
    async with serve(server, 0):
        yield server


@asynccontextmanager
async def serve(server: ScriptedServer, port: int) -> AsyncIterator[None]:
    app = web.Application(client_max_size=2**30)
    app.router.add_get("/v1/models", server.models)
    app.router.add_get("/version", version)
    app.router.add_get("/metrics", server.exposition)
    app.router.add_get("/get_server_info", server.server_info)
    app.router.add_post("/v1/completions", server.answer)
    app.router.add_post("/v1/chat/completions", server.answer)
    app.router.add_post("/generate", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    try:
        yield
    finally:
        await runner.cleanup()


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: "
_TOKEN = b'data: {"choices":[{"index":0,"text":" w","finish_reason":null}]}\n\n'
# What goes on and on: the bytes sent first, and those sent again and again.
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "head": (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n" * 64),
    "header": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 2**14),
    "interim": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 16),
    "json": (_HEAD + b'application/json\r\n\r\n{"object":"list","data":["', b"x" * 2**16),
    "event": (_HEAD + b"text/event-stream\r\n\r\ndata: ", b"x" * 2**16),
    "tokens": (_HEAD + b"text/event-stream\r\n\r\n", _TOKEN * 16),
    "comments": (_HEAD + b"text/event-stream\r\n\r\n", b": still here\n\n" * 4096),
    "trailers": (
        _HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"X-More: and more\r\n" * 4096,
    ),
    "error": (b"HTTP/1.1 500 Oh\r\n\r\n", b"no " * 2**14),
}


@asynccontextmanager
async def serve_endless(kind: str, path: bytes = b"") -> AsyncIterator[str]:
    """Serve an answer that never ends, on every path or on one that holds `path`; on others there is nothing."""
    first, again = ENDLESS[kind]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = (await reader.readuntil(b"\r\n")).split()[1]
            if path not in asked:
                known = b'{"data":[{"id":"m","owned_by":"vllm"}]}' if asked == b"/v1/models" else b"{}"
                status = b"200 OK" if asked == b"/v1/models" else b"404 No"
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(known), known))
                await writer.drain()
                return
            writer.write(first)
            while True:
                writer.write(again)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"


@contextmanager
def serve_in_thread() -> Iterator[ScriptedServer]:
    """Serve from a loop of its own, for tests whose code under test runs a loop too."""
    server = ScriptedServer()
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stop = asyncio.Event()

    async def run() -> None:
        async with serve(server, 0):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


async def version(request: web.Request) -> web.Response:
    return web.json_response({"version": "1.2.3"})


@dataclass(frozen=True)
class CountingPrompt:
    """A prompt whose answer counts on from its last token."""

    token_ids: np.ndarray[Any, np.dtype[np.int32]]
    answer: str

    @property
    def text(self) -> str:
        return " ".join(map(str, self.token_ids.tolist()))

    def iter_ids_json(self) -> Iterator[bytes]:
        yield json.dumps(self.token_ids.tolist()).encode()

    def iter_json_string(self) -> Iterator[bytes]:
        yield json.dumps(self.text).encode()

    def score(self, reply: str) -> float:
        wanted = self.answer.split()
        got = reply.split()
        return sum(a == b for a, b in zip(wanted, got, strict=False)) / len(wanted)


def counting_prompt(job: Job) -> CountingPrompt:
    ids = np.random.default_rng(job.prompt_seed).integers(1, 30_000, job.context, dtype=np.int32)
    last = int(ids[-1])
    return CountingPrompt(ids, " ".join(f"w{last + i}" for i in range(min(4, job.output_tokens))))
