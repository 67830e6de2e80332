"""What ranks lose to exchanging activations, which one rank tried out alone does not pay. Every figure is assumed.

Tensor parallelism adds up a layer's output twice, after attention and after the MLP, with an all-reduce of
tokens x hidden size. A ring moves each byte 2 (ranks - 1) / ranks times over a GPU's link, one way. Experts spread
over the ranks of several attention groups send each token to its experts and back with two all-to-alls instead.
Nothing is overlapped with computing; small messages cost their latency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from farspan.hardware.gpu import Gpu
from farspan.models.spec import ModelSpec


class _Link(NamedTuple):
    share: float  # of the bandwidth one way that large messages reach
    latency_s: float  # of one exchange of a few tokens


_LINKS = {"NVLink": _Link(0.8, 10e-6), "Infinity Fabric": _Link(0.7, 15e-6)}
_OTHER_LINK = _Link(0.6, 30e-6)  # PCIe, through the host


@dataclass(frozen=True, slots=True)
class CollectiveEstimate:
    """What the collectives of a whole deployment add to a rank alone, in seconds.

    Args:
        prefill_s: To a prompt.
        step_s: To a step that decodes one token.
        formula: The arithmetic, in words.
        basis: How far to trust it: always assumed, and why.
    """

    prefill_s: float
    step_s: float
    formula: str
    basis: str


def estimate_collectives(
    model: ModelSpec, gpu: Gpu, tp: int, prompt_tokens: int, *, ep: int = 1, chunk: int = 8192
) -> CollectiveEstimate:
    """Estimate the collectives of a deployment.

    Args:
        model: The whole model.
        gpu: One of its GPUs, all alike and linked as such GPUs are.
        tp: Tensor-parallel ranks of one attention group.
        prompt_tokens: Tokens of the prompt.
        ep: Ranks that the experts are sent to by all-to-all; 1 where the experts' outputs are added up like an MLP's,
            as they are in one tensor-parallel group, with its experts spread over the ranks or not.
        chunk: Prompt tokens of one step; 0 or less where a prompt is never cut.
    """
    link = _LINKS.get(gpu.link, _OTHER_LINK)
    one_way = gpu.link_bandwidth / 2 * link.share
    width = model.hidden_size * model.dtype_bytes
    experts = sum(1 for layer in model.layers if layer.moe) if ep > 1 else 0
    reduced = (2 * model.num_layers - experts) if tp > 1 else 0
    ring = 2 * (tp - 1) / tp * width / one_way
    sent = _expert_bytes(model, width, ep) / one_way
    per_token = reduced * ring + sent
    exchanges = reduced + 2 * experts
    steps = -(-prompt_tokens // chunk) if chunk > 0 else 1
    parts = []
    if reduced:
        parts.append(f"{reduced} all-reduces of {width:,} B a token over {tp} ranks")
    if experts:
        parts.append(f"{2 * experts} all-to-alls over {ep} ranks")
    formula = " and ".join(parts) or "one rank exchanges nothing"
    return CollectiveEstimate(
        prefill_s=per_token * prompt_tokens + steps * exchanges * link.latency_s,
        step_s=per_token + exchanges * link.latency_s,
        formula=f"{formula}, {one_way / 1e9:.0f} GB/s one way, {link.latency_s * 1e6:.0f} us each at least",
        basis=(
            f"assumed: {link.share:.0%} of what {gpu.name}'s {gpu.link} states, nothing overlapped with computing; no "
            "deployment was measured"
        ),
    )


def _expert_bytes(model: ModelSpec, width: int, ep: int) -> float:
    """Bytes one rank sends for a token of its own: to each other rank that holds one of its experts, and back."""
    if ep < 2:
        return 0.0
    total = 0.0
    for layer in model.layers:
        if layer.moe is not None:
            # Ranks that top_k experts drawn evenly fall on; its own needs no sending.
            ranks = ep * (1 - (1 - 1 / ep) ** layer.moe.top_k)
            total += 2 * ranks * (ep - 1) / ep * width
    return total
