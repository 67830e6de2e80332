"""Answers that are wrong, or will be: numbers that are none, scales that are not there, weights that were not used."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, known
from farspan.engines.logs.server_state import ServerState

_SCALES = compile_pattern(
    r"Using KV cache scaling factor 1\.0 for fp8_e4m3|Using FP8 KV cache but no scaling factors provided"
    r"|Using uncalibrated q_scale|scale of 1\.0 for .{0,20}(?:KV|kv)"
)
_CALIBRATED = ("fp8", "nvfp4", "fp4", "mxfp4", "modelopt", "quark", "w8a8", "w4a8")


def _scales(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    model = server_state.model.lower()
    quantized = server_state.text("quantization") or any(word in model for word in _CALIBRATED)
    if quantized:
        return Diagnosis(
            "KV is kept in FP8 with a scale of 1.0. A quantized checkpoint often brings its own KV "
            "scales: then this version's "
            "loader dropped them, because it does not map their names for this architecture, and "
            "values beyond FP8's range are "
            "cut off. Answers may be wrong without any error.",
            (
                "`grep -oE '[kv]_scale' model.safetensors.index.json | sort | uniq -c` shows whether "
                "the checkpoint has scales",
                "if it has: a version that loads them for this architecture (see the engine's "
                "release notes), or "
                "--kv-cache-dtype auto until then",
                "do not trust the scale of 1.0: `farspan bench --url URL --contexts 1M --task "
                "needle` shows what it costs",
            ),
            Confidence.STRONG,
            severity=Severity.WARNING,
        )
    return Diagnosis(
        "KV is kept in FP8 with a scale of 1.0: most often because the checkpoint has no scales. It "
        "halves the memory; recall "
        "over long contexts may suffer and should be measured.",
        (
            "`farspan bench --url URL --contexts 1M --task needle` shows whether it does",
            "where it does: --kv-cache-dtype auto, or a checkpoint with KV scales",
            "if the checkpoint has scales (grep k_scale in its index), this version's loader dropped "
            "them: use a newer one",
        ),
        Confidence.STRONG,
    )


SCALES = Rule(
    id="fp8-kv-unscaled",
    means="An FP8 KV cache without scaling factors: exactness over long contexts may suffer.",
    severity=Severity.INFO,
    pattern=_SCALES,
    explain=_scales,
    sources=("vllm model_executor/layers/quantization/kv_cache.py", "sglang 0.5.16, observed"),
)

_NAN = compile_pattern(
    r"probability tensor contains either `?inf`?, `?nan`?|NaN in the logits|Detected errors during sampling"
    r"|logits contain(?:s|ed)? (?:nan|NaN|inf)|TensorCompare\.cu.{0,120}Assertion|"
    r"nan.{0,20}(?:logits|hidden states)"
)


def _nan(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    parser = server_state.text("reasoning_parser") or server_state.text("tool_call_parser")
    fix = [
        "upgrade: faults of grammars and of kernels that give NaN are mended from version to version",
        "another attention or MoE backend, --kv-cache-dtype auto and --dtype bfloat16 (half "
        "overflows with some models)",
    ]
    if parser:
        cause = (
            "Sampling found probabilities that are no numbers. With --reasoning-parser or a tool parser "
            f"({parser}) the usual reason is a grammar that masks every token (-inf everywhere) when "
            f"structured output begins "
            "inside the reasoning; else the model computed NaN."
        )
        fix.insert(
            0,
            f"drop --reasoning-parser {parser} (or --grammar-backend none) to see whether the "
            f"grammar is the reason",
        )
    else:
        cause = (
            "Sampling found probabilities that are no numbers: the model computed NaN or infinity (a "
            "kernel, an overflow in half "
            "precision, broken or badly quantized weights), or a grammar masked every token."
        )
        fix.insert(
            0, "a single plain request without structured output shows whether a grammar is the reason"
        )
    fix.append(
        "VLLM_COMPUTE_NANS_IN_LOGITS=1 (vLLM from 0.9) counts them by request; "
        "SGLANG_SPEC_NAN_DETECTION=1 (SGLang; older: "
        "--enable-nan-detection) says where they begin"
    )
    return Diagnosis(cause, tuple(fix), Confidence.STRONG)


NAN_LOGITS = Rule(
    id="nan-probabilities",
    means="The probabilities to sample from are no numbers.",
    severity=Severity.ERROR,
    pattern=_NAN,
    explain=_nan,
    sources=("torch ATen/native/cuda/TensorCompare.cu", "sglang srt/layers/sampler.py", "vllm envs.py"),
)

_UNUSED = compile_pattern(
    r"Parameter (?P<name>\S+) not found in params_dict|[Ww]eights? .{0,40}(?:not|never) (?:loaded|"
    r"initialized) from"
    r"|Some weights (?:are|of .{0,120} were) not (?:initialized|used)|no module or parameter named "
    r"'?(?P<module>[\w.]+)"
    r"|[Ff]ollowing weights were not (?:loaded|initialized)|[Ss]kip(?:ping)? loading (?:weight|parameter)"
)


def _unused(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    name = rule_match.match["name"] or rule_match.match["module"] or ""
    times = f" ({rule_match.count} lines say so)" if rule_match.count > 1 else ""
    such = f", such as {name}" if name else ""
    what = f"Weights of the checkpoint found no place in this version's model{such}{times}"
    if "initialized" in rule_match.message.text or "not loaded from" in rule_match.message.text:
        what = f"Parts of the model got no weights from the checkpoint{times}"
    started = server_state.ready is not None
    return Diagnosis(
        f"{what}: the names in it are not those this version expects (another quantization layout, a "
        f"newer model, a fine-tune "
        "or adapter saved otherwise)."
        + (" The server starts nevertheless, and its answers may be nonsense." if started else ""),
        (
            "use the version of the engine that the model's card names, or the publisher's own checkpoint",
            "read an answer before trusting the server: `farspan bench --url URL --contexts 10k --task needle`",
            "the quantization_config in config.json must be a layout this version loads for this architecture",
        ),
        Confidence.STRONG,
        severity=Severity.WARNING if started else None,
    )


UNUSED_WEIGHTS = Rule(
    id="weights-not-used",
    means="Weights of the checkpoint were not used, or parts of the model got none: answers may be nonsense.",
    severity=Severity.ERROR,
    pattern=_UNUSED,
    explain=_unused,
    sources=("vllm model_executor/models/utils.py: AutoWeightsLoader", "sglang srt/models: load_weights"),
)

RULES: tuple[Rule, ...] = (
    UNUSED_WEIGHTS,
    known(
        "weights-of-another-shape",
        "A tensor of the checkpoint has another shape than the model's.",
        (
            r"Attempted to load weight \(torch\.Size|param_data\.shape == loaded_weight\.shape|size "
            r"mismatch for \S+: copying"
            r"|loaded_weight\.shape\[.{1,40}\] == |shape mismatch.{0,80}load"
        ),
        "A tensor of the checkpoint has another shape than this version's model has for it: the "
        "quantization's layout is another one, "
        "the config.json belongs to another checkpoint, or the tensor-parallel size does not go with this layer.",
        "config.json and weights must be of one repository and revision; download both again",
        "the version of the engine that the model's card names, or the checkpoint the publisher made for it",
        "--tensor-parallel-size 1 (SGLang: --tp-size) shows whether splitting is the reason",
        sources=(
            "vllm model_executor/model_loader/weight_utils.py: default_weight_loader",
            "vllm model_executor/parameter.py",
        ),
        confidence=Confidence.STRONG,
    ),
    SCALES,
    NAN_LOGITS,
)
