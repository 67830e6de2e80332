"""A server with known delays that any load tool can be pointed at, and that has an engine's /metrics.

    python paced.py PORT --ttft 0.5 --itl 0.02

The first token leaves `ttft` seconds after the request's body has been read, every further one at
its own due time (`ttft + i * itl`), so that a late event does not delay those after it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass
class Paced:
    """What the server does with every request, and what its /metrics says."""

    ttft_s: float = 0.1
    itl_s: float = 0.01
    output_tokens: int = 16
    model: str = "paced"
    root: str | None = None
    metrics: str = ""
    metrics_status: int = 200
    refuse_every: int = 0  # answer 400 to every so many requests
    scraped_first: int = 0  # the first token waits until /metrics was asked for so many times more
    scrapes: int = 0
    requests: list[str] = field(default_factory=list)

    async def models(self, request: web.Request) -> web.Response:
        card = {"id": self.model, "object": "model", "created": 0, "owned_by": "vllm", "max_model_len": 10**7}
        return web.json_response({"object": "list", "data": [card | {"root": self.root or self.model}]})

    async def scrape(self, request: web.Request) -> web.Response:
        self.scrapes += 1
        return web.Response(text=self.metrics, status=self.metrics_status)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        began = time.perf_counter()
        self.requests.append(request.path)
        if self.refuse_every and len(self.requests) % self.refuse_every == 0:
            error = {"message": "This model's maximum context length is 100 tokens.", "code": 400}
            return web.json_response({"error": error | {"type": "BadRequestError"}}, status=400)
        generate = request.path == "/generate"
        chat = "messages" in body
        sampling = body.get("sampling_params") or {}
        wanted = next(
            (
                source[name]
                for source in (body, sampling)
                for name in ("max_completion_tokens", "max_tokens", "max_new_tokens")
                if source.get(name)
            ),
            self.output_tokens,
        )
        usage = {
            "prompt_tokens": count_prompt(body),
            "completion_tokens": wanted,
            "total_tokens": count_prompt(body) + wanted,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

        def event_of(number: int, text: str) -> dict[str, Any]:
            last = number + 1 == wanted
            if generate:
                meta = {"prompt_tokens": usage["prompt_tokens"], "completion_tokens": number + 1}
                meta |= {"cached_tokens": 0, "finish_reason": {"type": "length"} if last else None}
                return {"text": " w" * (number + 1), "meta_info": meta}
            part = {"delta": {"content": text}} if chat else {"text": text}
            choice = {"index": 0, **part, "finish_reason": "length" if last else None}
            kind = "chat.completion.chunk" if chat else "text_completion"
            return {"id": "paced", "object": kind, "created": 0, "model": self.model, "choices": [choice]}

        if not body.get("stream"):
            await asyncio.sleep(self.ttft_s + (wanted - 1) * self.itl_s)
            part = (
                {"message": {"role": "assistant", "content": " w" * wanted}}
                if chat
                else {"text": " w" * wanted}
            )
            choices = [{"index": 0, **part, "finish_reason": "length"}]
            answer = {"id": "paced", "object": "completion", "created": 0, "model": self.model}
            return web.json_response(answer | {"choices": choices, "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        seen = self.scrapes
        while self.scrapes < seen + self.scraped_first:
            await asyncio.sleep(0.005)
        for number in range(wanted):
            await asyncio.sleep(began + self.ttft_s + number * self.itl_s - time.perf_counter())
            await response.write(b"data: " + orjson.dumps(event_of(number, " w")) + b"\n\n")
        if not generate and (body.get("stream_options") or {}).get("include_usage"):
            closing = event_of(0, "") | {"choices": [], "usage": usage}
            await response.write(b"data: " + orjson.dumps(closing) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def count_prompt(body: dict[str, Any]) -> int:
    """Count a prompt's tokens: its ids, or the words of its text."""
    prompt = body.get("prompt", body.get("input_ids", body.get("text")))
    if prompt is None:
        contents = [message["content"] for message in body["messages"]]
        prompt = " ".join(c if isinstance(c, str) else " ".join(p["text"] for p in c) for c in contents)
    return len(prompt.split()) if isinstance(prompt, str) else len(prompt)


def say(document: dict[str, Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that always answers the same."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(document)

    return answer


@asynccontextmanager
async def serve_paced(paced: Paced, port: int = 0) -> AsyncIterator[str]:
    """Serve on this host and yield the address."""
    app = web.Application(client_max_size=2**30)
    app.router.add_get("/v1/models", paced.models)
    app.router.add_get("/metrics", paced.scrape)
    for path in ("/health", "/ping", "/health_generate"):
        app.router.add_get(path, say({}))
    app.router.add_get("/version", say({"version": "0.33.0"}))
    for path in ("/get_server_info", "/server_info"):
        app.router.add_get(
            path, say({"version": "0.5.23", "model_path": paced.model, "internal_states": [{}]})
        )
    app.router.add_post("/flush_cache", say({}))
    for path in ("/v1/completions", "/v1/chat/completions", "/generate"):
        app.router.add_post(path, paced.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    host, bound = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{bound}"
    finally:
        await runner.cleanup()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--ttft", type=float, default=0.5)
    parser.add_argument("--itl", type=float, default=0.02)
    parser.add_argument("--refuse-every", type=int, default=0)
    parser.add_argument("--root")
    given = parser.parse_args()
    paced = Paced(given.ttft, given.itl, root=given.root, refuse_every=given.refuse_every)
    async with serve_paced(paced, given.port) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
