"""Ask a server of the recall checkpoint questions at growing lengths, and say what the wrong answers point to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from farspan.errors import InputError
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.target import ask_server, normalise_url
from farspan.measurement.options import BenchOptions
from farspan.measurement.progress import Watcher
from farspan.measurement.run import run_bench
from farspan.measurement.runs.result import Result
from farspan.models.probe import ProbeDesign, write_probe
from farspan.sizes import format_tokens

QUESTIONS = 10
OUTPUT_TOKENS = 16
_SHORTEST = 200


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """One question and what came of it.

    Args:
        context: Prompt tokens.
        depth: Where the needle was: 0 the start, 1 the end.
        score: How much of it came back, 0 to 1; None when nothing was answered.
        error: Why nothing was.
    """

    context: int
    depth: float
    score: float | None
    error: str = ""

    @property
    def right(self) -> bool:
        """Whether all of the needle came back."""
        return self.score == 1.0


@dataclass(frozen=True, slots=True)
class ProbeCheck:
    """What a server makes of the recall checkpoint.

    Args:
        url: The server.
        answers: In the order asked, the shortest first.
        broken: What the wrong answers point to, such as "weights or rotary embedding"; empty when all are right.
        why: The reasoning, in a sentence or two.
    """

    url: str
    answers: tuple[CheckedAnswer, ...]
    broken: str
    why: str

    @property
    def good(self) -> bool:
        """Whether every answer is right."""
        return all(answer.right for answer in self.answers)

    def to_json(self) -> dict[str, Any]:
        """The answers, and what they point to."""
        return {**asdict(self), "good": self.good}


def choose_questions(longest: int, chunk: int) -> tuple[tuple[int, float], ...]:
    """Choose ten lengths with the needle's depth for each, the shortest first.

    Three lie within one attention chunk. One beyond it has its needle in the question's own chunk, so that what only
    chunked layers see is told from what the full ones must. The others grow to the longest by equal factors.

    Args:
        longest: Longest prompt.
        chunk: Attention chunk of the chunked layers.

    Raises:
        InputError: The longest prompt is too short for a question.
    """
    if longest < _SHORTEST:
        raise InputError(f"{longest} tokens are too few for a question", f"give at least {_SHORTEST}")
    within = min(chunk, longest)
    quarter, half = max(_SHORTEST, within // 4), max(_SHORTEST, within // 2)
    chosen = [(_SHORTEST, 0.5), (quarter, 0.0), (half, 0.1)]
    beyond = 2 * chunk
    if longest < beyond:
        count = QUESTIONS - len(chosen)
        more = [(half + (longest - half) * (n + 1) // count, (0.0, 0.5, 0.9)[n % 3]) for n in range(count)]
        return (*chosen, *more)
    # The last twentieth of two chunks lies in the second of them, as the question does.
    chosen.append((beyond, 0.95))
    count = QUESTIONS - len(chosen)
    growth = (longest / beyond) ** (1 / (count - 1))
    return (*chosen, *((int(beyond * growth**n), (0.0, 0.5, 0.1)[n % 3]) for n in range(count)))


def judge_answers(answers: Sequence[CheckedAnswer], chunk: int) -> tuple[str, str]:
    """Say what wrong answers point to, and why; two empty texts when all are right.

    What it names are the parts of an engine that would give this pattern. Which of those named together it is, the
    answers alone do not tell.
    """
    wrong = [answer for answer in answers if not answer.right]
    if not wrong:
        return "", ""
    silent = [answer for answer in wrong if answer.score is None]
    if silent:
        return "the server", f"{len(silent)} of {len(answers)} questions were not answered: {silent[0].error}"
    within = [answer for answer in answers if answer.context <= chunk]
    wrong_within = [answer for answer in within if not answer.right]
    if within and len(wrong_within) == len(within):
        return (
            "weights or rotary embedding",
            f"not even within one attention chunk of {chunk:,} tokens does a key bring back what followed it: weights "
            "are missing or misplaced, or q and k are not in the order that the rotary embedding expects",
        )
    if wrong_within:
        return (
            "heads or KV dtype",
            f"within one attention chunk {len(wrong_within)} of {len(within)} keys are not found: heads are missing or "
            "mixed up between ranks, or the KV type rounds too much",
        )
    beyond = [answer for answer in answers if answer.context > chunk]
    same_chunk = [answer for answer in beyond if _in_last_chunk(answer, chunk)]
    across = [answer for answer in beyond if not _in_last_chunk(answer, chunk)]
    if across and not any(answer.right for answer in across) and all(answer.right for answer in same_chunk):
        return (
            "the full-attention layer or its page table",
            "keys of the question's own chunk are found, those of earlier ones never: the layer that keeps all is "
            "taken for a chunked one, or its earlier pages are not those of the prompt",
        )
    shortest = min(answer.context for answer in wrong)
    longest_right = max((answer.context for answer in answers if answer.right), default=0)
    if longest_right < shortest and any(answer.score for answer in wrong):
        return (
            "KV dtype",
            f"all is right to {format_tokens(longest_right)}, and from {format_tokens(shortest)} on only parts of the "
            "needle come back: the right key leads by too little over so many others",
        )
    if longest_right < shortest:
        return (
            "the page table or the position table",
            f"all is right to {format_tokens(longest_right)} and nothing from {format_tokens(shortest)} on: what lies "
            "beyond is not read, or not where it was written",
        )
    return (
        "the page table",
        f"{len(wrong)} of {len(answers)} keys are lost, and longer prompts than {format_tokens(shortest)} are right: "
        "single pages hold what is not of the prompt",
    )


def _in_last_chunk(answer: CheckedAnswer, chunk: int) -> bool:
    last_begins = (answer.context - 1) // chunk * chunk
    return answer.depth * answer.context >= last_begins


class _Questions(Watcher):
    """Passes on what becomes of every question, and that there are so many: not that each is a run of its own."""

    def __init__(self, watcher: Watcher, total: int) -> None:
        self._watcher = watcher
        self._total = total

    def sending(self, total: int, skipped: int) -> None:  # noqa: ARG002
        """The first of them leaves."""
        if self._total:
            self._watcher.sending(self._total, 0)
        self._total = 0

    def progress(self, line: str) -> None:
        """The engine's state."""
        self._watcher.progress(line)

    def finished(self, result: Result) -> None:
        """A question is answered."""
        self._watcher.finished(result)


async def run_check(
    url: str,
    *,
    longest: int | None = None,
    run: Path | None = None,
    api_key: str | None = None,
    watcher: Watcher | None = None,
) -> ProbeCheck:
    """Ask a server ten questions, one at a time.

    Args:
        url: The server.
        longest: Longest prompt; None goes to the server's limit.
        run: Folder for the results; a temporary one when None.
        api_key: The server's key.
        watcher: Its methods are called as questions are asked.

    Raises:
        NetworkError: No server answers.
        InputError: The lengths cannot be asked.
    """
    server = await ask_server(normalise_url(url), api_key=api_key)
    limit = server.max_model_len
    if longest is None and limit is None:
        raise InputError("the server does not say how long a prompt may be", "give --max-context")
    most = min(
        value for value in (longest, None if limit is None else limit - OUTPUT_TOKENS) if value is not None
    )
    chunk = ProbeDesign().attention_chunk_size
    answers = []
    with TemporaryDirectory(prefix="farspan-probe-") as scratch:
        tokenizer = write_probe(Path(scratch) / "recall").folder
        folder = run or Path(scratch) / "run"
        questions = choose_questions(most, chunk)
        asked = _Questions(watcher or Watcher(), len(questions))
        for context, depth in questions:
            wanted = BenchOptions(
                url=server.url,
                run=folder,
                contexts=(context,),
                depths=(depth,),
                output_tokens=OUTPUT_TOKENS,
                tokenizer=tokenizer,
                resume=True,
                api_key=api_key,
            )
            outcome = await run_bench(wanted, watcher=asked)
            (result,) = [one for one in outcome.results if (one.context, one.depth) == (context, depth)]
            unheard = result.status not in (Status.OK, Status.WRONG_ANSWER)
            answers.append(CheckedAnswer(context, depth, None if unheard else result.score, result.error))
    broken, why = judge_answers(answers, chunk)
    return ProbeCheck(server.url, tuple(answers), broken, why)
