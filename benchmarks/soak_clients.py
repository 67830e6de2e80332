"""Random clients of a server, good and bad, for `benchmarks/soak.py`.

A good client asks for a word planted in a prompt of the recall checkpoint and checks the answer. A bad one sends what
no client should, or goes away in the middle. Each notes what came of it in a `Tally`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from farspan.models.probe import vocabulary

WORDS = vocabulary()
ANSWER_TOKENS = 4
_TIMEOUT_S = 300.0


@dataclass
class Tally:
    """What came of all requests so far.

    Attributes:
        outcomes: How often each outcome was seen.
        wrong: What should not have happened, in words.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Clients:
    """Sends random requests to one server.

    Args:
        url: The server's address.
        seed: Decides what is sent; when it arrives is chance.
        chunk: The checkpoint's attention chunk: a needle lies within one.
        longest: Most tokens of a prompt.
    """

    def __init__(self, url: str, seed: int, chunk: int, longest: int) -> None:
        self.tally = Tally()
        self._url = url
        self._address = urlsplit(url).netloc
        self._random = random.Random(seed)
        self._chunk = chunk
        self._longest = longest
        self._again = [self._prompt() for _ in range(12)]

    async def run(self, until: float, at_once: int) -> None:
        """Send requests, `at_once` of them at a time, until the loop's clock says so."""
        limits = httpx.Limits(max_keepalive_connections=at_once)
        async with httpx.AsyncClient(base_url=self._url, timeout=_TIMEOUT_S, limits=limits) as client:
            await asyncio.gather(*(self._loop(client, until) for _ in range(at_once)))

    async def _loop(self, client: httpx.AsyncClient, until: float) -> None:
        kinds = (self._ask, self._ask, self._ask, self._chat, self._leave, self._nonsense, self._broken_body)
        while asyncio.get_running_loop().time() < until:
            kind = self._random.choice(kinds)
            try:
                await kind(client)
            except Exception as error:  # noqa: BLE001 a soak ends with a list of what went wrong, not with the first
                self._note_wrong(f"{kind.__name__}: {type(error).__name__} {error}")

    def _prompt(self) -> tuple[list[int], list[int]]:
        """Return the ids of a prompt that ends in a planted key, and what followed it."""
        dice = self._random
        tokens = int(2 ** dice.uniform(5, np.log2(self._longest)))
        ids = dice.choices(WORDS.haystack_ids, k=tokens)
        ids[0] = WORDS.bos_token_id
        needle = dice.sample(list(WORDS.needle_ids), ANSWER_TOKENS + 1)
        at = dice.randint(1, tokens - ANSWER_TOKENS - 3)
        if at // self._chunk != (at + ANSWER_TOKENS) // self._chunk:
            at -= ANSWER_TOKENS + 1
        ids[at : at + ANSWER_TOKENS + 1] = needle
        ids[-1] = needle[0]
        return ids, needle[1:]

    async def _ask(self, client: httpx.AsyncClient) -> None:
        ids, answer = self._random.choice(self._again) if self._random.random() < 0.4 else self._prompt()
        text = self._random.random() < 0.3
        body: dict[str, Any] = {
            "prompt": " ".join(WORDS.tokens[i] for i in ids[1:]) if text else ids,
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0,
            "stream": self._random.random() < 0.5,
        }
        if self._random.random() < 0.2:
            body["cache_salt"] = self._random.choice("ab")
        await self._judge(client, "/v1/completions", body, answer)

    async def _chat(self, client: httpx.AsyncClient) -> None:
        ids, answer = self._prompt()
        # The header's tokens come first and shift the needle: only prompts of one chunk keep it whole.
        if len(ids) + 16 >= self._chunk:
            ids, answer = ids[-self._chunk // 2 :], []
        body = {
            "messages": [{"role": "user", "content": " ".join(WORDS.tokens[i] for i in ids[1:])}],
            "max_completion_tokens": ANSWER_TOKENS,
            "temperature": 0,
            "stream": self._random.random() < 0.5,
        }
        await self._judge(client, "/v1/chat/completions", body, answer)

    async def _judge(
        self, client: httpx.AsyncClient, path: str, body: dict[str, Any], answer: list[int]
    ) -> None:
        reply = await client.post(path, json=body)
        status, text = (
            _read_stream(reply) if body["stream"] and reply.status_code == 200 else _read_whole(reply)
        )
        if status == 503:
            self.tally.outcomes["refused: no memory"] += 1
        elif status != 200:
            self._note_wrong(f"{path} answered {status}: {text[:300]}")
        elif answer and text.split() != [WORDS.tokens[i] for i in answer]:
            self._note_wrong(f"{path} answered {text!r} where {answer} was planted")
        else:
            self.tally.outcomes["answered right" if answer else "answered"] += 1

    async def _leave(self, client: httpx.AsyncClient) -> None:
        """Ask for a long answer and go away, before it begins or in the middle."""
        body = {
            "prompt": self._prompt()[0],
            "max_tokens": self._random.choice((50, 2000)),
            "ignore_eos": True,
            "temperature": self._random.choice((0, 1.0)),
            "stream": self._random.random() < 0.5,
        }
        try:
            async with asyncio.timeout(self._random.uniform(0.01, 1.0)):
                reply = await client.post("/v1/completions", json=body)
        except TimeoutError:
            self.tally.outcomes["left"] += 1
            return
        if reply.status_code not in (200, 503):
            self._note_wrong(f"a client about to leave got {reply.status_code}: {reply.text[:300]}")
        self.tally.outcomes["stayed to the end"] += 1

    async def _nonsense(self, client: httpx.AsyncClient) -> None:
        """Send a request that is to be refused, or that has an extreme value."""
        dice = self._random
        path, body, expected = dice.choice(_NONSENSE)
        headers = {"Host": "evil.example"} if dice.random() < 0.05 else {}
        reply = await client.post(path, json=body, headers=headers)
        if reply.status_code not in ((403,) if headers else expected):
            self._note_wrong(f"{str(body)[:200]} got {reply.status_code}: {reply.text[:300]}")
        self.tally.outcomes["nonsense answered"] += 1
        if dice.random() < 0.05:
            await client.post("/reset_prefix_cache")

    async def _broken_body(self, _: httpx.AsyncClient) -> None:
        """Send a piece of a body, or of a request line, and hang up."""
        dice = self._random
        host, _, port = self._address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._address}\r\nContent-Length: 1000\r\n\r\n".encode()
        )
        writer.write(
            dice.choice((head + b'{"prompt": [1', head[:40], dice.randbytes(200), head + b"x" * 1000))
        )
        try:
            await writer.drain()
            async with asyncio.timeout(dice.uniform(0.01, 0.5)):
                await reader.read(1000)
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()
        self.tally.outcomes["broken body"] += 1

    def _note_wrong(self, text: str) -> None:
        self.tally.outcomes["WRONG"] += 1
        if len(self.tally.wrong) < 20:
            self.tally.wrong.append(text)


_ONE = {"prompt": [5, 6, 7], "max_tokens": 2}
_NONSENSE: tuple[tuple[str, dict[str, Any], tuple[int, ...]], ...] = (
    ("/v1/completions", {**_ONE, "seed": 2**63}, (400,)),
    ("/v1/completions", {**_ONE, "seed": -(2**63)}, (200, 503)),
    ("/v1/completions", {**_ONE, "seed": "7"}, (400,)),
    ("/v1/completions", {**_ONE, "top_p": 1e-50}, (200, 503)),
    ("/v1/completions", {**_ONE, "top_p": 0}, (400,)),
    ("/v1/completions", {**_ONE, "temperature": 1e-5}, (200, 503)),
    ("/v1/completions", {**_ONE, "temperature": 1e300}, (400,)),
    ("/v1/completions", {**_ONE, "top_k": 2**62}, (200, 503)),
    ("/v1/completions", {**_ONE, "max_tokens": 0}, (400,)),
    ("/v1/completions", {**_ONE, "max_tokens": 2**70}, (400,)),
    ("/v1/completions", {**_ONE, "stop": ["x"] * 1000}, (400,)),
    ("/v1/completions", {"prompt": ["a" * 100_000, *["b"] * 1000]}, (400,)),
    ("/v1/completions", {"prompt": [2**70]}, (400,)),
    ("/v1/completions", {"prompt": "x" * 3_000_000}, (413,)),
    ("/v1/chat/completions", {"messages": [{"role": "user"}]}, (400,)),
    ("/v1/chat/completions", {"messages": "x"}, (400,)),
    ("/tokenize", {"prompt": "x " * 1000}, (200,)),
    ("/detokenize", {"tokens": [5] * 1000}, (200,)),
    ("/detokenize", {"tokens": [-1]}, (400,)),
    ("/v1/nothing", {}, (404,)),
)


def _read_whole(reply: httpx.Response) -> tuple[int, str]:
    if reply.status_code != 200:
        return reply.status_code, reply.text
    choice = reply.json()["choices"][0]
    return 200, choice["message"]["content"] if "message" in choice else choice["text"]


def _read_stream(reply: httpx.Response) -> tuple[int, str]:
    text = ""
    for line in reply.text.split("\n\n"):
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            return 200, text
        if data:
            event = json.loads(data)
            if "error" in event:
                return int(event["error"]["code"]), event["error"]["message"]
            choice = event["choices"][0]
            text += choice["delta"]["content"] if "delta" in choice else choice["text"]
    return 0, "the stream broke off"
