"""What of SGLang is hooked so that its KV pools are elastic: sizes, pools, allocators, admission, checks."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import Any

from farspan.errors import InputError, UnsupportedError
from farspan.integrations.sglang.adapters import (
    BACKEND,
    LEAVE_POOLS,
    POOLS_VARIABLE,
    SETTINGS,
    Adapter,
    option,
)
from farspan.integrations.sglang.device_memory import DeviceMemory
from farspan.integrations.sglang.elastic_requests import table_bytes
from farspan.integrations.sglang.kv_allocators import counting_slots, slot_allocator, window_allocator
from farspan.integrations.sglang.kv_pools import elastic_config, kv_pool_class
from farspan.integrations.sglang.prefill_needs import (
    needs_of_admitted,
    needs_of_chunk,
    needs_of_request,
    tokens_of_two_chunks,
)
from farspan.integrations.sglang.rank_agreement import rank_agreement, table_agreement
from farspan.integrations.sglang.secured_memory import SecuredMemory

_SRT = "sglang.srt"
_CONFIGURATOR = f"{_SRT}.mem_cache.kv_cache_configurator.KVCacheConfigurator"
_ADDER = f"{_SRT}.managers.schedule_policy.PrefillAdder"
_BATCH = f"{_SRT}.managers.schedule_batch.ScheduleBatch"
_SCHEDULER = f"{_SRT}.managers.scheduler.Scheduler"
_STATISTICS = f"{_SRT}.managers.scheduler_components.pool_stats_observer.SchedulerPoolStatsObserver"

logger = logging.getLogger("sglang.farspan")


class KVHooks:
    """The hooks of one process, and the memory its pools are made of.

    Args:
        adapter: Of the version of SGLang.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._memory: DeviceMemory | None = None
        self._around = {
            f"{_CONFIGURATOR}.config_from_budget": self._size_pools,
            f"{_CONFIGURATOR}._build_hybrid_swa_kv_pool": self._build_pool,
            f"{_CONFIGURATOR}._build_mha_kv_pool": self._build_pool,
            f"{_CONFIGURATOR}._build_token_to_kv_pool_allocator": self._build_allocator,
            f"{_STATISTICS}.get_pool_stats": _count_slots,
            f"{_ADDER}.add_one_req": self._add_request,
            f"{_ADDER}.add_chunked_req": self._add_chunk,
            f"{_BATCH}.retract_decode": _retract,
        }
        self._before = {
            f"{_SCHEDULER}.get_new_batch_prefill": self._before_prefill,
            f"{_BATCH}.check_decode_mem": _before_decode,
        }

    def register(self, hooks: Any) -> None:
        """Hook what sizes, builds and asks SGLang's KV pools; `hooks` is SGLang's module of hooks."""
        for target, hook in self._around.items():
            hooks.HookRegistry.register(target, hook, hooks.HookType.AROUND)
        for target, hook in self._before.items():
            hooks.HookRegistry.register(target, hook, hooks.HookType.BEFORE)

    def memory_for_table(self, configurator: Any, rows: int, width: int) -> DeviceMemory:
        """Return the memory of the process; when its KV pools are SGLang's own it is for the table alone."""
        arguments = self._adapter.options(configurator.server_args)
        if self._memory is None or not wants_elastic_pools(arguments):
            self._memory = DeviceMemory(
                configurator.device, table_bytes(rows, width), None, arguments, table_agreement(arguments)
            )
        return self._memory

    def check_pools(self, context: Any) -> None:
        """Make sure that a server that is to have elastic pools has them.

        Raises:
            UnsupportedError: It has others: the model or a mode needs another kind of pool.
        """
        if not wants_elastic_pools(self._adapter.options(context.server_args)):
            return
        allocator = context.params.token_to_kv_pool_allocator
        if not hasattr(allocator, "secured"):
            raise _refusal(f"KV pools of the kind {type(allocator.get_kvcache()).__name__}")
        patched = import_module(f"{_SRT}.plugins.hook_registry").HookRegistry._patched
        missing = [target for target in (*self._around, *self._before) if target not in patched]
        if missing:
            raise _refusal(f"an SGLang that did not let it hook {', '.join(missing)}")

    def _size_pools(
        self, original: Any, configurator: Any, budget_bytes: int, *, cap_tokens: int | None = None
    ) -> Any:
        arguments = self._adapter.options(configurator.server_args)
        if not wants_elastic_pools(arguments):
            return original(configurator, budget_bytes, cap_tokens=cap_tokens)
        check_settings(arguments)
        _check_pools_possible(self._adapter, configurator, arguments)
        ranks = rank_agreement(arguments)
        if ranks is not None:
            budget_bytes = ranks.least(budget_bytes)
        config = original(configurator, budget_bytes, cap_tokens=cap_tokens)
        self._memory = DeviceMemory(configurator.device, 0, budget_bytes, arguments, ranks)
        chunk = option(arguments, "chunked_prefill_size")
        return elastic_config(configurator, config, budget_bytes, self._memory.segments.segment_bytes, chunk)

    def _build_pool(self, original: Any, configurator: Any, *, mha_pool_class: type, **sizes: Any) -> Any:
        if wants_elastic_pools(self._adapter.options(configurator.server_args)):
            if sizes.get("quant_method") is not None:
                raise _refusal("a quantized KV cache other than FP8")
            mha_pool_class = kv_pool_class(mha_pool_class, self._sized_memory())
        return original(configurator, mha_pool_class=mha_pool_class, **sizes)

    def _build_allocator(self, original: Any, configurator: Any, **parts: Any) -> Any:
        arguments = self._adapter.options(configurator.server_args)
        if not wants_elastic_pools(arguments):
            return original(configurator, **parts)
        pool, sizes = parts["token_to_kv_pool"], parts["sizes"]
        if parts["token_to_kv_pool_allocator"] is not None:
            raise _refusal("KV pools of a draft model")
        dtype, device, groups = configurator.kv_cache_dtype, configurator.device, self._adapter.free_groups
        page = configurator.page_size
        if hasattr(pool, "elastic_pages"):
            allocator = slot_allocator(sizes.max_total_num_tokens, page, dtype, device, pool, groups)
        elif hasattr(getattr(pool, "full_kv_pool", None), "elastic_pages"):
            full, window = sizes.full_max_total_num_tokens, sizes.swa_max_total_num_tokens
            allocator = window_allocator(full, window, page, dtype, device, pool, groups)
        else:
            raise _refusal(f"KV pools of the kind {type(pool).__name__}")
        share = option(arguments, "swa_full_tokens_ratio")
        allocator.secured = SecuredMemory(self._sized_memory(), allocator, share, self._adapter.evict)
        logger.info(allocator.secured.describe())
        return allocator

    def _add_request(
        self, original: Any, adder: Any, req: Any, has_chunked_req: bool, truncation_align_size: int | None
    ) -> Any:
        secured = _secured_of(adder)
        if secured is None:
            return original(adder, req, has_chunked_req, truncation_align_size)
        no_token = import_module(f"{_SRT}.managers.schedule_policy").AddReqResult.NO_TOKEN
        # Where a prompt goes on after this pass SGLang counts on it having taken what there is: a second one beside it
        # ends the server, and what else is admitted beside one that waits is taken for a part of it.
        if secured.chunk_waits or adder.new_chunked_req is not None:
            return no_token
        running = len(adder.running_batch.reqs) if adder.running_batch is not None else 0
        ranks, request = secured.memory.ranks, (req.rid, len(adder.can_run_list), running)
        if ranks is not None and running and ranks.was_refused(*request):
            return no_token
        result, counts = no_token, self._adapter.admission
        if adder.tree_cache.req_to_token_pool.prepare([*adder.can_run_list, req]):
            if not has_chunked_req:
                with adder._lock_node(req.last_node):
                    secured.secure_beside(adder.tree_cache, needs_of_request(counts, adder, req))
            ahead = tokens_of_two_chunks(counts, adder, req)
            result = original(adder, req, has_chunked_req, truncation_align_size)
            if adder.new_chunked_req is req:
                secured.free_ahead(adder.tree_cache, ahead)
        if req not in adder.can_run_list[-1:]:
            secured.let_wait(counts.admitted(adder))
        if ranks is not None and result == no_token:
            ranks.note_refused(*request)
        return result

    def _add_chunk(self, original: Any, adder: Any, req: Any) -> Any:
        """Secure the next chunk of a prompt that is half computed; it waits where there is no memory for it.

        Without window layers SGLang would go on all the same, and end the server.
        """
        secured = _secured_of(adder)
        if secured is None:
            return original(adder, req)
        tree = adder.tree_cache
        secured.secure_beside(tree, needs_of_chunk(self._adapter.admission, adder, req))
        if not adder.is_hybrid_swa:
            room = secured.room(tree) - len(adder.running_batch.reqs) * adder.page_size
            adder.rem_chunk_tokens = min(adder.rem_chunk_tokens, room)
            if room <= 0:
                secured.chunk_waits = True
                return req
        secured.free_ahead(tree, tokens_of_two_chunks(self._adapter.admission, adder, req))
        unfinished = original(adder, req)
        secured.chunk_waits = unfinished is not None and adder.rem_chunk_tokens > 0
        return unfinished

    def _before_prefill(self, scheduler: Any, running_batch: Any) -> None:
        secured = _secured_of(scheduler)
        if secured is None:
            if scheduler.waiting_queue and hasattr(scheduler.req_to_token_pool, "elastic_table"):
                scheduler.req_to_token_pool.agree_rows()
            return
        if not secured.memory.streams and secured.memory.driver.name == "cuda":
            secured.memory.streams.append(scheduler.forward_stream)
        if not running_batch.reqs or secured.chunk_waits:
            running_batch.batch_is_full = False  # a neighbour may have what it needs: it is to be asked again
        secured.chunk_waits = False
        admits = bool(scheduler.waiting_queue) or scheduler.chunked_req is not None
        secured.promise(needs_of_admitted(self._adapter.admission, scheduler, running_batch.reqs), admits)
        secured.watch(scheduler.tree_cache)
        secured.begin_iteration(bool(running_batch.reqs) or admits, admits)
        secured.tick(idle=False)
        if not admits:
            secured.grow_ahead()
        requests = scheduler.req_to_token_pool
        requests.forget_prepared()
        table = requests.elastic_table
        table.reserve(table.row_segments)
        if scheduler.waiting_queue and not requests.has_room():
            secured.make_room(scheduler.tree_cache, table.row_segments)

    def _sized_memory(self) -> DeviceMemory:
        if self._memory is None:
            raise _refusal("pools whose sizes were not asked for")
        return self._memory


def wants_elastic_pools(arguments: Any) -> bool:
    """Return whether the server's KV pools are to be elastic.

    Raises:
        InputError: The variable that says so has another value than it may have.
    """
    if option(arguments, "radix_cache_backend") != BACKEND:
        return False
    value = os.environ.get(POOLS_VARIABLE, "elastic")
    if value not in ("elastic", "sglang"):
        raise InputError(f"{POOLS_VARIABLE} is {value!r}", "set it to elastic or sglang")
    return value == "elastic"


def check_settings(arguments: Any) -> None:
    """Refuse what cannot be combined with the plug-in.

    Raises:
        UnsupportedError: An option has such a value.
    """
    for name, (plain, why) in SETTINGS.items():
        value = option(arguments, name)
        if value not in plain:
            raise UnsupportedError(
                f"--radix-cache-backend {BACKEND} does not work with --{name.replace('_', '-')} {value}: {why}",
                "start without one of the two",
            )


def _check_pools_possible(adapter: Adapter, configurator: Any, arguments: Any) -> None:
    page = configurator.page_size
    if adapter.mixes_unchecked and page > 1 and option(arguments, "enable_mixed_chunk"):
        # It counts a token for each, and takes a page; with a prompt's chunk beside it that may be what there is.
        raise _refusal(f"--enable-mixed-chunk and pages of {page} tokens on SGLang {adapter.version}")
    if option(arguments, "prefill_only_disable_kv_cache"):
        raise _refusal("--prefill-only-disable-kv-cache")
    if getattr(configurator, "post_capture_kv_active", False):
        raise _refusal(
            "KV pools that are sized after graphs are captured (SGLANG_ENABLE_POST_CAPTURE_KV_SIZING)"
        )
    if getattr(configurator, "kv_shard_size", 1) > 1:
        raise _refusal("--enable-kv-cache-sharding")
    if configurator.is_hybrid_swa:
        _check_window_backends(configurator.model_config, arguments)
    if configurator.is_draft_worker:
        raise _refusal("KV pools of a draft model")


def _check_window_backends(model: Any, arguments: Any) -> None:
    """Refuse what reads window layers' KV by the slots of full attention, which goes unseen while both are the same."""
    names = model.hf_config.architectures or ()
    llama4 = any(name.startswith("Llama4") for name in names)
    backends = [option(arguments, f"{kind}attention_backend") for kind in ("", "prefill_", "decode_")]
    for backend in filter(None, backends) if any(backends) else [None]:
        # Such layers of Llama 4 have no window to SGLang's triton backend, which gives them all of the row.
        if backend == "torch_native" or (llama4 and backend != "fa3"):
            raise _refusal(
                f"{'Llama 4' if llama4 else 'window layers'} on --attention-backend {backend}, which reads window "
                "layers by the slots of full attention"
            )


def _refusal(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"--radix-cache-backend {BACKEND} does not work with {what}",
        f"{LEAVE_POOLS}, or start without the option",
    )


# --- while it serves ---------------------------------------------------------------------------------------------


def _secured_of(owner: Any) -> SecuredMemory | None:
    return getattr(owner.token_to_kv_pool_allocator, "secured", None)


def _count_slots(original: Any, observer: Any) -> Any:
    if _secured_of(observer) is None:
        return original(observer)
    with counting_slots(observer.token_to_kv_pool_allocator):
        return original(observer)


def tick_when_idle(scheduler: Any) -> None:
    """Let go of what an idle server does not use."""
    secured = _secured_of(scheduler)
    if secured is not None and scheduler.is_fully_idle():
        secured.watch(scheduler.tree_cache)
        secured.tick(idle=True)


def _retract(original: Any, batch: Any, *arguments: Any) -> Any:
    """Have a request wait that SGLang would end because its last running one has no memory for the next token.

    It ends it because it takes the memory for its own: then the request could never be served. Here others hold it now.
    """
    retracted, ratio, ended = original(batch, *arguments)
    secured = _secured_of(batch)
    if secured is None or batch.reqs or not ended:
        return retracted, ratio, ended
    last = ended[-1]
    tokens = len(last.origin_input_ids) + len(last.output_ids) + 1
    if getattr(last, "beam_group", None) is not None or not secured.can_hold(tokens):
        return retracted, ratio, ended
    last.to_finish = None
    logger.warning("farspan: request %s waits in the queue until there is memory for it again", last.rid)
    return [*retracted, last], ratio, ended[:-1]


def _before_decode(batch: Any, selected_indices: list[int] | None = None) -> None:
    secured = _secured_of(batch)
    if secured is not None:
        requests = len(batch.reqs if selected_indices is None else selected_indices)
        tokens = batch.new_tokens_required_next_decode(selected_indices)
        most = max(tokens, requests * batch.token_to_kv_pool_allocator.page_size)
        secured.decode(batch.tree_cache, tokens, most)
