"""Random models, as vLLM sees them: layers of up to three kinds, in patterns like those of real models."""

from __future__ import annotations

from hypothesis import strategies as st

from farspan.engines.vllm.kv_spec import KvSpec, SpecKind
from vllm_engine import Question

BLOCKS = (16, 32, 64)


@st.composite
def attention_specs(draw: st.DrawFn, block: int, value_bytes: int) -> KvSpec:
    """One attention layer of any kind and size."""
    kind = draw(st.sampled_from([kind for kind in SpecKind if kind is not SpecKind.STATE]))
    head = draw(st.sampled_from((64, 128, 192, 256)))
    if kind is SpecKind.MLA:
        packed = draw(st.booleans())
        return KvSpec(
            kind,
            block,
            num_kv_heads=1,
            head_size=576,
            value_bytes=1 if packed else value_bytes,
            entry_bytes=656 if packed else None,
            cache_dtype="fp8_ds_mla" if packed else "auto",
        )
    window = None
    if kind is SpecKind.SLIDING_WINDOW:
        window = draw(st.sampled_from((128, 512, 1024, 4096)))
    elif kind is SpecKind.CHUNKED_LOCAL:
        window = draw(st.sampled_from((2048, 8192)))
    heads = draw(st.sampled_from((1, 2, 4, 8)))
    value_head = head if kind is SpecKind.CHUNKED_LOCAL else draw(st.sampled_from((head, head, 128)))
    return KvSpec(kind, block, heads, head, value_head, value_bytes, window)


@st.composite
def usual_kinds(draw: st.DrawFn, block: int, value_bytes: int) -> list[KvSpec]:
    """A hybrid model like real ones: full attention and windows, with equal heads or twice as many."""
    heads = draw(st.sampled_from((1, 2, 4)))
    head = draw(st.sampled_from((64, 128, 256)))
    kinds = [KvSpec(SpecKind.FULL, block, heads, head, head, value_bytes)]
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from((SpecKind.CHUNKED_LOCAL, SpecKind.SLIDING_WINDOW)))
        window = draw(st.sampled_from((512, 1000, 8192)))
        more = draw(st.sampled_from((1, 1, 2)))
        kinds.append(KvSpec(kind, block, heads * more, head, head, value_bytes, window))
    return kinds


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Layers of one to four kinds in a repeating or a shuffled order, with settings around what fits."""
    block = draw(st.sampled_from(BLOCKS))
    value_bytes = draw(st.sampled_from((1, 2)))
    if draw(st.integers(0, 3)):
        kinds = draw(usual_kinds(block, value_bytes))
    else:
        kinds = draw(st.lists(attention_specs(block, value_bytes), min_size=1, max_size=3))
    max_model_len = draw(st.integers(1, 12_000_000))
    if draw(st.integers(0, 3)) == 0 and kinds[0].kind is not SpecKind.MLA:
        # The platform pads a recurrent state to the attention page before planning.
        page = kinds[0].page_bytes
        kinds.append(
            KvSpec(SpecKind.STATE, max_model_len, page_padded=page, state_bytes=page // 2, state_blocks=1)
        )
    counts = [draw(st.integers(1, 40)) for _ in kinds]
    order = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
    if draw(st.booleans()):
        order = draw(st.permutations(order))
    layers = {f"model.layers.{index}.attn": spec for index, spec in enumerate(order)}
    everything = sum(spec.token_bytes for spec in order) or 1
    share = draw(st.sampled_from((0.1, 0.4, 0.9, 1.1, 2.0, 4.0)))
    return Question(
        layers=layers,
        max_model_len=max_model_len,
        max_num_batched_tokens=draw(st.sampled_from((512, 2048, 8192, 16384))),
        batches_in_flight=draw(st.sampled_from((1, 2, 3))),
        hybrid=draw(st.integers(0, 3)) > 0,
        available=int(everything * max_model_len * share) + draw(st.integers(0, 10**8)),
    )
