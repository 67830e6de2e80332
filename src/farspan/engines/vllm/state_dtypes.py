"""The type that recurrent states are kept in, where --mamba-ssm-cache-dtype chooses it."""

from __future__ import annotations

from farspan.engines.vllm.versions import VllmRules
from farspan.errors import InputError, UnsupportedError
from farspan.models.spec import CONVOLUTION, ModelSpec
from farspan.models.state_dtypes import with_recurrent_dtype
from farspan.planner.request import PlanRequest
from farspan.planner.versions import version_key

_FLAG = "--mamba-ssm-cache-dtype"
_READ_SINCE = version_key("0.20.0")
_BFLOAT16_SINCE = version_key("0.22.0")
_DTYPES = ("auto", "float32", "float16", "bfloat16")
# Their states keep types of their own (mamba_utils.py: kda_state_dtype, linear_attention_state_dtype).
_OF_OTHERS = ("Kimi", "Bailing")


def state_dtype(request: PlanRequest, rules: VllmRules) -> str:
    """The type asked for; empty for the config's own (vllm config/cache.py: MambaDType).

    Raises:
        InputError: The release has no such type.
        UnsupportedError: A release in which the flag was not read.
    """
    text = request.text_flag("auto", _FLAG).lower()
    key = version_key(rules.version)
    if text == "auto":
        return ""
    if key < _READ_SINCE:
        raise UnsupportedError(
            f"{_FLAG} (recurrent states of another type) changes vLLM's memory as is mirrored from 0.20.0 on",
            f"plan without {_FLAG}",
        )
    allowed = _DTYPES if key >= _BFLOAT16_SINCE else _DTYPES[:-1]
    if text not in allowed:
        raise InputError(f"vllm {rules.version} has no {_FLAG} {text}", f"choose one of {', '.join(allowed)}")
    return text


def with_state_dtype(model: ModelSpec, dtype: str) -> ModelSpec:
    """The model with its recurrent states in that type (mamba_utils.py: _mamba_state_dtype)."""
    plain = any(layer.states and layer.states[0].name != CONVOLUTION for layer in model.layers)
    if not dtype or plain or model.architecture.startswith(_OF_OTHERS):
        return model
    return with_recurrent_dtype(model, dtype)
