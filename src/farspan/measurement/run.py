"""`farspan bench` as a function: ask the server, prepare, send, measure, keep."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from farspan.engines.registry import find_served
from farspan.errors import InputError
from farspan.measurement.analysis.plan_times import PlanTimes, read_plan_times
from farspan.measurement.http.client import Limits
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.target import (
    ServerInfo,
    ask_server,
    ask_settings,
    check_lengths,
    normalise_url,
)
from farspan.measurement.http.wire import Api
from farspan.measurement.load import Load
from farspan.measurement.observe.observer import ObservedRun, Observer
from farspan.measurement.options import BenchOptions
from farspan.measurement.prepared_requests import (
    PROMPTS_FOLDER,
    PreparedRequest,
    PromptMaker,
    PromptStore,
    choose_form,
    prepare_request,
)
from farspan.measurement.progress import Watcher
from farspan.measurement.runs.bench_outcome import BenchOutcome
from farspan.measurement.runs.environment import describe_machine, read_document, without_secrets
from farspan.measurement.runs.job import Job, LoadPhase
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import INFO_FILE, Identity, RunStore, load_info, new_start, open_run
from farspan.measurement.trace import BLOCK_TOKENS
from farspan.prompts.corpus import Corpus, corpus_warnings, open_corpus
from farspan.sizes import format_tokens


async def run_bench(
    options: BenchOptions,
    *,
    watcher: Watcher | None = None,
    make_prompt: PromptMaker | None = None,
    prompts: PromptStore | None = None,
    observers: Sequence[Observer] = (),
) -> BenchOutcome:
    """Measure a server. Every finished request is on disk at once; a cancelled run keeps what it has.

    Args:
        options: What to measure.
        watcher: Its methods are called as the bench goes on.
        make_prompt: Makes the prompt of a job; None builds it with the server's tokenizer.
        prompts: Where the prompts are, or will be, when other runs send them too; None follows the options.
        observers: Watch the server meanwhile.

    Raises:
        InputError: The server is not there, will not take the lengths, or an option or the run folder
            cannot be used.
    """
    watcher = watcher or Watcher()
    options.check()
    server = await ask_server(normalise_url(options.url), model=options.model, api_key=options.api_key)
    seed = _choose_seed(options, [options.run])
    jobs = options.plan_jobs(seed)
    outputs = {job.output_tokens for job in jobs}
    for output in sorted(outputs):
        check_lengths(
            server, tuple(dict.fromkeys(job.context for job in jobs if job.output_tokens == output)), output
        )
    times = read_plan_times(options.plan) if options.plan else PlanTimes({})
    corpus = await asyncio.to_thread(open_corpus, options.corpus, options.corpus_field)
    if make_prompt is None:
        make_prompt = await asyncio.to_thread(_prompt_maker, server, options, corpus, watcher)
    identity = Identity(
        model=server.model,
        api=options.api.value,
        prompt_as=choose_form(options.api, options.prompt_as).value,
        task="trace" if options.trace else options.task,
        seed=seed,
        ignore_eos=options.ignore_eos,
        corpus=await asyncio.to_thread(lambda: corpus.key) if options.corpus else "",
    )
    start = new_start(options.record(), server)
    with open_run(options.run, identity, start, resume=options.resume) as store:
        watcher.opened(store.folder, server)
        store.keep_environment(await _describe_environment(options, server))
        to_send = choose_jobs(jobs, store.results, retry_failed=options.retry_failed)
        async with AsyncExitStack() as stack:
            if prompts is None:
                folder = options.prompts or store.folder / PROMPTS_FOLDER
                prompts = stack.enter_context(PromptStore(folder, keep=options.prompts is not None))
            requests = await _prepare(to_send, options, server, prompts, make_prompt, watcher, store)
            watcher.sending(len(to_send), len(jobs) - len(to_send))

            def limits(job: Job) -> Limits:
                # Without a bound every request of the run may be ahead of this one.
                limits = times.limit(
                    job, options.limits, concurrency=job.concurrency or options.at_once or len(jobs)
                )
                return limits.for_output(job.output_tokens)

            load = Load(
                options,
                store,
                requests,
                arrivals=options.plan_arrivals(len(requests), seed),
                watcher=watcher,
                observers=observers,
                limits=limits,
            )
            observed = ObservedRun(
                normalise_url(options.url), store.folder, server, len(store.info.starts) - 1, options.api_key
            )
            for observer in observers if requests else ():
                await observer.start(observed)
                stack.push_async_callback(observer.stop)
            await load.run()
        return BenchOutcome(
            folder=store.folder,
            info=store.info,
            results=store.latest(),
            skipped=len(jobs) - len(to_send),
            unsent=load.unsent,
            stopped=load.stopped,
            loop_lag=load.loop_lag,
            faults=tuple(filter(None, (observer.find_fault() for observer in observers if requests))),
        )


async def run_engines(
    options: BenchOptions,
    engines: Mapping[str, str],
    *,
    watcher: Watcher | None = None,
    make_prompt: PromptMaker | None = None,
    make_observers: Callable[[], Observer] | None = None,
    adapt: Callable[[BenchOptions], BenchOptions] = lambda options: options,
) -> dict[str, BenchOutcome]:
    """Measure several servers one after another with the same prompts, each into a folder of its own in the run
    folder.

    Args:
        options: What to measure; `url` is not used. SGLang's /generate is used where an engine's name begins with
            `sglang`, completions elsewhere.
        engines: Name to address, in the order to go through.
        watcher: Its methods are called as the bench goes on.
        make_prompt: Makes the prompt of a job; None builds it with the first server's tokenizer.
        make_observers: Makes the observer of each server.
        adapt: Adds what is known of a server to its options.

    Raises:
        InputError: As for `run_bench`; the engines before are measured then.
    """
    seed = _choose_seed(options, [options.run / name for name in engines])
    folder = options.prompts or options.run / PROMPTS_FOLDER
    outcomes: dict[str, BenchOutcome] = {}
    for name in engines:
        replace(options, url=engines[name]).check()
    with PromptStore(folder, keep=options.prompts is not None) as prompts:
        for name, url in engines.items():
            api = options.api
            if api is Api.GENERATE and not name.lower().startswith("sglang"):
                api = Api.COMPLETIONS
            wanted = adapt(replace(options, url=url, run=options.run / name, seed=seed, api=api))
            outcomes[name] = await run_bench(
                wanted,
                watcher=watcher,
                make_prompt=make_prompt,
                prompts=prompts,
                observers=() if make_observers is None else (make_observers(),),
            )
    return outcomes


def choose_jobs(jobs: Sequence[Job], results: Sequence[Result], *, retry_failed: bool) -> tuple[Job, ...]:
    """Choose what is still to send: jobs without a result, with `retry_failed` also those that failed. Of a
    group that shares a prefix all go again when one is missing: what the server has of the prefix is not known. Nothing
    is warmed up or cooled down for when no measured request is left.
    """
    there = {result.job: result.status for result in results}
    missing = {
        job.group for job in jobs if job not in there or (retry_failed and there[job] is not Status.OK)
    }
    wanted = [job for job in jobs if job.group in missing]
    return tuple(wanted) if any(job.phase is LoadPhase.MEASURED for job in wanted) else ()


async def _prepare(
    jobs: Sequence[Job],
    options: BenchOptions,
    server: ServerInfo,
    prompts: PromptStore,
    make_prompt: PromptMaker,
    watcher: Watcher,
    store: RunStore,
) -> list[PreparedRequest]:
    form = choose_form(options.api, options.prompt_as)
    requests: list[PreparedRequest] = []
    times_sent: Counter[Job] = Counter()
    for job in jobs:
        times_sent[job.group] = max(times_sent[job.group], store.times_sent[job])
    for number, job in enumerate(jobs):
        watcher.preparing(job, number, len(jobs))
        stored = await asyncio.to_thread(prompts.add, job, make_prompt, form, times_sent[job.group])
        requests.append(
            prepare_request(
                stored,
                api=options.api,
                model=server.model,
                ignore_eos=options.ignore_eos,
                extra={**_ask_for_token_ids(options, server.owned_by), **options.extra_body},
            )
        )
    return requests


def _ask_for_token_ids(options: BenchOptions, owned_by: str | None) -> Mapping[str, object]:
    """Return the fields by which an engine tells the ids of its answers, for conversations that go on from them."""
    engine = find_served(owned_by) if options.turns is not None else None
    return {} if engine is None or options.api is not Api.COMPLETIONS else engine.token_id_fields


async def _describe_environment(options: BenchOptions, server: ServerInfo) -> dict[str, Any]:
    settings = await ask_settings(server.url, api_key=options.api_key)
    machine = await asyncio.to_thread(describe_machine)
    return {
        "arguments": options.record(),
        "client": machine,
        "server": server,
        "server_settings": without_secrets(settings),
        "plan": read_document(options.plan) if options.plan else None,
        "launch": dict(options.launched) or None,
    }


def _prompt_maker(server: ServerInfo, options: BenchOptions, corpus: Corpus, watcher: Watcher) -> PromptMaker:
    from farspan.measurement.server_tokenizer import load_server_tokenizer
    from farspan.prompts.block_prompt import build_block_prompt
    from farspan.prompts.exact_builder import Prompt, build_prompt
    from farspan.prompts.shared_prefix import SharedPrefix
    from farspan.prompts.turn import Turn, TurnPrompt

    tokenizer, source = load_server_tokenizer(server, options.tokenizer, api_key=options.api_key)
    if options.tokenizer is None and source != server.root:
        watcher.step(f"tokenizer: {source}")
    warned: set[int] = set()

    def make(job: Job) -> Any:
        if options.trace is not None:
            return build_block_prompt(
                tokenizer,
                tokens=job.context,
                blocks=options.trace.requests[job.repeat].blocks,
                block_tokens=BLOCK_TOKENS,
                seed=job.seed,
                output_tokens=job.output_tokens,
            )
        shared = SharedPrefix(job.shared_tokens, job.group_seed) if job.shared_tokens else None
        turn = Turn(job.group_seed, job.member) if job.conversation else None
        if turn is not None and shared is not None:
            # Its own part begins after the last token of the answer before, which nothing has cached.
            shared = SharedPrefix(job.shared_tokens + 1, job.group_seed)
        try:
            prompt = build(job, shared, turn)
        except InputError as error:
            if turn is None or not turn.number:
                raise
            raise InputError(
                f"turn {turn.number + 1} of a conversation: {error.message}",
                f"{error.fix}, or raise --turn-tokens",
            ) from error
        return prompt if turn is None else TurnPrompt(prompt, shared.tokens if shared else 0, tokenizer)

    def build(job: Job, shared: SharedPrefix | None, turn: Turn | None) -> Prompt:
        prompt = build_prompt(
            tokenizer,
            tokens=job.context,
            corpus=corpus,
            task=options.task,
            depth=job.depth,
            seed=job.prompt_seed,
            chat=options.api is Api.CHAT,
            output_tokens=job.output_tokens,
            shared=shared,
            turn=turn,
        )
        if job.context not in warned:
            warned.add(job.context)
            for warning in corpus_warnings(corpus, prompt.corpus_passes):
                watcher.step(f"! {format_tokens(job.context)} tokens: {warning}.")
        return prompt

    return make


def _choose_seed(options: BenchOptions, folders: Sequence[Path]) -> int:
    if options.seed is not None:
        return options.seed
    if options.resume:
        for folder in folders:
            if (folder / INFO_FILE).is_file():
                return load_info(folder).identity.seed
    return secrets.randbits(31)
