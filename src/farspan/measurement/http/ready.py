"""Whether a server answers a request, which is more than its health endpoint promises."""

from __future__ import annotations

import numpy as np

from farspan.errors import FarspanError
from farspan.measurement.http.client import Client, Limits
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.target import ask_server
from farspan.measurement.http.wire import Api, encode_body

_ONE_TOKEN_LIMIT_S = 60.0


async def find_missing(url: str, *, api_key: str | None = None) -> str:
    """Ask for one token and say what is missing; empty when the server answers.

    The prompt is one token id, too short to warm the cache for any prompt that is measured.
    """
    try:
        server = await ask_server(url, api_key=api_key)
    except FarspanError as error:
        return error.message
    body = encode_body(
        Api.COMPLETIONS, model=server.model, prompt=np.array([1], dtype=np.int32), output_tokens=1
    )
    async with Client(url, api_key=api_key, limits=Limits(5.0, _ONE_TOKEN_LIMIT_S, 5.0)) as client:
        exchange = await client.send(Api.COMPLETIONS, body)
    return "" if exchange.status is Status.OK else exchange.error
