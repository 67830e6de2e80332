"""A start that fails over its own arguments, in either engine."""

from __future__ import annotations

import difflib

from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.planned_server import spec_of
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch
from farspan.engines.logs.server_state import ServerState
from farspan.errors import InputError

_CONTEXT_ABOVE_MODEL = compile_pattern(
    r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
    r"\((?P<where>[^)]*?)"
    r"=?(?P<derived>\d+(?:\.\d+)?)\b"
    r"|User-specified context_length \((?P<asked2>\d+)\) is greater than the derived context_length "
    r"\((?P<derived2>\d+)\)"
)


def _context_above_model(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match = rule_match.match
    sglang = match["asked2"] is not None
    asked = int(match["asked2"] or match["asked"])
    derived = int(float(match["derived2"] or match["derived"]))
    flag, env = (
        ("--context-length", "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1")
        if sglang
        else ("--max-model-len", "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1")
    )
    started = server_state.ready is not None
    cause = f"{flag} {asked:,} is longer than the {derived:,} positions the model's config allows."
    cause += (
        " The server took it; beyond that length answers are wrong or the GPU faults."
        if started
        else f" {env} would only silence the check: beyond that length answers are wrong or the GPU faults."
    )
    return Diagnosis(
        cause,
        (
            f"{flag} {derived}",
            "or a checkpoint made for more; where the model card gives RoPE scaling for it, pass that with "
            + ("--json-model-override-args" if sglang else "--hf-overrides"),
        ),
        severity=Severity.WARNING if started else Severity.ERROR,
    )


CONTEXT_ABOVE_MODEL = Rule(
    id="context-above-model",
    means=(
        "The context asked for is longer than the model was made for: both engines refuse, unless told "
        "otherwise."
    ),
    severity=Severity.ERROR,
    pattern=_CONTEXT_ABOVE_MODEL,
    explain=_context_above_model,
    sources=("vllm-project/vllm#3676", "vllm-project/vllm#17924", "sglang srt/configs/model_config.py"),
)


_HEADS_NOT_DIVISIBLE = compile_pattern(
    r"Total number of attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size "
    r"\((?P<tp>\d+)\)"
    r"|AssertionError: (?P<heads2>\d+) is not divisible by (?P<tp2>\d+)"
)


_MOST = 16


def _heads_not_divisible(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match = rule_match.match
    heads, tp = int(match["heads"] or match["heads2"]), int(match["tp"] or match["tp2"])
    spec = spec_of(server_state)
    sizes = [size for size in range(1, _MOST + 1) if heads % size == 0]
    if spec is not None:
        allowed = []
        for size in range(1, _MOST + 1):
            try:
                spec.check_tp(size)
            except InputError:
                continue
            allowed.append(size)
        sizes = allowed or sizes
    below = [size for size in sizes if size <= tp]
    return Diagnosis(
        f"{heads} cannot be split evenly over {tp} ranks.",
        (
            f"--tensor-parallel-size {below[-1] if below else 1} (SGLang: --tp-size); sizes that go: "
            f"{', '.join(str(size) for size in sizes)}",
            "the GPUs left over can run another replica, or pipeline parallelism",
        ),
    )


HEADS_NOT_DIVISIBLE = Rule(
    id="heads-not-divisible",
    means="The tensor-parallel size does not divide the model's attention heads.",
    severity=Severity.ERROR,
    pattern=_HEADS_NOT_DIVISIBLE,
    explain=_heads_not_divisible,
    sources=("vllm-project/vllm#2652", "vllm-project/vllm#4232", "sglang srt/distributed/utils.py: divide"),
)


_TOO_FEW_GPUS = compile_pattern(
    r"(?:World size|Tensor parallel size) \((?P<ranks>\d+)\) (?:is larger than|cannot be larger than"
    r"|exceeds) .{0,40}"
    r"available GPUs \((?P<gpus>\d+)\)"
    r"|local_world_size \((?P<ranks2>\d+)\) must be less than or equal to the number of visible devices "
    r"\((?P<gpus2>\d+)\)"
    r"|invalid device ordinal"
)


def _too_few_gpus(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match = rule_match.match
    ranks, gpus = match["ranks"] or match["ranks2"], match["gpus"] or match["gpus2"]
    if ranks is None:
        return Diagnosis(
            f"A rank asked for a GPU that is not there (tensor parallel {server_state.tp}).",
            (
                "as many GPUs as --tensor-parallel-size: docker --gpus all, nvidia.com/gpu, "
                "CUDA_VISIBLE_DEVICES",
            ),
        )
    return Diagnosis(
        f"{ranks} ranks were asked for and {gpus} GPUs are visible here.",
        (
            f"--tensor-parallel-size {gpus} (SGLang: --tp-size), if the model fits, or show the "
            f"container more GPUs: --gpus all",
            "over several nodes: --distributed-executor-backend ray (vLLM), --nnodes and --node-rank "
            "(SGLang)",
        ),
    )


TOO_FEW_GPUS = Rule(
    id="too-few-gpus",
    means="More ranks than GPUs.",
    severity=Severity.ERROR,
    pattern=_TOO_FEW_GPUS,
    explain=_too_few_gpus,
    sources=("vllm-project/vllm#29447", "vllm-project/vllm#30140", "vllm config/parallel.py"),
)


_GONE = {
    "--calculate-kv-scales": "gone from vLLM 0.29: drop it",
    "--hybrid-kvcache-ratio": "of SGLang 0.4.9 to 0.5.9; later hybrid pools are on by default: use "
    "--swa-full-tokens-ratio",
    "--swap-space": "gone from vLLM: drop it",
    "--disable-log-requests": "gone from vLLM: requests are not logged unless --enable-log-requests is given",
    "--use-v2-block-manager": "gone from vLLM: drop it",
    "--num-scheduler-steps": "gone from vLLM: drop it",
    "--context-length": "SGLang's; vLLM's is --max-model-len",
    "--mem-fraction-static": "SGLang's; vLLM's is --gpu-memory-utilization",
    "--max-running-requests": "SGLang's; vLLM's is --max-num-seqs",
    "--max-model-len": "vLLM's; SGLang's is --context-length",
    "--gpu-memory-utilization": "vLLM's; SGLang's is --mem-fraction-static",
    "--max-num-seqs": "vLLM's; SGLang's is --max-running-requests",
}


def _unknown_flag(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:  # noqa: ARG001
    words = rule_match.match["words"].split()
    flags = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("-")]
    known = tuple(f"{flag} is {_GONE[flag]}" for flag in flags if flag in _GONE)
    named = ", ".join(flags[:5] or words[:3])
    return Diagnosis(
        f"The engine does not know {named} and ended with code 2.",
        known
        or (
            "compare with `vllm serve --help=all` or `python -m sglang.launch_server --help` of this "
            "very version",
        ),
        Confidence.CERTAIN,
    )


UNKNOWN_FLAG = Rule(
    id="unknown-flag",
    means="The engine does not know a flag: misspelt, of another version, or of the other engine.",
    severity=Severity.ERROR,
    pattern=compile_pattern(r"error: unrecognized arguments: (?P<words>\S.*)"),
    explain=_unknown_flag,
    sources=("vllm-project/vllm#27389", "vllm-project/recipes#20"),
    general=True,
)


_BAD_VALUE = compile_pattern(
    r"error: argument (?P<flag>-[\w/-]+): (?P<why>.{1,900})|error: the following arguments are "
    r"required: (?P<required>.+)"
    r"|error: (?P<ambiguous>ambiguous option: .+)"
)
_CHOICES = compile_pattern(r"invalid choice: '?(?P<given>[^' ]{0,100})'? \(choose from (?P<choices>.+?)\)?$")
_NEEDS_JSON = {
    "--compilation-config": "-O3 (no space), or JSON: --compilation-config '{\"mode\": 3}' (vLLM to 0.11: level)",
    "--speculative-config": 'a JSON object: --speculative-config \'{"method": "ngram", '
    '"num_speculative_tokens": 4}\'',
    "--limit-mm-per-prompt": "a JSON object: --limit-mm-per-prompt '{\"image\": 2}'",
    "--kv-transfer-config": "a JSON object in single quotes",
    "--hf-overrides": "a JSON object in single quotes",
}


def _bad_value(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    match = rule_match.match
    if match["required"] is not None:
        return Diagnosis(
            f"The command line lacks {match['required'].strip()[:200]}, and the engine ended with code 2.",
            (f"add {match['required'].strip()[:200]}; `--help` of this very version says how",),
        )
    if match["flag"] is None:
        return Diagnosis(
            f"A shortened flag could mean several: {match['ambiguous'][:200]}.",
            ("write the flag out in full",),
        )
    flag, why = match["flag"].partition("/")[0], match["why"].strip()
    choice = _CHOICES.search(why)
    if choice is not None:
        choices = [one.strip(" '\"") for one in choice["choices"].split(",")]
        near = difflib.get_close_matches(choice["given"], choices, n=1, cutoff=0.4)
        return Diagnosis(
            f"{flag} has no value '{choice['given']}' in this version; the engine ended with code 2.",
            (
                *((f"{flag} {near[0]}, if that was meant",) if near else ()),
                f"take one of {', '.join(choices[:30])}, or leave {flag} out",
            ),
        )
    fix = [_NEEDS_JSON[flag]] if flag in _NEEDS_JSON else []
    if "validation error" in why or "JSON" in why or "json" in why:
        fix = fix or [f"{flag} takes a JSON object in single quotes"]
    fix.append("`--help` of this very version says what it takes: values change from one version to the next")
    return Diagnosis(
        f"{flag} was given a value this version does not take ({why[:200]}); the engine ended with code 2.",
        tuple(fix),
    )


BAD_VALUE = Rule(
    id="bad-flag-value",
    means="A flag was given a value this version does not take, or a needed one is missing.",
    severity=Severity.ERROR,
    pattern=_BAD_VALUE,
    explain=_bad_value,
    sources=("argparse", "vllm engine/arg_utils.py", "sglang srt/server_args.py"),
)

RULES = (
    CONTEXT_ABOVE_MODEL,
    HEADS_NOT_DIVISIBLE,
    TOO_FEW_GPUS,
    UNKNOWN_FLAG,
    BAD_VALUE,
)
