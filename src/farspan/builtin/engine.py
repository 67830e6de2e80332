"""The engine: a model, a KV cache and a scheduler, advanced one step at a time by one thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from farspan.builtin.decode_step import Capture, CudaGraphs, DecodeInput, DecodeStep
from farspan.builtin.kernels.trial import device_answers
from farspan.builtin.model import LlamaModel, Piece
from farspan.builtin.sampling import sample
from farspan.builtin.scheduler import FinishReason, Request, Scheduler, Work
from farspan.errors import InputError
from farspan.kv.interface import KVStatistics
from farspan.kv.kv_options import KVOptions
from farspan.kv.kvcache import ElasticKVCache
from farspan.kv.memory.memory_log import MemoryLog
from farspan.kv.sequence import ElasticSequenceKV

_LOG = logging.getLogger(__name__)
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is run; names are vLLM's where it has one.

    Attributes:
        max_model_len: Longest prompt plus output, tokens; None for what the checkpoint allows.
        kv: How the KV cache behaves.
        max_num_batched_tokens: The most tokens of one step: a prompt is computed in chunks of this size.
        max_num_seqs: The most requests in progress at once.
        enforce_eager: Compute every step anew, without CUDA graphs.
    """

    max_model_len: int | None = None
    kv: KVOptions = field(default_factory=KVOptions)
    max_num_batched_tokens: int = 4096
    max_num_seqs: int = 64
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        for name in ("max_model_len", "max_num_batched_tokens", "max_num_seqs"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value}", "it must be positive")


class Output(NamedTuple):
    """A token that a step produced for a request, and why the request ended if it did."""

    request: Request
    token_id: int | None  # None when the step failed
    finish_reason: FinishReason | None
    error: str = ""
    exception: Exception | None = None


class InferenceEngine:
    """Serves requests on one model; not safe to share between threads.

    Args:
        model: The model.
        options: How it is run.
        capture: How steps that decode are recorded; None for CUDA graphs where there is a GPU and they are wanted.
        write: Takes a line of the log on what has become of the KV cache's memory.

    Raises:
        InputError: An option does not fit the model.
    """

    def __init__(
        self,
        model: LlamaModel,
        options: EngineOptions | None = None,
        capture: Capture | None = None,
        write: Callable[[str], None] = _LOG.info,
    ) -> None:
        options = options or EngineOptions()
        limit = model.config.max_position_embeddings
        if options.max_model_len is not None and options.max_model_len > limit:
            raise InputError(
                f"max_model_len {options.max_model_len} is above the checkpoint's max_position_embeddings {limit}",
                f"use at most {limit}",
            )
        self.model = model
        self.options = options
        self.max_model_len = options.max_model_len or limit
        self._cache = ElasticKVCache(
            layers=model.retentions,
            num_kv_heads=model.config.num_key_value_heads,
            head_dim=model.config.head_dim,
            dtype=model.dtype,
            device=model.device,
            max_step_tokens=options.max_num_batched_tokens,
            options=options.kv,
        )
        self._memory_log = MemoryLog(self._cache.segments, write)
        self._scheduler = Scheduler(self._cache, options.max_num_batched_tokens, options.max_num_seqs)
        self._ends = frozenset(model.config.eos_token_ids)
        self._decode: DecodeStep | None = None
        # What checks every read in the debug mode sees those of `SequenceKV.runs` only.
        if model.operations.paged and self._cache.read_check(0) is None:
            if capture is None and model.device.type == "cuda" and not options.enforce_eager:
                capture = CudaGraphs()
            self._decode = DecodeStep(
                model, self._cache, self.max_model_len, self._scheduler.max_num_seqs, capture
            )

    @property
    def num_running(self) -> int:
        """Requests in progress."""
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for room."""
        return len(self._scheduler.waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    @property
    def num_preemptions(self) -> int:
        """How often a request lost its room and went back to the queue."""
        return self._scheduler.preemptions

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """Return every setting under the name of its flag; None where the engine decides as it goes."""
        kv = self.options.kv
        return {
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "max_model_len": self.max_model_len,
            "max_num_batched_tokens": self.options.max_num_batched_tokens,
            "max_num_seqs": self.options.max_num_seqs,
            "load_format": self.model.load_format.value,
            "enforce_eager": self.options.enforce_eager,
            "kv_cache_gib": kv.capacity_gib,
            "kv_initial": kv.initial_text or None,
            "kv_fixed": kv.is_fixed,
            "kv_cache_dtype": "fp8_e4m3" if kv.fp8 else "auto",
            "kv_host_gib": kv.host_gib,
            "kv_segment_mib": kv.segment_mib,
            "kv_quiet_s": kv.quiet_s,
            "kv_budget": kv.budget.name if kv.budget else None,
            "kv_budget_limit": kv.budget.limit if kv.budget else None,
            "kv_budget_floor": kv.budget.floor if kv.budget else None,
            "keep_prefixes_s": kv.keep_prefixes_s,
            "page_size": kv.page_tokens,
            "enable_prefix_caching": kv.prefix_caching,
        }

    def statistics(self) -> KVStatistics:
        """Return what the KV cache holds."""
        return self._cache.statistics()

    @property
    def budget_file(self) -> Path | None:
        """The file of the budget that the KV cache shares with other servers; None for none."""
        return self._cache.budget.path if self._cache.budget else None

    def tick(self) -> float | None:
        """Give back memory that is due; return in how many seconds to call again, None for no need."""
        try:
            again = self._cache.tick()
            self._memory_log.note()
            return again
        except Exception:  # noqa: BLE001 whatever it is, it is that one's
            # Memory that is not given back now is given back later; nobody's request depends on it.
            _LOG.exception("the KV cache could not give memory back")
            return _RETRY_S

    def reset_prefix_cache(self) -> None:
        """Forget every prefix that no request in progress uses."""
        self._cache.reset_prefixes()

    def close(self) -> None:
        """Give all memory back; the engine is not used afterwards."""
        for request in (*self._scheduler.running, *self._scheduler.waiting):
            self._scheduler.remove(request)
        self._decode = None
        self._cache.close()

    def check(self, prompt_tokens: int, max_tokens: int) -> None:
        """Check that a request could be served on an empty engine.

        Raises:
            InputError: It is longer than the model or the server allows.
            KVCacheError: It needs more KV cache than there is.
        """
        if prompt_tokens < 1:
            raise InputError("the prompt is empty", "send at least one token")
        if prompt_tokens + max_tokens > self.max_model_len:
            raise InputError(
                f"the prompt has {prompt_tokens} tokens and {max_tokens} are to be generated, "
                f"above this server's maximum context length of {self.max_model_len}",
                "shorten the prompt, ask for fewer tokens or start the server with a larger --max-model-len",
            )
        self._cache.check_fits(prompt_tokens + max_tokens - 1)

    def add(self, request: Request) -> None:
        """Queue a request that `check` has passed."""
        self._scheduler.add(request)

    def abort(self, request: Request) -> None:
        """Drop a request, wherever it stands; one that has ended is left alone."""
        self._scheduler.remove(request)

    def step(self) -> list[Output]:
        """Compute one step and return the tokens it produced.

        A failure ends the request it belongs to and no other, whether it comes while a request is admitted, computed or
        sampled. Only a GPU that answers no more ends the engine: what this raises then is for whoever runs it.
        """
        self.tick()
        outputs = self._compute(self._scheduler.schedule())
        return outputs + [
            Output(request, None, FinishReason.ERROR, str(error) or type(error).__name__, error)
            for request, error in self._scheduler.take_failures()
        ]

    def _compute(self, step: list[Work]) -> list[Output]:
        if not step:
            return []
        try:
            logits, likeliest = self._forward(step)
        except Exception as error:
            if not device_answers(self.model.device):
                # Nothing is computed in this process any more, whoever asks: the server ends, and says why.
                _LOG.critical("the GPU answers no more: restart the server (%s)", error)
                raise
            if len(step) == 1:
                _LOG.exception("request %s failed", step[0].request.request_id)
                self._scheduler.fail(step[0].request, error)
                return []
            # The same positions are written again, each request by itself: who is at fault fails, the others do not.
            _LOG.warning("a step of %d requests failed (%s); each is computed alone", len(step), error)
            return [output for work in step for output in self._compute([work])]
        chosen = [self._choose(*each) for each in zip(step, logits, likeliest, strict=True)]
        return [output for output in chosen if output is not None]

    def _forward(self, step: list[Work]) -> tuple[torch.Tensor, list[int | None]]:
        """Return the logits after each piece, and each's likeliest token where that is known already."""
        decode = self._decode
        if decode is None or any(work.count > 1 for work in step):
            return self.model.forward([_piece(work) for work in step]), [None] * len(step)
        decoded = decode([_decode_input(work) for work in step])
        return decoded.logits, list(decoded.likeliest.tolist())

    def _choose(self, work: Work, logits: torch.Tensor, likeliest: int | None) -> Output | None:
        request = work.request
        yields = work.yields_token
        try:
            self._scheduler.advance(work)
            if not yields:
                return None
            known = likeliest if request.generator is None else None
            token = sample(logits, request.params, request.generator) if known is None else known
        except Exception as error:  # noqa: BLE001 whatever it is, it is that one's
            _LOG.exception("request %s failed", request.request_id)
            self._scheduler.fail(request, error)
            return None
        request.output.append(token)
        reason = self._finished(request, token)
        if reason is not None:
            self._scheduler.remove(request)
        return Output(request, token, reason)

    def _finished(self, request: Request, token: int) -> FinishReason | None:
        params = request.params
        if token in params.stop_token_ids or (token in self._ends and not params.ignore_eos):
            return FinishReason.STOP
        return FinishReason.LENGTH if len(request.output) >= params.max_tokens else None


def _piece(work: Work) -> Piece:
    request = work.request
    assert request.sequence is not None
    tokens = request.tokens(work.start, work.start + work.count)
    return Piece(request.sequence, torch.from_numpy(tokens.astype("int64")), work.start)


def _decode_input(work: Work) -> DecodeInput:
    request = work.request
    assert isinstance(request.sequence, ElasticSequenceKV)
    return DecodeInput(request.sequence, int(request.tokens(work.start, work.start + 1)[0]), work.start)
