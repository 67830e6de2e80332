"""One look at a server's /metrics."""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass

from yarl import URL

from farspan.engines.metric_source import Measure
from farspan.engines.metrics import find_engine, read_metrics
from farspan.engines.registry import find_served

TIMEOUT_S = 5.0
_MOST_BYTES = 4 * 2**20  # an engine's metrics take tens of kilobytes, those of many ranks a few megabytes
_ANSWER_LIMIT_S = 2 * TIMEOUT_S


class ScrapeError(Exception):
    """There is nothing to read this time; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What an engine said of itself at one time.

    Args:
        time: Seconds since the epoch, when the answer had come.
        values: Every measure the engine exports.
        took_s: How long asking and reading took.
    """

    time: float
    values: dict[Measure, float]
    took_s: float = 0.0


class Scraper:
    """Asks one server for its metrics, over a connection of its own each time.

    Not for an event loop: `read` blocks, for a few seconds at most.

    Args:
        url: Where the metrics are, such as `http://localhost:8000/metrics`.
        api_key: Sent as a bearer token.
        engine: The engine's name when it is known, for what to advise.
    """

    def __init__(self, url: str, *, api_key: str | None = None, engine: str | None = None) -> None:
        self.url = URL(url)
        served = find_served(engine)
        self._hint = f"; {served.metrics_hint}" if served and served.metrics_hint else ""
        self._headers = {"Accept": "text/plain", "Connection": "close"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def read(self) -> dict[Measure, float]:
        """Ask once.

        Raises:
            ScrapeError: No answer, not 200, or nothing in it that an engine exports.
        """
        body = self._get()
        engine = find_engine(body)
        if engine is None:
            raise ScrapeError(f"{self.url} has no metrics of an engine farspan knows{self._hint}")
        try:
            return read_metrics(engine, body)
        except ValueError as error:
            raise ScrapeError(f"{self.url} is not in the Prometheus text format ({error})") from error

    def _read_body(self, answer: http.client.HTTPResponse, deadline: float) -> bytes:
        body = bytearray()
        while piece := answer.read1(2**16):
            body += piece
            if len(body) > _MOST_BYTES:
                raise ScrapeError(f"{self.url} answers with more than {_MOST_BYTES:,} bytes")
            if time.monotonic() > deadline:
                raise ScrapeError(f"{self.url} did not end its answer within {_ANSWER_LIMIT_S:g} s")
        return bytes(body)

    def _get(self) -> bytes:
        # No redirects and no proxies: the key goes to this address and nowhere else, as in the client.
        kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.url.host or "", self.url.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", self.url.raw_path_qs, headers=self._headers)
            answer = connection.getresponse()
            body = self._read_body(answer, time.monotonic() + _ANSWER_LIMIT_S)
        except (OSError, http.client.HTTPException) as error:
            raise ScrapeError(f"{self.url} does not answer ({_one_line(error)})") from error
        finally:
            connection.close()
        if answer.status != 200:
            hint = self._hint if answer.status == 404 else ""
            raise ScrapeError(f"{self.url} answers HTTP {answer.status}{hint}")
        return body


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
