"""`farspan bench` as a function: ask the server, prepare, send, measure, keep."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from farspan.bench.client import Client, Limits
from farspan.bench.measure import Result, measure
from farspan.bench.prepare import BodyFolder, PreparedRequest, PromptAs, PromptMaker, prepare_request
from farspan.bench.runs import Identity, RunInfo, RunStore, load_info, new_start, open_run
from farspan.bench.schedule import Job, plan_jobs
from farspan.bench.server import ServerInfo, ask_server, check_lengths, find_tokenizer, normalise_url
from farspan.bench.status import Status
from farspan.bench.watch import Watcher
from farspan.bench.wire import Api
from farspan.errors import InputError

# So many connections in a row refused mean that the server has gone: stop, and leave the rest for --resume.
_UNREACHABLE_IN_A_ROW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure.

    Args:
        url: The server's address.
        run: The run folder.
        contexts: Prompt lengths in tokens, as the server counts them, template included.
        model: The model's name; None takes the first one the server lists.
        depths: Where the needle goes, 0 the start to 1 the end; every context is sent at every depth.
        repeats: Requests at each context and depth.
        output_tokens: Tokens to generate for each request.
        concurrency: Requests under way at a time (closed loop).
        task: What is planted and asked for.
        tokenizer: The server's tokenizer; None takes it from the folder the server names as the model's root.
        api: Completions or chat.
        prompt_as: Token ids or text; a chat always takes text.
        seed: Decides prompts and order; None takes a fresh one, or the run's own when resuming. A seed
            used before on the same server finds its prompts in the prefix cache.
        resume: Go on with the run in `run`.
        retry_failed: When resuming, send failed requests again; the new result replaces the old one.
        in_order: Send contexts and depths as given instead of shuffled.
        ignore_eos: Ask the server to generate on after an end-of-sequence token.
        extra_body: Further fields of every request body.
        api_key: Never stored, never printed.
        limits: How long to wait for what.
        time_limit_s: When to stop the whole run, in seconds from the first request.
    """

    url: str
    run: Path
    contexts: tuple[int, ...]
    model: str | None = None
    depths: tuple[float, ...] = (0.5,)
    repeats: int = 1
    output_tokens: int = 16
    concurrency: int = 1
    task: str = "needle"
    tokenizer: Path | None = None
    api: Api = Api.COMPLETIONS
    prompt_as: PromptAs = PromptAs.IDS
    seed: int | None = None
    resume: bool = False
    retry_failed: bool = False
    in_order: bool = False
    ignore_eos: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)
    time_limit_s: float | None = None

    def check(self) -> None:
        """Refuse options that make no sense.

        Raises:
            InputError: One of them is out of range.
        """
        for name, value in (
            ("--repeats", self.repeats),
            ("--output-tokens", self.output_tokens),
            ("--concurrency", self.concurrency),
        ):
            if value < 1:
                raise InputError(f"{name} is {value}", "give 1 or more")
        if not self.contexts or not self.depths:
            raise InputError("there is no context or no depth to measure", "give --contexts 10k,100k")
        for depth in self.depths:
            if not 0 <= depth <= 1:
                raise InputError(f"depth {depth:g} is outside 0 to 1", "give depths such as 0.1,0.9")
        if self.retry_failed and not self.resume:
            raise InputError("--retry-failed says what to do with an earlier run", "add --resume")


@dataclass(frozen=True, slots=True)
class BenchOutcome:
    """A finished bench: every result the run folder holds, those of earlier starts included.

    Args:
        folder: The run folder.
        info: What was run.
        results: The latest result of every request.
        skipped: How many requests were there already and not sent again.
        unsent: How many requests were left unsent.
        stopped: Why requests were left unsent; empty when none were.
    """

    folder: Path
    info: RunInfo
    results: tuple[Result, ...]
    skipped: int
    unsent: int
    stopped: str

    @property
    def failed(self) -> tuple[Result, ...]:
        """The requests that failed or were wrong."""
        return tuple(result for result in self.results if result.status is not Status.OK)

    @property
    def good(self) -> bool:
        """True when every request was sent, answered and right."""
        return not self.failed and not self.unsent

    @property
    def exit_code(self) -> int:
        """0 when good, 2 when no request was answered at all, 1 otherwise."""
        if self.good:
            return 0
        return 1 if any(result.status.answered for result in self.results) else 2


async def run_bench(
    options: BenchOptions, *, watcher: Watcher | None = None, make_prompt: PromptMaker | None = None
) -> BenchOutcome:
    """Measure a server. Every finished request is on disk at once; a cancelled run keeps what it has.

    Args:
        options: What to measure.
        watcher: Told what happens as it happens.
        make_prompt: Makes the prompt of a job; None builds it with the server's tokenizer.

    Raises:
        InputError: The server is not there, will not take the lengths, or an option or the run folder
            cannot be used.
    """
    watcher = watcher or Watcher()
    options.check()
    server = await ask_server(normalise_url(options.url), model=options.model, api_key=options.api_key)
    check_lengths(server, options.contexts, options.output_tokens)
    if make_prompt is None:
        make_prompt = await asyncio.to_thread(_prompt_maker, server, options)
    seed = _choose_seed(options)
    jobs = plan_jobs(
        contexts=options.contexts,
        depths=options.depths,
        repeats=options.repeats,
        seed=seed,
        output_tokens=options.output_tokens,
        in_order=options.in_order,
    )
    identity = Identity(
        model=server.model,
        api=options.api.value,
        prompt_as=(PromptAs.TEXT if options.api is Api.CHAT else options.prompt_as).value,
        task=options.task,
        seed=seed,
        ignore_eos=options.ignore_eos,
    )
    start = new_start(_record_arguments(options), server)
    with open_run(options.run, identity, start, resume=options.resume) as store:
        watcher.opened(store.folder, server)
        to_send = choose_jobs(jobs, store.results, retry_failed=options.retry_failed)
        with BodyFolder(store.folder) as bodies:
            prepared: deque[PreparedRequest] = deque()
            for number, job in enumerate(to_send):
                watcher.preparing(job, number, len(to_send))
                prepared.append(
                    await asyncio.to_thread(_prepare, job, make_prompt, bodies.path, options, server.model)
                )
            watcher.sending(len(to_send), len(jobs) - len(to_send))
            load = _Load(options, store, prepared, watcher)
            await load.run()
        return BenchOutcome(
            folder=store.folder,
            info=store.info,
            results=store.latest(),
            skipped=len(jobs) - len(to_send),
            unsent=len(prepared),
            stopped=load.stopped if prepared else "",
        )


def choose_jobs(jobs: Sequence[Job], results: Sequence[Result], *, retry_failed: bool) -> tuple[Job, ...]:
    """Choose what is still to send: jobs without a result, with `retry_failed` also those that failed."""
    there = {result.job: result.status for result in results}
    wanted = [job for job in jobs if job not in there or (retry_failed and there[job] is not Status.OK)]
    return tuple(wanted)


class _Load:
    """A closed loop: so many workers, each sending the next request when its last one is over."""

    def __init__(
        self, options: BenchOptions, store: RunStore, prepared: deque[PreparedRequest], watcher: Watcher
    ) -> None:
        self.stopped = ""
        self._options = options
        self._store = store
        self._prepared = prepared
        self._watcher = watcher
        self._unreachable = 0
        self._company: dict[Job, int] = {}  # for each request under way, the most there were at a time
        self._deadline: float | None = None

    async def run(self) -> None:
        """Send until nothing is left or there is a reason to stop."""
        options = self._options
        if options.time_limit_s is not None:
            self._deadline = time.perf_counter() + options.time_limit_s
        client = Client(normalise_url(options.url), api_key=options.api_key, limits=options.limits)
        try:
            async with client, asyncio.TaskGroup() as group:
                for _ in range(min(options.concurrency, len(self._prepared))):
                    group.create_task(self._work(client))
        except* InputError as errors:
            raise _first(errors) from errors

    async def _work(self, client: Client) -> None:
        while self._prepared and not self._must_stop():
            request = self._prepared.popleft()
            self._watcher.started(request.job)
            self._company[request.job] = 1
            for job in self._company:
                self._company[job] = max(self._company[job], len(self._company))
            exchange = await client.send(
                self._options.api,
                request.map_body(),
                deadline=self._deadline,
                on_first_token=partial(self._watcher.first_token, request.job),
            )
            request.discard()
            result = measure(
                request.job,
                exchange,
                answer=request.answer,
                score=request.score(exchange.text),
                company=self._company.pop(request.job),
            )
            self._unreachable = self._unreachable + 1 if result.status is Status.UNREACHABLE else 0
            await asyncio.to_thread(self._store.add, result)
            self._watcher.finished(result)

    def _must_stop(self) -> bool:
        if self._deadline is not None and time.perf_counter() >= self._deadline:
            self.stopped = f"the time limit of {self._options.time_limit_s:g} s has passed"
        elif self._unreachable >= _UNREACHABLE_IN_A_ROW:
            self.stopped = f"the server at {self._options.url} no longer takes connections"
        return bool(self.stopped)


def _first(errors: BaseExceptionGroup[InputError]) -> InputError:
    """Return the first error of a group: the others followed from the same cause."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _prompt_maker(server: ServerInfo, options: BenchOptions) -> PromptMaker:
    from farspan.prompts.build import build_prompt
    from farspan.prompts.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(find_tokenizer(server, options.tokenizer))

    def make(job: Job) -> Any:
        return build_prompt(
            tokenizer,
            tokens=job.context,
            task=options.task,
            depth=job.depth,
            seed=job.prompt_seed,
            chat=options.api is Api.CHAT,
            output_tokens=job.output_tokens,
        )

    return make


def _prepare(
    job: Job, make_prompt: PromptMaker, folder: Path, options: BenchOptions, model: str
) -> PreparedRequest:
    return prepare_request(
        job,
        make_prompt(job),
        folder,
        api=options.api,
        prompt_as=options.prompt_as,
        model=model,
        ignore_eos=options.ignore_eos,
        extra=options.extra_body,
    )


def _choose_seed(options: BenchOptions) -> int:
    if options.seed is not None:
        return options.seed
    if options.resume and (options.run / "run.json").is_file():
        return load_info(options.run).identity.seed
    return secrets.randbits(31)


def _record_arguments(options: BenchOptions) -> dict[str, Any]:
    """List the arguments for `run.json`: all but the key."""
    return {
        "url": normalise_url(options.url),
        "contexts": options.contexts,
        "depths": options.depths,
        "repeats": options.repeats,
        "output_tokens": options.output_tokens,
        "concurrency": options.concurrency,
        "tokenizer": str(options.tokenizer) if options.tokenizer else None,
        "in_order": options.in_order,
        "extra_body": dict(options.extra_body),
        "limits": options.limits,
        "time_limit_s": options.time_limit_s,
    }
