"""A conversation under way: every turn is sent with all that was said before it, as the engine produced it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from farspan.measurement.http.client import Exchange
from farspan.measurement.http.request_body import FilePiece, RequestBody
from farspan.measurement.prepared_requests import PreparedRequest


@dataclass(slots=True)
class Conversation:
    """What has been said so far.

    Args:
        said: Pieces of the prompt as JSON, ids and commas, in order.
        answered_tokens: Tokens of the last answer; None before the first.
        encoded_again: Whether that answer's ids are not the engine's own.
    """

    said: list[bytes | FilePiece] = field(default_factory=list)
    answered_tokens: int | None = None
    encoded_again: bool = False

    def prepare(self, request: PreparedRequest) -> PreparedRequest:
        """Return the next turn with everything before it in its body."""
        before, own, after = request.body.pieces
        return replace(request, body=RequestBody((before, *self.said, own, after)))

    def find_cacheable(self, request: PreparedRequest) -> int | None:
        """Return how many tokens of the next turn's prompt the server can have: all before it but the last token of the
        answer, which it has not computed; None before the first turn.
        """
        if self.answered_tokens is None:
            return None
        missing = request.job.output_tokens - self.answered_tokens
        return request.job.shared_tokens - missing

    def note(self, request: PreparedRequest, exchange: Exchange) -> None:
        """Take a turn and its answer in; an answer shorter than asked for is filled up behind, so that lengths stay."""
        turn, job = request.prompt.turn, request.job
        assert turn is not None, "a turn of a conversation"
        ids = list(exchange.token_ids)
        self.encoded_again = not ids
        if not ids:
            ids = list(turn.encode_answer(exchange.text))
        ids = ids[: job.output_tokens]
        self.answered_tokens = len(ids)
        ids += [turn.filler_id] * (job.output_tokens - len(ids))
        self.said += [request.prompt.file, ("," + ",".join(map(str, ids)) + ",").encode()]
