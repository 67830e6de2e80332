"""A scheduler's life on elastic KV pools: `kv_pools_process.py VERSION FOLDER CASES`, JSON in and out.

FOLDER holds the unpacked `sglang` package. Its configurator, pools, allocators, prefix cache, admission, retraction and
checks are SGLang's own and run on the CPU; only the forward pass is played: it writes, for every token, a number that
depends on the token and its place, and reads all that an attention layer would read. SGLang's busy check (every slot is
free, cached or somebody's; no page is free and owned) runs after every step, and its idle checks whenever nothing runs.
"""

from __future__ import annotations

import json
import logging
import random
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace as Values
from typing import Any, ClassVar, NamedTuple

import torch

from device_questions import DeviceQuestions
from oracle import HIDDEN, Quiet
from page_kernels import install_page_kernels
from plugin_process import Clock
from stubs import install


class Sizes(NamedTuple):
    """Of the model and the server; small ones, so that a few pages are a segment."""

    window: int = 128
    chunk: int = 256
    full_layers: int = 1
    window_layers: int = 3
    heads: int = 2
    dim: int = 8
    context: int = 8192


class Nothing:
    """Whatever is not there: false, and so are its attributes and what its methods return."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Nothing()

    def __bool__(self) -> bool:
        return False


class Settings(Values):
    """The server's options; those a case does not name are off."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("enable_mamba"):
            return lambda: False
        return None


class Refusals:
    """Has a driver refuse memory: at one call of those that may, or at a part of them."""

    def __init__(self, driver: Any, at: int, part: float, seed: int) -> None:
        from farspan.kv.memory.drivers.driver import NoRoomError

        self.calls = self.refused = 0
        self.armed = False
        self._at, self._part, self._chance = at, part, random.Random(seed)
        for name in ("_create", "_map", "_map_zeros"):
            self._wrap(driver, name, NoRoomError)

    def _wrap(self, driver: Any, name: str, error: type[Exception]) -> None:
        real = getattr(driver, name)

        def call(*args: Any) -> Any:
            if self.armed:
                self.calls += 1
                # Taking memory away must end in something readable; that is not refused on a device either.
                if name != "_map_zeros" and (self.calls == self._at or self._chance.random() < self._part):
                    self.refused += 1
                    raise error("refused by the test")
            return real(*args)

        setattr(driver, name, call)


def random_tokens(chance: random.Random, count: int) -> array[int]:
    """Return the tokens of a prompt."""
    return array("q", [chance.randrange(1, 50_000) for _ in range(count)])


def content(tokens: array[int]) -> torch.Tensor:
    """What the played forward pass writes for each token: exact in float32."""
    numbers = torch.tensor(tokens, dtype=torch.int64)
    return ((numbers * 8191 + torch.arange(len(tokens)) * 31) % 1_000_003 + 1).to(torch.float32)


class Server:
    """One scheduler with its pools."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, self.hybrid = case, case.get("hybrid", True)
        self.device = case.get("device", "cpu")
        self.page = case.get("page", 1)
        self.sizes = Sizes(**case.get("sizes", {}))
        self.settings = settings(case, self.sizes.chunk)
        self._set_globals()
        import sglang.srt.managers.schedule_batch as batches
        import sglang.srt.managers.scheduler as scheduler

        if self.device == "cpu":
            install_page_kernels()
        self._build_pools(case["budget"])
        self._build_tree()
        self._build_scheduler(batches, scheduler)
        self.counts = {"finished": 0, "retracted": 0, "waited": 0, "cached": 0, "aborted": 0}

    def _set_globals(self) -> None:
        import importlib

        for name in (
            "managers.schedule_batch",
            "mem_cache.common",
            "mem_cache.allocation",
            "managers.scheduler",
            "mem_cache.kv_cache_configurator",
            "model_executor.pool_configurator",
            "mem_cache.registry",
        ):
            module = importlib.import_module(f"sglang.srt.{name}")
            if hasattr(module, "get_parallel"):
                module.get_parallel = lambda: Values(attn_tp_size=1, attn_cp_size=1, tp_size=1, pp_size=1)
        context = importlib.import_module("sglang.srt.runtime_context")._CONTEXT
        context._server_args = self.settings
        memory = importlib.import_module("sglang.srt.mem_cache.memory_pool")
        if self.device == "cpu":
            memory.torch.get_device_module = lambda *_: Nothing()
        importlib.import_module("sglang.srt.mem_cache.allocation").support_triton = lambda *_: False

    def _build_pools(self, budget: int) -> None:
        import sglang.srt.mem_cache.kv_cache_configurator as configurator
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        full_layers = self.sizes.full_layers
        model = Values(
            hf_config=Values(architectures=["SomeModel"], get_text_config=lambda: None),
            hf_text_config=Values(),
            context_len=self.sizes.context,
            head_dim=self.sizes.dim,
            v_head_dim=self.sizes.dim,
            swa_head_dim=self.sizes.dim,
            swa_v_head_dim=self.sizes.dim,
            full_attention_layer_ids=list(range(full_layers)),
            swa_attention_layer_ids=list(range(full_layers, full_layers + self.sizes.window_layers)),
            get_num_kv_heads=lambda *_: self.sizes.heads,
            get_swa_num_kv_heads=lambda *_: self.sizes.heads,
            attention_arch=None,
            kv_lora_rank=0,
            linear_attn_registry_result=None,
            num_hidden_layers=self.sizes.full_layers,
        )
        self.model = model
        me = object.__new__(configurator.KVCacheConfigurator)
        values = {
            "server_args": self.settings,
            "model_config": model,
            "device": self.device,
            "is_hybrid_swa": self.hybrid,
            "is_hybrid_swa_compress": False,
            "is_draft_worker": False,
            "draft_swa_full_capacity": False,
            "kv_cache_dtype": torch.float32,
            "sliding_window_size": self.sizes.window if self.hybrid else None,
            "page_size": self.page,
            "post_capture_kv_active": False,
            "mambaish_config": None,
            "spec_algorithm": Quiet(),
            "layer_info": Values(
                num_effective_layers=full_layers,
                start_layer=0,
                end_layer=full_layers,
                full_attention_layer_ids=model.full_attention_layer_ids,
                swa_attention_layer_ids=model.swa_attention_layer_ids,
            ),
            "use_mla_backend": False,
            **self.more_of_configurator,
        }
        for name, value in values.items():
            object.__setattr__(me, name, value)
        self.config = me.config_from_budget(budget)
        self.requests = me._build_default_req_pool(
            max_num_reqs=self.case.get("rows", 24), extra_max_context_len=4
        )
        if self.hybrid:
            self.pool = me._build_hybrid_swa_kv_pool(
                full_max_total_num_tokens=self.config.full_max_total_num_tokens,
                swa_max_total_num_tokens=self.config.swa_max_total_num_tokens,
                mha_pool_class=MHATokenToKVPool,
            )
        else:
            self.pool = me._build_mha_kv_pool(
                max_total_num_tokens=self.config.max_total_num_tokens, mha_pool_class=MHATokenToKVPool
            )
        self.allocator = me._build_token_to_kv_pool_allocator(
            sizes=self.config,
            token_to_kv_pool=self.pool,
            is_dsv4_model=False,
            req_to_token_pool=self.requests,
            token_to_kv_pool_allocator=None,
        )
        self.secured = self.allocator.secured
        self.memory = self.secured.memory
        self.clock = Clock()
        self.memory.segments.clock = self.clock
        self.memory.segments._reread_s = 0.0
        self.memory.segments._limit_until = float("-inf")
        driver = self.memory.driver
        if self.device == "cpu":
            driver.__class__ = type("Fresh", (type(driver),), {"_check_free": check_free})
        else:
            driver._limit = None
        self.refusals = Refusals(
            driver, self.case.get("refuse_at", 0), self.case.get("refuse_part", 0.0), self.case["seed"]
        )

    def _build_tree(self) -> None:
        import sglang.srt.mem_cache.registry as registry
        from sglang.srt.mem_cache.cache_init_params import CacheInitParams

        parameters = CacheInitParams(
            disable=False,
            req_to_token_pool=self.requests,
            token_to_kv_pool_allocator=self.allocator,
            page_size=self.page,
            chunked_prefill_size=self.sizes.chunk,
            sliding_window_size=self.sizes.window if self.hybrid else None,
        )
        context = Values(
            server_args=self.settings,
            params=parameters,
            is_hybrid_swa=self.hybrid,
            is_hybrid_ssm=False,
            enable_hierarchical_cache=False,
            disable_radix_cache=False,
            effective_chunked_prefill_size=self.sizes.chunk,
            full_tokens_per_layer=self.config.full_max_total_num_tokens,
            tp_worker=Nothing(),
            is_dsa=False,
        )
        self.tree = registry.get_radix_cache_factory("farspan")(context)

    def _build_scheduler(self, batches: Any, scheduler: Any) -> None:
        from sglang.srt.disaggregation.utils import DisaggregationMode
        from sglang.srt.managers.scheduler_components.invariant_checker import SchedulerInvariantChecker
        from sglang.srt.managers.scheduler_components.pool_stats_observer import SchedulerPoolStatsObserver

        batch_class = self.batches(batches)
        scheduler.ScheduleBatch = batch_class
        self.batch_class = batch_class
        self.last: Any = None
        self.running = batch_class([], self)
        common = {
            "tree_cache": self.tree,
            "token_to_kv_pool_allocator": self.allocator,
            "req_to_token_pool": self.requests,
            "is_hybrid_swa": self.hybrid,
            "is_hybrid_ssm": False,
            "full_tokens_per_layer": self.config.full_max_total_num_tokens,
            "swa_tokens_per_layer": self.config.swa_max_total_num_tokens,
            "max_total_num_tokens": self.config.max_total_num_tokens,
        }
        batches_of = {"get_last_batch": lambda: self.last, "get_running_batch": lambda: self.running}
        observer = SchedulerPoolStatsObserver(
            **common,
            **(batches_of if self.observer_asks else {}),
            session_controller=Values(sessions={}),
            hisparse_coordinator=None,
            enable_hisparse=False,
        )
        self.checker = SchedulerInvariantChecker(
            **common,
            **batches_of,
            **self.more_of_checker(),
            disaggregation_mode=DisaggregationMode.NULL,
            page_size=self.page,
            pool_stats_observer=observer,
        )
        self.observer = observer

        class Played(scheduler.Scheduler):
            def __init__(self) -> None:
                pass

            def __getattr__(self, name: str) -> Any:
                if name.startswith("__"):
                    raise AttributeError(name)
                return Nothing()

        self.s = Played()
        vars(self.s).update(
            server_args=self.settings,
            tree_cache=self.tree,
            token_to_kv_pool_allocator=self.allocator,
            req_to_token_pool=self.requests,
            waiting_queue=[],
            chunked_req=None,
            is_hybrid_swa=self.hybrid,
            page_size=self.page,
            chunked_prefill_size=self.sizes.chunk,
            max_prefill_tokens=4 * self.sizes.chunk,
            max_prefill_bs=0,
            max_running_requests=16,
            prefill_delayer=None,
            min_free_slots_delayer=None,
            dllm_config=None,
            truncation_align_size=None,
            priority_scheduling_preemption_threshold=0,
            new_token_ratio_tracker=Values(current=0.3, decay_step=lambda: None, reset=lambda: None),
            policy=Values(calc_priority=lambda *_, **__: None, shortest_prefill_chunk_limit=lambda *_: None),
            disaggregation_mode=DisaggregationMode.NULL,
            batch_class=batch_class,
            server=self,
            forward_ct=0,
            pool_stats_observer=observer,
            invariant_checker=self.checker,
            metrics_reporter=Values(num_retracted_reqs=0, enable_metrics=False),
            _add_request_to_queue=lambda req, is_retracted=False: self._again(req),
            ipc_channels=Values(send_to_tokenizer=Values(send_output=self._aborted)),
            model_config=model_stand_in(self.model),
            is_fully_idle=lambda: self.idle,
            forward_stream=torch.cuda.Stream() if self.device != "cpu" else None,
            **self.more_of_scheduler,
        )

    # --- what differs between versions: those of 0.5.16 ----------------------------------------------------------

    more_of_configurator: ClassVar[dict[str, Any]] = {
        "is_inkling_mtp_draft": False,
        "ps": Values(attn_dp_size=1),
    }
    more_of_scheduler: ClassVar[dict[str, Any]] = {}
    observer_asks = True  # for the batches that run
    groups_prefill = False  # what ends with its prompt is freed at once

    def more_of_checker(self) -> dict[str, Any]:
        return {"server_args": self.settings}

    def batches(self, module: Any) -> type:
        return played_batch(module)

    def row_of(self, req: Any) -> int:
        return int(req.req_pool_idx)

    def prefix_of(self, req: Any) -> int:
        return len(req.prefix_indices)

    def end_of(self, req: Any) -> int:
        return int(req.extend_range.end)

    def committed_of(self, req: Any) -> int:
        return int(req.kv_committed_len)

    def commit(self, req: Any, length: int) -> None:
        req.kv_committed_len = length

    def cache(self, req: Any) -> None:
        from sglang.srt.mem_cache.common import maybe_cache_unfinished_req

        maybe_cache_unfinished_req(req, self.tree)

    def release(self, req: Any) -> None:
        from sglang.srt.mem_cache.common import release_kv_cache

        release_kv_cache(req, self.tree)

    def _again(self, req: Any) -> None:
        self.counts["retracted"] += 1
        self.s.waiting_queue.append(req)

    def _aborted(self, _message: Any, _req: Any) -> None:
        """SGLang ends the last running request when even that has no memory for its next token."""
        self.counts["aborted"] += 1

    # --- a step ------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        last = self.last is not None and any(not one.finished() for one in self.last.reqs)
        return not (self.s.waiting_queue or self.s.chunked_req or self.running.reqs or last)

    def step(self) -> None:
        """One iteration of SGLang's loop, without overlap."""
        s = self.s
        leaving = []
        if s.chunked_req is not None:
            leaving.append(s.chunked_req)
            if self.end_of(s.chunked_req) > self.prefix_of(s.chunked_req):
                s.stash_chunked_request(s.chunked_req)
        if self.last is not None and self.last.forward_mode.is_extend():
            before = len(self.last.reqs)
            self.last.filter_batch(chunked_req_to_exclude=leaving)
            if len(self.last.reqs) < before:
                self.running.batch_is_full = False
            if self.last.reqs:
                if self.running.reqs:
                    self.running.merge_batch(self.last)
                else:
                    self.running = self.last
        waiting = len(s.waiting_queue)
        plan = s.get_new_batch_prefill(self.running)
        self.running, batch = plan.running_batch, plan.batch_to_run
        if batch is None:
            self.counts["waited"] += waiting > 0
            if self.running.reqs:
                self.running = s.update_running_batch(self.running)
                batch = self.running if self.running.reqs else None
        if self.case.get("neighbour"):
            self._neighbour()
        self.last = batch
        if batch is not None:
            with self._on_forward_stream():
                self._forward(batch)
            self._finish(batch)
        self._check()
        if self.device != "cpu":
            print(f"step {self.secured.describe()}", file=sys.stderr, flush=True)
            if self.case.get("synchronize"):
                torch.cuda.synchronize()

    @contextmanager
    def _on_forward_stream(self) -> Iterator[None]:
        """On a GPU the pass runs on a stream of its own, as SGLang's does; what is scheduled next waits for it."""
        if self.device == "cpu":
            yield
            return
        here = torch.cuda.current_stream()
        self.s.forward_stream.wait_stream(here)
        with torch.cuda.stream(self.s.forward_stream):
            yield
        here.wait_stream(self.s.forward_stream)

    def _neighbour(self) -> None:
        """Somebody else takes memory, or gives it back, whenever it hurts most."""
        chance = self.case_chance
        if chance.random() < 0.3:
            held = self.memory.driver.physical_bytes()
            self.memory.driver._limit = held + chance.choice([0, 0, 40_000, self.case["budget"]])
            self.memory.segments._limit_until = float("-inf")

    def _forward(self, batch: Any) -> None:
        for req in batch.reqs:
            tokens = req.origin_input_ids + req.output_ids
            stop = req.kv.kv_allocated_len
            assert stop <= len(tokens), "every step gives its request a token"
            start = self.prefix_of(req) if batch.forward_mode.is_extend() else stop - 1
            numbers = content(tokens[:stop]).to(self.device)
            slots = self.requests.req_to_token[self.row_of(req), :stop].long()
            assert int(slots.min()) > 0
            self._layers(slots, start, numbers, write=True)
            if batch.forward_mode.is_extend() or len(req.output_ids) % 8 == 0:
                self._layers(slots, 0, numbers, write=False)

    def _layers(self, slots: torch.Tensor, start: int, numbers: torch.Tensor, write: bool) -> None:
        pools = [(self.pool, slots, start)]
        if self.hybrid:
            first = start if write else max(0, len(slots) - self.sizes.window)
            window = self.pool.translate_loc_from_full_to_swa(slots[first:])
            assert int(window.min()) > 0, "a token in the window has a slot there"
            pools = [(self.pool.full_kv_pool, slots, start), (self.pool.swa_kv_pool, window, first)]
        for pool, where, begin in pools:
            mine = where[begin:] if where is slots else where
            for buffer in (*pool.k_buffer, *pool.v_buffer):
                if write:
                    buffer[mine] = numbers[begin:, None, None]
                else:
                    found = buffer[mine]
                    assert bool((found == numbers[begin:, None, None]).all()), "contents survive"

    def _finish(self, batch: Any) -> None:
        grouped = self.groups_prefill or not batch.forward_mode.is_extend()
        if grouped:
            self.allocator.free_group_begin()
        for req in batch.reqs:
            if batch.forward_mode.is_extend():
                if req.inflight_middle_chunks > 0:
                    req.inflight_middle_chunks -= 1
                    continue
                self.counts["cached"] += req.cached_tokens > 0
            req.output_ids.append(self.tokens.randrange(1, 50_000))
            done = len(req.output_ids) >= req.sampling_params.max_new_tokens
            if done or req.to_finish is not None:
                req.finished_reason = "done"
                self.release(req)
                self.counts["finished"] += 1
            elif batch.forward_mode.is_extend():
                self.cache(req)
        if grouped:
            self.allocator.free_group_end()

    def _check(self) -> None:
        if self.last is not None:
            self.last.filter_batch(chunked_req_to_exclude=[])
            if self.last is not self.running:
                self.running.filter_batch()
            self.checker.self_check_during_busy()
        if self.idle and self.running.is_empty():
            self.last = None
            self.check_idle()
            self.secured.tick(idle=True)
        self.requests.elastic_table.check_integrity()
        for ledger in self.ledgers():
            ledger.pages.check_integrity()
            assert ledger.pages.used - 1 == ledger._out + ledger._returning
        if self.hybrid:
            self.allocator.slot_map.check_integrity()
        self.memory.segments.check_integrity()

    def check_idle(self) -> None:
        leak, messages = self.checker._check_all_pools(self.observer.get_pool_stats())
        assert not leak, messages
        self.checker._check_req_pool()
        self.checker._check_tree_cache()

    def ledgers(self) -> list[Any]:
        from farspan.integrations.sglang.kv_allocators import ledgers

        return ledgers(self.allocator)

    def mapped(self) -> int:
        return sum(one.pages.mapped_bytes for one in self.ledgers())

    def rest(self, seconds: float) -> None:
        """Stay idle."""
        for _ in range(int(seconds / 0.5)):
            self.clock.now += 0.5
            self.s.get_new_batch_prefill(self.running)
            self.secured.tick(idle=True)
            self.requests.elastic_table.tick()

    def empty(self) -> None:
        """Forget all prefixes, and be idle until memory has gone."""
        self.tree.reset()
        self.requests.clear()
        self.allocator.clear()
        self.rest(60)
        self.check_idle()

    # --- requests ----------------------------------------------------------------------------------------------

    def begin(self, seed: int) -> None:
        self.tokens = random.Random(seed)
        self.case_chance = random.Random(seed + 1)
        self._next = 0

    def request(self, tokens: array[int], most: int) -> Any:
        from sglang.srt.managers.schedule_batch import Req
        from sglang.srt.sampling.sampling_params import SamplingParams

        self._next += 1
        return Req(
            f"r{self._next}",
            "",
            tokens,
            SamplingParams(max_new_tokens=most),
            vocab_size=50_000,
        )

    def send(self, tokens: array[int], most: int) -> Any:
        """Have a request wait; return it."""
        req = self.request(tokens, most)
        req.server = self
        self.s.waiting_queue.append(req)
        return req

    def run_until_idle(self) -> None:
        while not self.idle:
            self.clock.now += 0.05
            self.step()


def check_free(driver: Any, size: int) -> None:
    """What the driver checks against the machine's memory, against the case's alone: nothing is read from /proc."""
    from farspan.kv.memory.drivers.driver import NoRoomError

    if driver._limit is not None and driver.physical_bytes() + size > driver._limit:
        raise NoRoomError("the neighbour has it")


def model_stand_in(model: Any) -> Any:
    return Values(**{**vars(model), "is_encoder_decoder": False, "vocab_size": 50_000})


def played_batch(batches: Any) -> type:
    """Return SGLang's batch without what only a forward pass needs."""
    from sglang.srt.mem_cache.allocation import alloc_for_decode, alloc_for_extend
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    class PlayedBatch(batches.ScheduleBatch):
        def __init__(self, reqs: list[Any], server: Server) -> None:
            self.reqs, self.device = list(reqs), server.device
            self.tree_cache, self.token_to_kv_pool_allocator = server.tree, server.allocator
            self.req_to_token_pool = server.requests
            self.model_config = model_stand_in(server.model)
            self.batch_is_full, self.enable_overlap, self.forward_iter = False, False, 0
            self.is_prefill_only = False
            self.forward_mode = ForwardMode.IDLE
            self.spec_algorithm = Values(is_none=lambda: True)
            self.hisparse_coordinator = self.decoding_reqs = self.chunked_req = None
            self.return_logprob = False
            self.input_embeds = None
            self.dllm_config = None
            self.server = server

        @classmethod
        def init_new(cls, reqs: list[Any], *args: Any, chunked_req: Any = None, **kwargs: Any) -> Any:
            batch = cls(reqs, reqs[0].server)
            batch.chunked_req = chunked_req
            return batch

        def prepare_for_extend(self) -> None:
            server = self.server
            self.forward_mode = ForwardMode.EXTEND
            self.prefix_lens = [server.prefix_of(one) for one in self.reqs]
            ends = [server.end_of(one) for one in self.reqs]
            self.extend_lens = [end - start for start, end in zip(self.prefix_lens, ends, strict=True)]
            self.seq_lens_cpu = torch.tensor(ends, dtype=torch.int64)
            self.seq_lens = self.seq_lens_cpu.to(self.device)
            self.extend_num_tokens = sum(self.extend_lens)
            _, self.req_pool_indices, self.req_pool_indices_cpu = alloc_for_extend(self)
            for one, start, end in zip(self.reqs, self.prefix_lens, ends, strict=True):
                one.extend_batch_idx += 1
                server.commit(one, end)
                if not one.retracted_stain:
                    one.cached_tokens += start - one.already_computed
                    one.already_computed = end
                one.is_retracted = False

        def prepare_for_decode(self) -> None:
            self.forward_mode = ForwardMode.DECODE
            lengths = self._refresh()
            self.out_cache_loc = alloc_for_decode(self, token_per_req=1)
            for one, length in zip(self.reqs, lengths, strict=True):
                one.decode_batch_idx += 1
                self.server.commit(one, length + 1)
            self.forward_iter += 1

        def _refresh(self) -> list[int]:
            lengths = [self.server.committed_of(one) for one in self.reqs]
            self.seq_lens_cpu = torch.tensor(lengths, dtype=torch.int64)
            self.seq_lens = self.seq_lens_cpu.to(self.device)
            rows = [self.server.row_of(one) for one in self.reqs]
            self.req_pool_indices_cpu = torch.tensor(rows, dtype=torch.int64)
            self.req_pool_indices = self.req_pool_indices_cpu.to(self.device)
            return lengths

        def filter_batch(
            self,
            chunked_req_to_exclude: Any = (),
            keep_indices: list[int] | None = None,
            reqs_to_exclude: Any = (),
        ) -> None:
            if keep_indices is not None:
                self.reqs = [self.reqs[index] for index in keep_indices]
            left_out = [*(chunked_req_to_exclude or ()), *(reqs_to_exclude or ())]
            self.reqs = [one for one in self.reqs if not one.finished() and one not in left_out]

        def merge_batch(self, other: Any) -> None:
            self.reqs = self.reqs + other.reqs

        def is_empty(self) -> bool:
            return not self.reqs

        def batch_size(self) -> int:
            return len(self.reqs)

    return PlayedBatch


def settings(case: dict[str, Any], chunk: int) -> Settings:
    from farspan.integrations.sglang.adapters import SETTINGS

    plain = {name: values[0] for name, (values, _) in SETTINGS.items()}
    plain["dcp_size"] = 1
    return Settings(
        **plain,
        radix_cache_backend="farspan",
        radix_eviction_policy="lru",
        schedule_policy="fcfs",
        swa_full_tokens_ratio=case.get("ratio", 0.8),
        chunked_prefill_size=chunk,
        page_size=case.get("page", 1),
        tp_size=case.get("ranks", 1),
        pp_size=1,
        dp_size=1,
        pp_max_micro_batch_size=16,
        kv_cache_dtype="auto",
        max_total_tokens=None,
        retraction_policy="length",
        attention_backend="triton",
        disable_radix_cache=False,
    )


# --- cases ---------------------------------------------------------------------------------------------------------


def play(server: Server) -> dict[str, Any]:
    """Requests of several conversations come at random; all of them end, and nothing leaks."""
    case = server.case
    server.begin(case["seed"])
    chance = random.Random(case["seed"])
    begun = [random_tokens(chance, chance.choice([5, 300, 2000])) for _ in range(4)]
    server.refusals.armed = True
    idle_bytes, sent, steps = server.mapped(), 0, 0
    peak = 0
    while sent < case["requests"] or not server.idle:
        if sent < case["requests"] and chance.random() < 0.25:
            for _ in range(chance.choice([1, 1, 4])):
                words = random_tokens(chance, chance.choice([1, 40, 700, 3000]))
                req = server.send(chance.choice(begun) + words, chance.choice([1, 20, 200]))
                if chance.random() < 0.5:
                    begun[chance.randrange(4)] = req.origin_input_ids[:4000]
                sent += 1
        server.clock.now += 0.05
        server.step()
        peak = max(peak, server.mapped())
        steps += 1
        if steps > case.get("most_steps", 6_000):
            raise AssertionError(f"requests are never served: {server.counts}, {server.secured.describe()}")
        if server.memory.driver._limit is not None and steps % 40 == 0:
            server.memory.driver._limit = None  # the neighbour goes, or nothing could ever be served
            server.memory.segments._limit_until = float("-inf")
    server.refusals.armed = False
    server.memory.driver._limit = None
    cached = server.mapped()
    server.empty()
    return {
        "tree": type(server.tree).__name__,
        "counts": server.counts,
        "steps": steps,
        "bytes": {"begin": idle_bytes, "peak": peak, "cached": cached, "end": server.mapped()},
        "physical_end": server.memory.driver.physical_bytes(),
        "segments": server.memory.segments.statistics().ever_created,
        "surrendered": server.memory.segments.statistics().surrendered,
        "calls": server.refusals.calls,
        "refused": server.refusals.refused,
        "sizes": [server.config.max_total_num_tokens, server.config.swa_max_total_num_tokens],
    }


def end_at_different_times(server: Server) -> dict[str, Any]:
    """Requests whose answers have very different lengths; what is mapped over the least possible, then idle."""
    server.begin(server.case["seed"])
    chance = random.Random(server.case["seed"])
    for _ in range(server.case["staggered"]):
        tokens = random_tokens(chance, chance.randint(50, 500))
        server.send(tokens, chance.randint(1, 150))
    server.run_until_idle()
    server.rest(30)
    found = {"cached": mapped_over_packed(server)}
    server.secured._evict(server.tree, server.secured._cached(server.tree)[0] // 2, 0)
    server.rest(30)
    server.check_idle()
    return {**found, "half evicted": mapped_over_packed(server), "counts": server.counts}


def mapped_over_packed(server: Server) -> float:
    mapped = packed = 0
    for one in server.ledgers():
        pages = one.pages
        mapped += pages.mapped_bytes
        packed += -(-pages.used // pages.pages_per_segment) * pages.segment_layer_bytes
    return mapped / packed


def answer_one_by_one(server: Server) -> dict[str, Any]:
    """Prompts of given lengths, each alone, twice: the second time out of the cache."""
    server.begin(server.case["seed"])
    chance = random.Random(server.case["seed"])
    for length, most in server.case["prompts"]:
        tokens = random_tokens(chance, length)
        for _ in range(2):
            server.send(tokens, most)
            server.run_until_idle()
        server.rest(6)
    return {"counts": server.counts, "bytes": server.mapped()}


def ask_about_documents(server: Server) -> dict[str, Any]:
    """Long documents asked about again and again, in turn, and then short prompts, twice: what came from the cache."""
    server.begin(server.case["seed"])
    chance = random.Random(server.case["seed"])

    tokens = partial(random_tokens, chance)

    def ask(prompt: array[int], end: array[int]) -> int:
        req = server.send(prompt + end, 2)
        server.run_until_idle()
        return int(req.cached_tokens)

    count, length = server.case["documents"]
    documents = [tokens(length) for _ in range(count)]
    cached = [[ask(one, tokens(5)) for one in documents] for _ in range(3)]
    prompts = [tokens(100) for _ in range(server.case["short"])]
    short = [sum(ask(one, tokens(5)) for one in prompts) for _ in range(2)]
    return {"documents": cached, "short": short, "counts": server.counts}


def ask_of_the_device(server: Server) -> dict[str, Any]:
    """Prompts beyond what the pools hold: who asks the device something while they are scheduled and cached."""
    server.begin(server.case["seed"])
    questions = DeviceQuestions()
    server.s.get_new_batch_prefill = questions.around(server.s.get_new_batch_prefill)
    server.s.stash_chunked_request = questions.around(server.s.stash_chunked_request)
    for name in ("cache", "release"):
        setattr(server, name, questions.around(getattr(server, name)))
    chance = random.Random(server.case["seed"])
    for length in server.case["questions"]:
        server.send(random_tokens(chance, length), 1)
        server.run_until_idle()
    cached, _ = server.secured._cached(server.tree)
    return {
        "asked": questions.asked,
        "counts": server.counts,
        "evicted": sum(server.case["questions"]) - cached,
    }


def map_for_short_prompts(server: Server) -> dict[str, Any]:
    """Short prompts, one after the other, and then idle: what is mapped while one waits, and what beside."""
    server.begin(server.case["seed"])
    chance = random.Random(server.case["seed"])
    real, mapped, begin = server.memory.driver._map, {"waiting": 0, "beside": 0}, server.mapped()

    def count(*args: Any) -> Any:
        mapped["waiting" if server.s.waiting_queue else "beside"] += 1
        return real(*args)

    for number, length in enumerate(server.case["shorts"]):
        if number == 1:  # the first has its row backed
            server.memory.driver._map = count
        server.send(random_tokens(chance, length), 1)
        server.run_until_idle()
        server.s.get_new_batch_prefill(server.running)
        server._check()
    grown, cached = server.mapped(), server.secured._cached(server.tree)
    server.empty()
    sizes = {"begin": begin, "grown": grown, "end": server.mapped()}
    return {"mapped": mapped, "bytes": sizes, "cached": cached}


def prepare(version: str, folder: str, on_gpu: bool = False) -> None:
    """Have SGLang of `folder` load the plug-in."""
    sys.path.insert(0, folder)
    import farspan.integrations.sglang.plugin as plugin
    from farspan.integrations.sglang import device_memory

    if not on_gpu:
        device_memory.POOL_SEGMENT_BYTES = 1  # the smallest that the host has: pages
        logging.disable(logging.CRITICAL)
        torch.set_num_threads(1)
        if version == "0.5.16":  # the other has what it imports: see `sglang_on_cpu.py`
            install("sglang", HIDDEN)
        plugin.version = lambda name: version
    plugin.register()
    from sglang.srt.environ import envs
    from sglang.srt.plugins.hook_registry import HookRegistry

    envs.SGLANG_CHECK_KV_PAGE_INVARIANTS.set(True)
    HookRegistry.apply_hooks()


def main(version: str, folder: str, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    prepare(version, folder, any(case.get("device", "cpu") != "cpu" for case in cases))
    scenes = {
        "documents": ask_about_documents,
        "questions": ask_of_the_device,
        "shorts": map_for_short_prompts,
        "prompts": answer_one_by_one,
        "staggered": end_at_different_times,
    }
    kind = server_class(version)
    return [
        next((scene for name, scene in scenes.items() if name in case), play)(kind(case)) for case in cases
    ]


def server_class(version: str) -> type[Server]:
    if version == "0.5.16":
        return Server
    from kv_pools_0_5_23 import server_23

    return server_23(Server)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
