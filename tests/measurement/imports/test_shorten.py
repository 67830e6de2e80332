"""JSON with its long strings cut short is the same JSON otherwise."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.measurement.imports import shorten
from farspan.measurement.imports.shorten import ShortStrings

texts = st.text(st.sampled_from('a"\\\n\u00e9\u20ac\U0001f600 [{,:'), max_size=40)
trees = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def shortened(data: bytes, piece: int) -> bytes:
    stream, parts = ShortStrings(io.BytesIO(data)), []
    while part := stream.read(piece):
        parts.append(part)
    return b"".join(parts)


@given(trees, st.booleans(), st.integers(1, 50), st.integers(1, 9))
def test_short_strings_pass_untouched_however_they_are_read(
    tree: Any, ascii_only: bool, piece: int, chunk: int
) -> None:
    data = json.dumps(tree, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shorten, "_CHUNK", chunk)
        assert shortened(data, piece) == data


@given(trees, st.booleans(), st.integers(1, 9), st.integers(0, 12))
def test_long_strings_become_prefixes_and_the_rest_stays(
    tree: Any, ascii_only: bool, chunk: int, longest: int
) -> None:
    data = json.dumps([tree, "end"], ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shorten, "_CHUNK", chunk)
        patch.setattr(shorten, "LONGEST", longest)
        text = shortened(data, 7)
    pairs = json.loads(text, object_pairs_hook=list)
    check(json.loads(data, object_pairs_hook=list), pairs)


def check(whole: Any, cut: Any) -> None:
    if isinstance(whole, str):
        kept = cut.encode("utf-8", "surrogatepass").decode("utf-8", "ignore")
        assert whole.startswith(kept), "half of a character at most is lost"
    elif isinstance(whole, list | tuple):
        assert len(whole) == len(cut)
        for one, other in zip(whole, cut, strict=True):
            check(one, other)
    else:
        assert whole == cut
