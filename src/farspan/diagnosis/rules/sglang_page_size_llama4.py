"""SGLang 0.5.6: page sizes above 1 give wrong answers with Llama 4 on fa3."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState
from farspan.diagnosis.sglang_version import llama4, version_like


def _look(situation: ServerState) -> Diagnosis | None:
    page = situation.number("page_size")
    if situation.engine != "sglang" or page is None or page <= 1 or not llama4(situation):
        return None
    if version_like(situation) != "0.5.6" or situation.text("attention_backend") not in ("", "fa3"):
        return None
    return Diagnosis(
        f"--page-size {page:.0f} with Llama 4 on fa3 gives wrong answers in 0.5.6: a table of tokens "
        f"is passed where one of "
        "pages is read.",
        ("--page-size 1",),
        Confidence.STRONG,
        evidence=Evidence(situation.args_line, f"server_args: page_size={page:.0f}"),
    )


RULE = StateRule(
    id="sglang-page-size-llama4",
    severity=Severity.ERROR,
    look=_look,
    sources=("sglang 0.5.6.post2 srt/layers/attention/flashattention_backend.py",),
)
