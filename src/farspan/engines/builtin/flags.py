"""The built-in engine's flags as given, and what it refuses."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from farspan.errors import InputError
from farspan.hardware.gpu import Gpu
from farspan.kv.kv_options import KVOptions
from farspan.models.spec import KvDtype, ModelSpec
from farspan.planner.engine_flags import flag_words
from farspan.planner.request import PlanRequest
from farspan.sizes import GIB

DEFAULTS = KVOptions()
_ARCHITECTURES = frozenset({"LlamaForCausalLM", "Llama4ForConditionalGeneration", "Llama4ForCausalLM"})
_KV_DTYPES = frozenset({"auto", "fp8_e4m3"})
FLAGS = frozenset(
    {
        "--max-model-len",
        "--kv-cache-gib",
        "--kv-cache-dtype",
        "--kv-initial",
        "--kv-fixed",
        "--kv-host-gib",
        "--kv-quiet-s",
        "--kv-segment-mib",
        "--keep-prefixes-s",
        "--enable-prefix-caching",
        "--no-enable-prefix-caching",
        "--kv-budget",
        "--kv-budget-limit",
        "--kv-budget-floor",
        "--page-size",
        "--max-num-batched-tokens",
        "--max-num-seqs",
        "--dtype",
        "--load-format",
        "--enforce-eager",
    }
)
_SWITCHES = frozenset(
    {"--enforce-eager", "--kv-fixed", "--enable-prefix-caching", "--no-enable-prefix-caching"}
)


class BuiltinFlags(NamedTuple):
    """What one server runs with, its defaults filled in.

    Args:
        value_bytes: Bytes of a weight, and of a key's or value's channel where these are not FP8.
        fp8: Whether a channel takes a byte, with a float32 scale a head.
        step_tokens: --max-num-batched-tokens.
        sequences: --max-num-seqs, and no more than a step has tokens.
        page_tokens: --page-size.
        segment_mib: --kv-segment-mib; None for the cache's own choice.
        cap_bytes: --kv-cache-gib; None for the default share of free memory.
        passed_on: Words of the flags farspan does not write itself, as given.
    """

    value_bytes: int
    fp8: bool
    step_tokens: int
    sequences: int
    page_tokens: int
    segment_mib: int | None
    cap_bytes: int | None
    passed_on: tuple[str, ...]


def read_flags(request: PlanRequest) -> BuiltinFlags:
    """Read the flags of a request; the same object for every context of a sweep.

    Raises:
        InputError: A model the engine does not run, a KV type other than the model's or FP8, a
            flag it does not have.
    """
    given = tuple(request.engine_flags.items())
    return _read(given, request.model, request.gpu, request.kv_dtype)


@lru_cache(maxsize=256)
def _read(
    given: tuple[tuple[str, str | None], ...], model: ModelSpec, gpu: Gpu, kv_dtype: KvDtype
) -> BuiltinFlags:
    request = PlanRequest(model, gpu, 1, 1, 1, kv_dtype=kv_dtype, engine_flags=dict(given))
    _refuse(request)
    step = request.int_flag(2048, "--max-num-batched-tokens")
    kept = [
        (name, value)
        for name, value in given
        if name != "--max-model-len" and (value is not None or name in _SWITCHES)
    ]
    dtype = request.text_flag("", "--dtype")
    return BuiltinFlags(
        value_bytes={"float32": 4, "bfloat16": 2}.get(dtype, model.dtype_bytes),
        fp8=request.text_flag(kv_dtype.value, "--kv-cache-dtype").startswith("fp8"),
        step_tokens=step,
        sequences=min(request.int_flag(64, "--max-num-seqs"), step),
        page_tokens=request.int_flag(DEFAULTS.page_tokens, "--page-size"),
        segment_mib=request.int_flag(0, "--kv-segment-mib") or None,
        cap_bytes=int(request.float_flag(0.0, "--kv-cache-gib") * GIB)
        if request.has_flag("--kv-cache-gib")
        else None,
        passed_on=tuple([word for pair in kept for word in flag_words(*pair)]),
    )


def _refuse(request: PlanRequest) -> None:
    model = request.model
    if model.architecture not in _ARCHITECTURES:
        raise InputError(
            f"the built-in engine does not run {model.architecture}",
            "it runs Llama 3 and Llama 4; serve this model with vLLM or SGLang",
        )
    if model.quantization is not None:
        raise InputError("the built-in engine does not run quantized checkpoints", "give the bf16 checkpoint")
    asked = request.text_flag(request.kv_dtype.value, "--kv-cache-dtype")
    if asked not in _KV_DTYPES:
        raise InputError(
            f"the built-in engine does not keep keys and values as {asked}",
            f"it knows {', '.join(sorted(_KV_DTYPES))}",
        )
    unknown = sorted(set(request.engine_flags) - FLAGS)
    if unknown:
        raise InputError(f"the built-in engine has no {unknown[0]}", f"it has {', '.join(sorted(FLAGS))}")
    if request.text_flag("auto", "--load-format") not in ("auto", "dummy"):
        raise InputError("--load-format is auto or dummy for the built-in engine", "choose one of them")
    if request.has_flag("--dtype") and request.text_flag("", "--dtype") not in (
        "auto",
        "float32",
        "bfloat16",
    ):
        raise InputError("--dtype is auto, float32 or bfloat16 for the built-in engine", "choose one of them")
