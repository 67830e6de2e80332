"""Runs SGLang's own memory arithmetic: `python oracle.py VERSION FOLDER`, JSON lines in and out.

FOLDER holds the unpacked `sglang` package of VERSION. Its pool configurators, request-table sizing and
attention backends' graph state run unchanged; what they read from a running server (free memory, flags, the
process groups) is answered from the case. Tensors are made on torch's meta device: sizes are exact and cost
nothing.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from types import SimpleNamespace as Values
from typing import Any

import torch

from stubs import install

HIDDEN = (
    "transformers",
    "huggingface_hub",
    "pydantic",
    "fastapi",
    "sglang.srt.utils.hf_transformers_patches",
    "sglang.srt.sampling.custom_logit_processor",
    "sglang.jit_kernel",
    "sglang.kernels",
)
DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


class Quiet:
    """Answers every attribute with a function that says no: a speculative algorithm nobody asked for."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: name == "is_none"


class Drafting(Quiet):
    """EAGLE, as its own code asks for it."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: name == "is_eagle"


def no_speculation() -> Values:
    return Values(
        speculative_algorithm=None,
        speculative_num_draft_tokens=None,
        speculative_num_steps=None,
        speculative_eagle_topk=None,
    )


def architecture(case: dict[str, Any]) -> str:
    return "Llama4ForConditionalGeneration" if case["chunked"] else "SomeWindowModel"


def model_config(module: Any, case: dict[str, Any]) -> Any:
    """The shapes SGLang reads off a model; KV heads a rank come from its own ModelConfig."""
    config = object.__new__(module.ModelConfig)
    text = Values(num_hidden_layers=case["full_layers"] + case["window_layers"])
    if case["window_kv_heads"] != case["kv_heads"]:
        text.swa_num_key_value_heads = case["window_kv_heads"]
    values = {
        "hf_config": Values(architectures=[architecture(case)]),
        "hf_text_config": text,
        "is_draft_model": False,
        "head_dim": case["head_dim"],
        "v_head_dim": case["value_dim"],
        "swa_head_dim": case["window_head_dim"],
        "swa_v_head_dim": case["window_head_dim"],
        "kv_lora_rank": case["kv_lora_rank"],
        "qk_rope_head_dim": case["rope_dim"],
        "context_len": case["context"],
        "attention_arch": None,
        "num_hidden_layers": text.num_hidden_layers,
        "is_multimodal": False,
        "attention_chunk_size": case["window"],
        "quantization": None,
        "full_attention_layer_ids": list(range(case["full_layers"])),
        "swa_attention_layer_ids": list(range(case["window_layers"])),
    }
    for name, value in values.items():
        setattr(config, name, value)
    config.get_total_num_kv_heads = lambda: case["kv_heads"]
    return config


def mamba(case: dict[str, Any]) -> Any:
    """The recurrent layers of a hybrid linear model, or None."""
    if not case["state_bytes"]:
        return None
    return Values(
        full_attention_layer_ids=list(range(case["full_layers"])),
        mamba2_cache_params=Values(mamba_cache_per_req=case["state_bytes"], layers=[0]),
    )


def answer_readers(readers: dict[str, Any]) -> None:
    """Put our answers in place of what every loaded part of SGLang asks a running server."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("sglang.srt"):
            for name in readers.keys() & vars(module).keys():
                setattr(module, name, readers[name])


def pool_from_0_5_16(case: dict[str, Any], version: str) -> dict[str, Any]:
    import sglang.srt.configs.model_config as configs
    import sglang.srt.mem_cache.allocation_sizing as sizing
    import sglang.srt.mem_cache.kv_cache_configurator as kv
    import sglang.srt.mem_cache.memory_pool as pools
    import sglang.srt.model_executor.pool_configurator  # noqa: F401 likewise

    schedule = Values(
        mem_fraction_static=case["fraction"],
        max_total_tokens=case["max_total_tokens"],
        max_running_requests=case["max_running_requests"],
        page_size=case["page"],
        swa_full_tokens_ratio=case["swa_ratio"],
        chunked_prefill_size=case["chunk"],
        disable_overlap_schedule=not case["overlap"],
        prefill_max_requests=None,
        max_mamba_cache_size=case["mamba_slots"],
        mamba_full_memory_ratio=case["mamba_ratio"],
    )
    memory = Values(
        disable_radix_cache=not case["radix"],
        enable_unified_memory=False,
        enable_hisparse=False,
        enable_page_major_kv_layout=False,
        enable_kv_cache_sharding=False,
    )
    server = Values(
        **{**vars(schedule), **vars(memory), **vars(no_speculation())},
        kv_cache_dtype="auto",
        dp_size=1,
        pp_size=1,
        disaggregation_mode="null",
        max_speculative_num_draft_tokens=None,
        enable_dsa_cache_layer_split=False,
        enable_mamba_extra_buffer=lambda: case["radix"],
        enable_mamba_extra_buffer_lazy=lambda: False,
    )

    def override(_reason: str, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(schedule, name, value)
            setattr(server, name, value)

    server.override = override
    parallel = Values(
        attn_tp_size=case["tp"],
        attn_dcp_size=1,
        pp_size=1,
        launch_world_size=case["tp"],
        world_group=Values(cpu_group=None),
        attn_cp_size=1,
        tp_size=case["tp"],
        enable_kv_cache_sharding=False,
        enable_dsa_cache_layer_split=False,
    )
    execution = Values(
        graph=Values(cuda_graph_config=Values(prefill=Values(full_prefill_max_req=None, backend=None))),
        mamba=Values(
            enable_linear_replayssm_spec=False,
            enable_mamba_extra_buffer=case["radix"],
            enable_mamba_extra_buffer_lazy=False,
        ),
        kernel=Values(dsa_prefill_backend=None, dsa_decode_backend=None),
    )
    readers = {
        "get_parallel": lambda: parallel,
        "get_schedule": lambda: schedule,
        "get_memory": lambda: memory,
        "get_spec": no_speculation,
        "get_disagg": lambda: Values(disaggregation_mode="null", enable_pd_role_switch=False),
        "get_exec": lambda: execution,
        "get_mm": lambda: Values(mm_feature_transport="cpu"),
        "get_model": lambda: Values(qsa_indexer_dtype=None),
        "get_context": lambda: Values(override=override),
        "get_world_group": lambda: Values(world_size=case["tp"], cpu_group=None),
        "get_server_args": lambda: server,
        "max_speculative_num_draft_tokens": lambda: None,
        "get_available_gpu_memory": lambda *args, **kwargs: case["free_gib"],
        "mambaish_config": lambda config: config.mamba,
    }
    answer_readers(readers)
    kv.gc = Values(collect=lambda: 0)  # a full collection before each case costs a quarter of a second

    config = model_config(configs, case)
    config.mamba = mamba(case)
    layers = case["full_layers"] + case["window_layers"]
    split = bool(case["window_layers"]) and case["split"]
    this = object.__new__(kv.KVCacheConfigurator)
    values = {
        "device": "meta",
        "gpu_id": 0,
        "attn_dp_size": 1,
        "ps": Values(attn_dp_size=1),
        "pp_size": 1,
        "model_config": config,
        "server_args": server,
        "kv_cache_dtype": DTYPES[case["kv"]],
        "model_dtype": torch.bfloat16,
        "kv_cache_dtype_str": "auto",
        "page_size": case["page"],
        "sliding_window_size": case["window"] or None,
        "spec_algorithm": Drafting() if case.get("draft_layers") else Quiet(),
        "fused_entry_bytes": lambda kind: None,
        "is_draft_worker": False,
        "post_capture_kv_active": False,
        "spec_aux_config": Values(
            eagle_draft_num_layers=case.get("draft_layers"),
            eagle_draft_swa_num_layers=None,
            dflash_draft_num_layers=None,
        ),
        "is_hybrid_swa": split,
        "use_mla_backend": bool(case["kv_lora_rank"]),
        "layer_info": Values(
            start_layer=0,
            end_layer=layers,
            num_effective_layers=layers,
            full_attention_layer_ids=config.full_attention_layer_ids,
            swa_attention_layer_ids=config.swa_attention_layer_ids,
        ),
        "mambaish_config": config.mamba,
        "hybrid_gdn_config": None,
        "hybrid_kda_config": None,
        "dflash_draft_cell_size_per_token": None,
        "extra_mamba_cache_bytes_per_req": 0,
        "kv_shard_spec": None,
        "kv_shard_rank": None,
        "kv_shard_size": 1,
    }
    for name, value in values.items():
        try:
            setattr(this, name, value)
        except AttributeError:
            continue  # a field this version does not have
    try:
        resolved = this._resolve_memory_pool_config(case["total_gib"])
    except (RuntimeError, ValueError, AssertionError) as error:
        return {"stops": type(error).__name__}
    extra = sizing.get_req_to_token_extra_context_len(*([server] if version == "0.5.16" else []))
    table = pools.ReqToTokenPool(
        size=resolved.max_running_requests,
        max_context_len=config.context_len + extra,
        device="meta",
        enable_memory_saver=False,
    ).req_to_token
    return {
        "full": resolved.max_total_num_tokens,
        "window": (resolved.swa_max_total_num_tokens or 0) if split else 0,
        "rows": resolved.max_running_requests,
        "table": table.numel() * table.element_size(),
        "state_slots": schedule.max_mamba_cache_size if config.mamba else 0,
    }


def pool_0_5_6(case: dict[str, Any]) -> dict[str, Any]:
    import sglang.srt.configs.model_config as configs
    import sglang.srt.mem_cache.memory_pool as pools
    import sglang.srt.model_executor.model_runner as runner

    config = model_config(configs, case)
    recorded: dict[str, Any] = {}

    class Recorder:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.size = kwargs.get("size", args[0] if args else 0)

    for name in ("MHATokenToKVPool", "MLATokenToKVPool", "SWAKVPool", "TokenToKVPoolAllocator"):
        setattr(runner, name, Recorder)
    for name in ("SWATokenToKVPoolAllocator", "PagedTokenToKVPoolAllocator", "HybridLinearKVPool"):
        setattr(runner, name, Recorder)

    def table(**kwargs: Any) -> Any:
        kwargs = {key: kwargs[key] for key in ("size", "max_context_len", "device", "enable_memory_saver")}
        recorded["pool"] = pools.ReqToTokenPool(**kwargs)
        recorded["pool"].mamba_pool = None
        return recorded["pool"]

    runner.ReqToTokenPool = table
    runner.HybridReqToTokenPool = table
    runner.get_attention_tp_size = lambda: case["tp"]
    runner.get_world_group = lambda: Values(world_size=case["tp"], cpu_group=None)
    runner.get_available_gpu_memory = lambda *args, **kwargs: case["free_gib"]
    runner.is_deepseek_nsa = lambda config: False
    layers = case["full_layers"] + case["window_layers"]
    state = mamba(case)
    attention = [Values(sliding_window_size=-1)] * case["full_layers"]
    attention += [Values(sliding_window_size=case["window"])] * case["window_layers"]
    stack = [Values(layer_id=index, self_attn=Values(attn=value)) for index, value in enumerate(attention)]
    hybrid = False
    if case["window_layers"] and case["split"]:
        hybrid = case["hybrid_ratio"] if case["chunked"] else True

    class Runner:
        device, gpu_id, dtype, page_size, pp_size = "meta", 0, torch.bfloat16, case["page"], 1
        is_draft_worker, start_layer, end_layer = False, 0, layers
        num_effective_layers = layers
        use_mla_backend = bool(case["kv_lora_rank"])
        kv_cache_dtype = DTYPES[case["kv"]]
        mem_fraction_static = case["fraction"]
        spec_algorithm = Quiet()
        model_config = config
        mambaish_config = state
        hybrid_gdn_config = None
        is_hybrid_swa = hybrid
        attention_chunk_size = case["window"]
        sliding_window_size = case["window"] or None
        req_to_token_pool = None
        token_to_kv_pool_allocator = None
        model = Values(model=Values(layers=stack), quant_config=None)
        server_args = Values(
            kv_cache_dtype="auto" if case["kv"] == "bf16" else "fp8_e4m3",
            page_size=case["page"],
            max_running_requests=case["max_running_requests"],
            mem_fraction_static=case["fraction"],
            disable_radix_cache=not case["radix"],
            max_mamba_cache_size=case["mamba_slots"],
            mamba_full_memory_ratio=case["mamba_ratio"],
            speculative_num_draft_tokens=None,
            speculative_algorithm=None,
            enable_dp_attention=False,
            dp_size=1,
            swa_full_tokens_ratio=case["swa_ratio"],
            disaggregation_mode="null",
            enable_memory_saver=False,
            attention_backend="fa3",
            enable_double_sparsity=False,
            enable_pdmux=False,
        )
        profile_max_num_token = runner.ModelRunner.profile_max_num_token
        handle_max_mamba_cache = runner.ModelRunner.handle_max_mamba_cache
        set_num_token_hybrid = runner.ModelRunner.set_num_token_hybrid
        init_memory_pool = runner.ModelRunner.init_memory_pool

    this = Runner()
    try:
        this.init_memory_pool(case["total_gib"], case["max_running_requests"], case["max_total_tokens"])
    except (RuntimeError, ValueError, AssertionError) as error:
        return {"stops": type(error).__name__}
    made = recorded["pool"]
    return {
        "full": this.max_total_num_tokens,
        "window": this.swa_max_total_num_tokens if hybrid else 0,
        "rows": made.size,
        "table": made.req_to_token.numel() * made.req_to_token.element_size(),
        "state_slots": this.server_args.max_mamba_cache_size if state else 0,
    }


def graph_bytes(case: dict[str, Any], version: str) -> dict[str, Any]:
    """Bytes of every tensor `init_cuda_graph_state` of a backend makes."""
    import importlib

    name, cls = {
        "fa3": ("flashattention_backend", "FlashAttentionBackend"),
        "triton": ("triton_backend", "TritonAttnBackend"),
        "flashinfer": ("flashinfer_backend", "FlashInferAttnBackend"),
        "trtllm_mha": ("trtllm_mha_backend", "TRTLLMHAAttnBackend"),
    }[case["backend"]]
    module = importlib.import_module(f"sglang.srt.layers.attention.{name}")
    made: list[Any] = []

    class Torch:
        """torch with every tensor counted and put on the meta device."""

        def __getattr__(self, attribute: str) -> Any:
            found = getattr(torch, attribute)
            if attribute not in ("zeros", "empty", "full", "arange", "ones"):
                return found

            def count(*args: Any, **kwargs: Any) -> Any:
                kwargs["device"] = "meta"
                made.append(found(*args, **kwargs))
                return made[-1]

            return count

    module.torch = Torch()
    window = case["window"]
    split = case["split"] and bool(window)

    class Backend:
        """A backend's fields without its constructor, which wants a GPU."""

        device, topk, speculative_num_draft_tokens, speculative_step_id = "meta", 0, None, 0
        max_context_len, page_size = case["context"], case["page"]
        max_num_pages = -(-case["context"] // case["page"])
        attention_chunk_size = case["chunk"] or None
        has_local_attention = bool(case["chunk"])
        use_mla, is_encoder_decoder, has_swa = False, False, False
        use_sliding_window_kv_pool = split
        _swa_kv_pool = object() if split else None
        sliding_window_size = window or None
        num_head, max_kv_splits, v_head_dim = case["heads"], 8, case["value_dim"]
        _translate_kv_loc = None  # the identity, unless the unified pool is on
        swa_v_head_dim, dllm_attention, num_draft_tokens = None, None, None
        skip_prefill, is_draft_runner = False, False
        num_wrappers = 2 if window and not case["chunk"] else 1
        lean_total_programs, lean_block_m = 0, 1
        decode_cuda_graph_metadata: dict[str, Any]

        def __init__(self) -> None:
            self._get_scheduler_metadata = len
            self.kv_indptr = [
                torch.zeros(case["rows"] + 1, dtype=torch.int32, device="meta")
                for _ in range(self.num_wrappers)
            ]
            self.local_attn_builder = None
            if case["chunk"] and version == "0.5.23":
                local = importlib.import_module("sglang.srt.layers.attention.local_attention")
                local.torch = module.torch
                builder = next(
                    value
                    for value in vars(local).values()
                    if isinstance(value, type) and hasattr(value, "alloc_cuda_graph_buffers")
                )
                self.local_attn_builder = object.__new__(builder)
                for key in ("page_size", "attention_chunk_size", "max_context_len", "device"):
                    setattr(self.local_attn_builder, key, getattr(self, key))

        def _alloc_swa_page_table(self, *args: Any) -> Any:
            return getattr(module, cls)._alloc_swa_page_table(self, *args)

    backend = Backend()
    getattr(module, cls).init_cuda_graph_state(backend, case["batch"], case["batch"])
    module.torch = torch
    clones = 0
    if case["backend"] == "flashinfer":
        # clone() is not counted above: further wrappers' index lists, and two copies of each indptr.
        clones += (backend.num_wrappers - 1) * case["batch"] * case["context"] * 4
        clones += 2 * backend.num_wrappers * (case["rows"] + 1) * 4
    return {"bytes": clones + sum(tensor.numel() * tensor.element_size() for tensor in made)}


def memory_defaults(case: dict[str, Any], version: str) -> dict[str, Any]:
    """Chunk, captured sizes and static fraction of a card nobody gave flags for."""
    import sglang.srt.server_args as server

    graphs = Values(
        decode=Values(backend="full" if case["graphs"] else "disabled", max_bs=None, bs=None),
        prefill=Values(backend="breakable" if case["graphs"] else "disabled", max_bs=None, bs=None),
    )
    values = {
        "chunked_prefill_size": case["chunk"],
        "max_prefill_tokens": 16384,
        "cuda_graph_max_bs": None,
        "cuda_graph_bs": None,
        "cuda_graph_config": graphs,
        "max_running_requests": case["max_running_requests"],
        "max_total_tokens": None,
        "mem_fraction_static": None,
        "tp_size": case["tp"],
        "pp_size": 1,
        "dp_size": 1,
        "attn_dp_size": 1,
        "enable_dp_attention": False,
        "disable_cuda_graph_padding": False,
        "speculative_algorithm": None,
        "speculative_num_draft_tokens": None,
        "enable_piecewise_cuda_graph": False,
        "piecewise_cuda_graph_tokens": [],
        "piecewise_cuda_graph_max_tokens": 4096,
        "disaggregation_mode": "null",
        "moe_a2a_backend": "none",
        "device": "cuda",
        "model_path": "model",
        "context_length": None,
        "enable_symm_mem": False,
        "language_only": False,
        "language_model_only": False,
        "_cuda_graph_config_locked": set(),
    }
    if version == "0.5.23":
        import sglang.srt.arg_groups.memory_hook as hook
        import sglang.srt.arg_groups.model_overrides.qwen3_vl as qwen

        args = Values(**values)

        def declare(_args: Any, _name: str, **changes: Any) -> None:
            for name, value in changes.items():
                setattr(args, name, value)

        import sglang.srt.arg_groups.cuda_graph_hook as capture

        for module in (hook, capture):
            module.resolving_view = lambda _args: args
            module.resolved_view = lambda _args: args
        hook.declare_resolution = declare
        hook.get_device_memory_capacity = lambda device: case["smi_mib"]
        hook.model_config_of = lambda _args: Values(is_multimodal=False)
        hook.use_mla_backend = lambda _args: case["mla"]
        hook.attn_dp_enabled_of = lambda _view: False
        hook.post_capture_kv_sizing_planned = lambda _args: False
        hook.get_platform = lambda: Values(is_xpu=False)
        qwen.expand_multimodal_decode_graph_to_running_limit = lambda *_args: None
        hook.handle_gpu_memory_settings(args)
        sizes = args.cuda_graph_config.decode.bs
    else:
        resolved = Values(enable_dp_attention=False, moe_a2a_backend="none")
        values |= {
            "use_mla_backend": lambda: case["mla"],
            "get_model_config": lambda: Values(is_multimodal=False),
            "post_capture_kv_sizing_planned": lambda: False,
            "_resolved": lambda: resolved,
        }

        class Args(Values):
            """A ServerArgs without its constructor: unknown methods come from the class."""

            def __getattr__(self, name: str) -> Any:
                method = getattr(server.ServerArgs, name)
                return lambda *args: method(self, *args)

        args = Args(**values)
        if version == "0.5.16":
            import sglang.srt.arg_groups.overrides as overrides

            overrides.resolved_view = lambda _args: resolved
        server.ServerArgs._handle_gpu_memory_settings(args, case["smi_mib"])
        sizes = args.cuda_graph_bs or args.cuda_graph_config.decode.bs
    return {
        "chunk": args.chunked_prefill_size,
        "graph_bs": list(sizes),
        "fraction": args.mem_fraction_static,
    }


def answer_case(case: dict[str, Any], version: str) -> dict[str, Any]:
    """One case, by its kind and version."""
    if case["kind"] == "graph":
        return graph_bytes(case, version)
    if case["kind"] == "defaults":
        return memory_defaults(case, version)
    return pool_0_5_6(case) if version == "0.5.6.post2" else pool_from_0_5_16(case, version)


def main() -> None:
    """Answer cases until the input ends. Whatever SGLang prints goes to stderr."""
    version, folder = sys.argv[1:3]
    answers, sys.stdout = sys.stdout, sys.stderr
    sys.path.insert(0, folder)
    logging.disable(logging.CRITICAL)
    install("sglang", HIDDEN)
    for line in sys.stdin:
        try:
            answer = answer_case(json.loads(line), version)
        except Exception:  # noqa: BLE001 the test shows it beside the case
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
