"""How an exchange ended, why, and what was answered: read from a connection when it is over."""

from __future__ import annotations

import orjson

from farspan.measurement.http.answer import Answer
from farspan.measurement.http.connection import Connection
from farspan.measurement.http.http1 import MalformedAnswerError
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.wire import MalformedEventError, check_token_ids, read_error_body, read_message
from farspan.sizes import format_seconds


def is_streamed(connection: Connection) -> bool:
    """Tell whether the server answered with events; of an answer that is no success nothing else is expected."""
    reader = connection.reader
    return reader.status != 200 or reader.content_type == "text/event-stream"


def judge(connection: Connection, answer: Answer, limit: str, waited_s: float) -> tuple[Status, str, Answer]:
    """Say how an exchange ended, why, and what was answered.

    Args:
        connection: What was sent and received.
        answer: The stream, decoded.
        limit: Which limit ended the wait, in words; empty when none did.
        waited_s: Seconds from the start to the end.
    """
    reader, failure = connection.reader, connection.failure
    received = _describe_received(connection, answer)
    if limit:
        return Status.TIMED_OUT, f"gave up after {format_seconds(waited_s)} and {received}: {limit}", answer
    if isinstance(failure, MalformedAnswerError):
        return Status.SERVER_ERROR, f"the server sent {failure}", answer
    if isinstance(failure, FileNotFoundError):
        return Status.CUT, f"the prompt could not be read ({one_line(failure)})", answer
    if reader.status is not None and reader.status != 200:
        return *_read_refusal(connection), answer
    if answer.error:
        return Status.SERVER_ERROR, answer.error, answer
    if answer.done:
        return Status.OK, "", answer
    if failure is not None:
        detail = "" if not str(failure) else f" ({one_line(failure)})"
        return Status.CUT, f"the connection broke after {received}{detail}", answer
    if not is_streamed(connection):
        return _read_whole(connection)
    if answer.finish_reason is None:
        return Status.CUT, f"the server closed the stream after {received}", answer
    return Status.OK, "", answer


def _read_refusal(connection: Connection) -> tuple[Status, str]:
    reader = connection.reader
    words = read_error_body(bytes(connection.whole))
    code = reader.status or 0
    if 300 <= code < 400:
        words = f"redirected to {reader.headers.get('location', 'nowhere')}"
    status = Status.REFUSED if code < 500 else Status.SERVER_ERROR
    return status, f"HTTP {code}: {words or reader.reason or 'no reason given'}"


def _read_whole(connection: Connection) -> tuple[Status, str, Answer]:
    """Read an answer that the server did not stream, though it was asked to."""
    try:
        event = read_message(orjson.loads(connection.whole))
    except (orjson.JSONDecodeError, MalformedEventError):
        kind = connection.reader.content_type or "something without a type"
        return (
            Status.SERVER_ERROR,
            f"the server answered {kind}, neither an event stream nor an answer of this API",
            Answer(),
        )
    if event.error is not None:
        return Status.SERVER_ERROR, event.error, Answer()
    ids = check_token_ids(event.token_ids)
    return Status.OK, "", Answer((), event.text, event.finish_reason, event.usage, token_ids=ids)


def _describe_received(connection: Connection, answer: Answer) -> str:
    if answer.token_times_s:
        count = len(answer.token_times_s)
        return f"{count} {'event' if count == 1 else 'events'} with tokens"
    return "no token" if connection.reader.status else "no answer"


def one_line(failure: Exception) -> str:
    """Return a failure's words in one line, or its kind when it has none."""
    return " ".join(str(failure).split()) or type(failure).__name__
