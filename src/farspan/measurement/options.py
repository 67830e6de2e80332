"""What to measure: the options of a bench, and what is worked out from them before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from farspan.errors import InputError
from farspan.measurement.http.client import Limits
from farspan.measurement.http.target import normalise_url
from farspan.measurement.http.wire import Api, PromptAs
from farspan.measurement.lengths import Lengths
from farspan.measurement.runs.job import Job, LoadPhase
from farspan.measurement.schedule import plan_arrivals, plan_conversations, plan_jobs, plan_traced_jobs
from farspan.measurement.shared_length import SharedLength
from farspan.measurement.trace import Trace
from farspan.prompts.corpus import open_corpus

_GROUP_SIZE = 4
TURN_TOKENS = 512
GOODPUT_TIMES = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure.

    Args:
        url: The server's address.
        run: The run folder.
        contexts: Prompt lengths in tokens, as the server counts them, template included.
        lengths: Draw the lengths from this instead.
        requests: Number of measured requests, instead of `repeats` of each.
        shared_prefix: Send groups of requests that share so much of their prompts: the first of each finds nothing
            cached, the others what they share. `repeats` then counts groups.
        group_size: Requests in a group; None is 4, or one more than are to be under way at a time.
        turns: Send conversations of so many turns: each after the first goes on from the one before and its answer.
            `contexts` are then the first prompts, `repeats` counts conversations, `concurrency` those at a time.
        turn_tokens: Tokens that a turn adds of its own.
        think_time_s: Seconds between an answer and the next turn.
        skip_cold: Do not send a fresh prompt as long as every turn as well.
        trace: Send the requests of a trace at its times instead: exact lengths, and its blocks repeated as it says.
        trace_speed: How much faster than it was recorded.
        model: The model's name; None takes the first one the server lists.
        depths: Where the needle goes, 0 the start to 1 the end; every context is sent at every depth.
        repeats: Requests at each context and depth; with `lengths`, requests.
        output_tokens: Tokens to generate for each request.
        concurrency: Requests under way at a time. None is one in a closed loop, and no bound with a `rate`.
        concurrencies: Go through these one after another instead, each context at each of them by itself.
        rate: Requests to send a second whether or not earlier ones are over (open loop); None is a closed loop.
        burstiness: Shape of the gaps between requests: 1 is Poisson, infinity is constant.
        warmup, cooldown: Requests before and after the measured ones, kept but in no statistics.
        task: What is planted and asked for.
        corpus: Text file, JSON lines, or a folder of such; built-in text when None.
        corpus_field: Of JSON records, the field that holds the text; "text" when None.
        tokenizer: The server's tokenizer: a folder, a file, a hub id or a server with /tokenize; None finds it by what
            the server says it has loaded.
        api: Which API to use.
        prompt_as: Token ids or text; a chat always takes text.
        prompts: Keep the prompts in this folder, each once, by hash; None removes them with the run's end.
        seed: Decides prompts and order; None takes a fresh one, or the run's own when resuming. A seed
            used before on the same server finds its prompts in the prefix cache.
        resume: Go on with the run in `run`.
        retry_failed: When resuming, send failed requests again; the new result replaces the old one.
        in_order: Send contexts and depths as given instead of shuffled.
        ignore_eos: Ask the server to generate on after an end-of-sequence token.
        extra_body: Further fields of every request body.
        api_key: Never stored, never printed.
        limits: How long to wait for what.
        plan: A `farspan plan --json` file: where no first-token limit is given, it follows from the planned times.
        time_limit_s: When to stop the whole run, in seconds from the first request.
        keep_cut: Whether a request that `time_limit_s` ends is kept as timed out; else it is as if it had never been
            sent.
        launched: How farspan started the server, for the run's environment; empty where it did not.
        percentiles: Which to report.
        goodput: Highest acceptable times in seconds by name (`GOODPUT_TIMES`).
    """

    url: str
    run: Path
    contexts: tuple[int, ...] = ()
    lengths: Lengths | None = None
    requests: int | None = None
    shared_prefix: SharedLength | None = None
    group_size: int | None = None
    turns: int | None = None
    turn_tokens: int = TURN_TOKENS
    think_time_s: float = 0.0
    skip_cold: bool = False
    trace: Trace | None = None
    trace_speed: float = 1.0
    model: str | None = None
    depths: tuple[float, ...] = (0.5,)
    repeats: int = 1
    output_tokens: int = 16
    concurrency: int | None = None
    concurrencies: tuple[int, ...] = ()
    rate: float | None = None
    burstiness: float = 1.0
    warmup: int = 0
    cooldown: int = 0
    task: str = "needle"
    corpus: str | None = None
    corpus_field: str | None = None
    tokenizer: Path | str | None = None
    api: Api = Api.COMPLETIONS
    prompt_as: PromptAs = PromptAs.IDS
    prompts: Path | None = None
    seed: int | None = None
    resume: bool = False
    retry_failed: bool = False
    in_order: bool = False
    ignore_eos: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)
    plan: Path | None = None
    time_limit_s: float | None = None
    keep_cut: bool = True
    launched: Mapping[str, Any] = field(default_factory=dict)
    percentiles: tuple[float, ...] = (50.0, 90.0, 99.0)
    goodput: Mapping[str, float] = field(default_factory=dict)

    @property
    def at_once(self) -> int | None:
        """Most requests under way at a time; None is no bound."""
        if self.concurrencies:
            return max(self.concurrencies)
        open_loop = self.rate is not None or self.trace is not None
        return self.concurrency if self.concurrency is not None or open_loop else 1

    def check(self) -> None:
        """Refuse options that make no sense.

        Raises:
            InputError: One of them is out of range.
        """
        for name, value in (
            ("--repeats", self.repeats),
            ("--output-tokens", self.output_tokens),
            ("--concurrency", self.concurrency),
            ("--num-prompts", self.requests),
            ("--group-size", self.group_size),
            ("--turn-tokens", self.turn_tokens),
            *(("--concurrency", one) for one in self.concurrencies),
        ):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", "give 1 or more")
        for name, value in (("--warmup", self.warmup), ("--cooldown", self.cooldown)):
            if value < 0:
                raise InputError(f"{name} is {value}", "give 0 or more")
        for name, number in (("--rate", self.rate), ("--burstiness", self.burstiness)):
            if number is not None and not number > 0:
                raise InputError(f"{name} is {number:g}", "give a number above 0")
        if self.rate is not None and self.concurrencies:
            raise InputError(
                "--rate sends at set times, whatever is under way", "give one --concurrency with it"
            )
        if self.rate is not None and math.isinf(self.rate):
            raise InputError("--rate is infinite", "leave it out and give --concurrency")
        self._check_trace()
        if (bool(self.contexts), self.lengths is not None, self.trace is not None).count(True) != 1 or (
            not self.depths
        ):
            raise InputError(
                "there is not one source of prompt lengths and a depth",
                "give either --contexts 10k,100k or --length-distribution uniform:1k,100k, or a --trace FILE",
            )
        self._check_shared()
        self._check_turns()
        for depth in self.depths:
            if not 0 <= depth <= 1:
                raise InputError(f"depth {depth:g} is outside 0 to 1", "give depths such as 0.1,0.9")
        if self.corpus_field is not None and self.corpus is None:
            raise InputError(f"--corpus-field {self.corpus_field} is of a corpus", "add --corpus FILE")
        for percentile in self.percentiles:
            if not 0 < percentile < 100:
                raise InputError(f"percentile {percentile:g} is outside 0 to 100", "give such as 50,90,99")
        for name in self.goodput:
            if name not in GOODPUT_TIMES:
                raise InputError(f"--goodput knows no {name!r}", f"use one of {', '.join(GOODPUT_TIMES)}")
        if self.retry_failed and not self.resume:
            raise InputError("--retry-failed says what to do with an earlier run", "add --resume")

    def _check_shared(self) -> None:
        if self.shared_prefix is None:
            if self.group_size is not None:
                raise InputError("--group-size is of requests that share a prefix", "add --shared-prefix 90%")
            return
        if self.rate is not None or self.concurrencies or self.lengths is not None:
            raise InputError(
                "--shared-prefix sends the first of a group alone and then the others",
                "give --contexts and at most one --concurrency with it, and no --rate",
            )
        if self.group_size == 1:
            raise InputError("--group-size is 1: nothing is shared", "give 2 or more")
        for context in self.contexts:
            self.shared_prefix.of(context)

    def _check_turns(self) -> None:
        if self.turns is None:
            for name in ("turn_tokens", "think_time_s", "skip_cold"):
                if getattr(self, name) != self.__dataclass_fields__[name].default:
                    option = name.removesuffix("_s").replace("_", "-")
                    raise InputError(f"--{option} is of conversations", "add --turns 4")
            return
        if self.turns < 2:
            raise InputError(f"--turns is {self.turns}: nothing is gone on from", "give 2 or more")
        if not 0 <= self.think_time_s < math.inf:
            raise InputError(f"--think-time is {self.think_time_s:g}", "give seconds")
        both = {
            "--rate": self.rate is not None, "--length-distribution": self.lengths is not None,
            "--shared-prefix": self.shared_prefix is not None, "--trace": self.trace is not None,
            "several --concurrency": bool(self.concurrencies), "--num-prompts": self.requests is not None,
            "--warmup": bool(self.warmup), "--cooldown": bool(self.cooldown),
        }  # fmt: skip
        if named := [name for name, given in both.items() if given]:
            raise InputError(
                f"--turns and {named[0]} both say what is sent",
                "give --contexts, --repeats and at most one --concurrency with --turns",
            )
        if self.api is Api.CHAT or self.prompt_as is PromptAs.TEXT:
            raise InputError(
                "a conversation goes on from token ids, and a chat or a text is encoded by the server",
                "use --api completions, or generate for SGLang, with --prompt-as ids",
            )

    def _check_trace(self) -> None:
        if not 0 < self.trace_speed < math.inf:
            raise InputError(f"--trace-speed is {self.trace_speed:g}", "give a number above 0")
        if self.trace is None:
            if self.trace_speed != 1:
                raise InputError("--trace-speed is of a trace", "add --trace FILE")
            return
        if self.resume:
            raise InputError("a trace is sent at its times, from the first request on", "start another run")
        if self.api is Api.CHAT:
            raise InputError("a chat's template is in no trace", "use --api completions")
        for name in (
            "rate",
            "concurrencies",
            "shared_prefix",
            "depths",
            "repeats",
            "output_tokens",
            "task",
            "corpus",
        ):
            if getattr(self, name) != self.__dataclass_fields__[name].default:
                option = "concurrency" if name == "concurrencies" else name.replace("_", "-")
                raise InputError(
                    f"--{option} and --trace both say what is sent", f"leave --{option} as it is by default"
                )
        if self.warmup or self.cooldown:
            raise InputError("--warmup and --cooldown are of other requests than a trace's", "leave them out")

    @property
    def requests_in_group(self) -> int:
        """Requests that share a prefix: as given, or enough to have several behind the first."""
        return self.group_size or max(_GROUP_SIZE, 1 + (self.at_once or 1))

    def plan_jobs(self, seed: int) -> tuple[Job, ...]:
        """List the requests of the run, in the order they are sent."""
        if self.trace is not None:
            return plan_traced_jobs(self.trace.requests[: self.requests], seed=seed)
        if self.turns is not None:
            return plan_conversations(
                contexts=self.contexts,
                depths=self.depths,
                repeats=self.repeats,
                seed=seed,
                output_tokens=self.output_tokens,
                turns=self.turns,
                turn_tokens=self.turn_tokens,
                in_order=self.in_order,
                cold=not self.skip_cold,
            )
        return plan_jobs(
            contexts=self.contexts,
            depths=self.depths,
            repeats=self.repeats,
            seed=seed,
            output_tokens=self.output_tokens,
            in_order=self.in_order,
            lengths=self.lengths,
            requests=self.requests,
            warmup=self.warmup,
            cooldown=self.cooldown,
            concurrencies=self.concurrencies,
            shared=self.shared_prefix,
            group_size=self.requests_in_group,
        )

    def plan_arrivals(self, count: int, seed: int) -> tuple[float, ...] | None:
        """Return when each of `count` requests is to leave, in seconds from the start; None in a closed loop."""
        if self.trace is not None:
            return tuple(request.at_s / self.trace_speed for request in self.trace.requests[:count])
        if self.rate is None:
            return None
        return plan_arrivals(count, rate=self.rate, burstiness=self.burstiness, seed=seed)

    def record(self) -> dict[str, Any]:
        """List the options for `run.json`: all but the key."""
        return {
            "url": normalise_url(self.url),
            "contexts": self.contexts,
            "length_distribution": self.lengths.text if self.lengths else None,
            "num_prompts": self.requests,
            "shared_prefix": self.shared_prefix.text if self.shared_prefix else None,
            "group_size": self.requests_in_group if self.shared_prefix else None,
            "turns": self.turns,
            "turn_tokens": self.turn_tokens if self.turns else None,
            "think_time_s": self.think_time_s if self.turns else None,
            "skip_cold": self.skip_cold if self.turns else None,
            "trace": str(self.trace.path) if self.trace else None,
            "trace_speed": self.trace_speed if self.trace else None,
            "depths": self.depths,
            "repeats": self.repeats,
            "output_tokens": self.output_tokens,
            "concurrency": self.at_once,
            "concurrencies": self.concurrencies,
            "rate": self.rate,
            "burstiness": None if self.rate is None or math.isinf(self.burstiness) else self.burstiness,
            "warmup": self.warmup,
            "cooldown": self.cooldown,
            "corpus": self.corpus,
            "corpus_field": self.corpus_field,
            "tokenizer": str(self.tokenizer) if self.tokenizer else None,
            "prompts": str(self.prompts) if self.prompts else None,
            "in_order": self.in_order,
            "extra_body": dict(self.extra_body),
            "limits": self.limits,
            "plan": str(self.plan) if self.plan else None,
            "time_limit_s": self.time_limit_s,
        }


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a bench would send, for a look before it costs anything.

    Args:
        requests: All requests, those before and after the measured ones included.
        measured: Of them, those that count.
        prompt_tokens: Of all requests together.
        output_tokens: The most that all requests together generate.
        by_context: Requests by prompt length, ascending.
        last_leaves_s: When the last request leaves in an open loop; None in a closed one.
        first: The first requests, in order.
    """

    requests: int
    measured: int
    prompt_tokens: int
    output_tokens: int
    by_context: dict[str, int]
    last_leaves_s: float | None
    first: tuple[Job, ...]

    def to_json(self) -> dict[str, Any]:
        """It as plain data."""
        return asdict(self)


def plan_dry_run(options: BenchOptions, *, shown: int = 10) -> DryRun:
    """Work out what a bench would send, without asking any server.

    Raises:
        InputError: An option is out of range.
    """
    options.check()
    open_corpus(options.corpus, options.corpus_field)
    seed = options.seed or 0
    jobs = options.plan_jobs(seed)
    arrivals = options.plan_arrivals(len(jobs), seed)
    counts: dict[int, int] = {}
    for job in jobs:
        counts[job.context] = counts.get(job.context, 0) + 1
    return DryRun(
        requests=len(jobs),
        measured=sum(job.phase is LoadPhase.MEASURED for job in jobs),
        prompt_tokens=sum(job.context for job in jobs),
        output_tokens=sum(job.output_tokens for job in jobs),
        by_context={str(context): counts[context] for context in sorted(counts)},
        last_leaves_s=arrivals[-1] if arrivals else None,
        first=jobs[:shown],
    )
