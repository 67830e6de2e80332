"""SGLang to 0.5.7: the prefix tree's work grows with the cube of a chunked prompt."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState
from farspan.diagnosis.sglang_version import version_like
from farspan.sizes import GIB

_LONG = 1_000_000


def _look(situation: ServerState) -> Diagnosis | None:
    context, chunk = situation.context, situation.number("chunked_prefill_size")
    if situation.engine != "sglang" or version_like(situation) not in ("0.5.6", "0.5.7"):
        return None
    if context is None or context < _LONG or not chunk or chunk < 1 or situation.is_on("disable_radix_cache"):
        return None
    chunks = -(-context // int(chunk))
    copies = 8 * chunk * chunks * (chunks + 1) / 2 / GIB
    if copies < 1:
        return None
    return Diagnosis(
        f"This version's prefix tree keeps a copy of all indices for each of the {chunks:,} chunks of a "
        f"{context:,}-token prompt: {copies:.1f} GiB on the GPU by its end, and CPU time that grows "
        f"with its cube (101 s "
        "at 2M tokens, hours at 10M).",
        (
            "--chunked-prefill-size 131072 (2.2 s at 2M), or --disable-radix-cache",
            "or SGLang 0.5.8 and later for the memory",
        ),
        Confidence.STRONG,
        evidence=Evidence(
            situation.args_line, f"server_args: context_length={context}, chunked_prefill_size={chunk:.0f}"
        ),
    )


RULE = StateRule(
    id="sglang-prefix-tree",
    severity=Severity.WARNING,
    look=_look,
    sources=("sglang 0.5.6.post2 srt/mem_cache/radix_cache.py: cache_unfinished_req, run on a CPU",),
)
