"""GPUs named by their memory: `8x140GB`, `4x48GiB`, `H200-140GB`."""

from __future__ import annotations

import re
from dataclasses import replace

from farspan.errors import NotFoundError
from farspan.hardware.catalog import given_gpu, gpus, known_gpu
from farspan.hardware.gpu import Gpu, Origin
from farspan.sizes import GIB

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>GiB|GB|G)", re.IGNORECASE)
_NAME_AND_SIZE = re.compile(rf"(?P<name>[A-Za-z].*?)[\s-]*{_SIZE.pattern}", re.IGNORECASE)

# What torch reports of a card over the number on its sticker: T4, 14.6 GiB of "16 GB", is the least of the catalog's.
_LEAST, _MOST = 0.9, 1.02
_TORCH_SHARE = 0.97  # of the sticker, where no known card has that memory: the least of docs/gpus.md's rule
_TORCH_EXACT = 0.015  # GiB is what torch prints, rounded


def gpu_by_memory(text: str) -> Gpu | None:
    """The GPU meant by a size, or by a name with its size; None when the text is neither.

    A size takes the first card of the catalog that has it, with that card's own memory and rates. A size that no card
    has is planned with that memory and the rates of the card nearest to it. `Gpu.assumed` says which.

    Raises:
        NotFoundError: The card named has another memory.
    """
    size = _SIZE.fullmatch(text.strip())
    if size is not None:
        return _of_size(text.strip(), float(size["number"]), is_exact=size["unit"].lower() == "gib")
    named = _NAME_AND_SIZE.fullmatch(text.strip())
    known = known_gpu(named["name"]) if named is not None else None
    if named is None or known is None:
        return None
    if known not in _cards(float(named["number"]), is_exact=False):
        others = [card.name for card in gpus() if card.name.startswith(f"{known.name}-")]
        raise NotFoundError(
            f"{known.name} has {known.memory_bytes / GIB:.1f} GiB as torch sees it, not {named['number']} "
            f"{named['unit']}",
            f"write {' or '.join([known.name, *others])}, or give --gpu-memory-gib",
        )
    return known


def _of_size(text: str, number: float, *, is_exact: bool) -> Gpu:
    cards = _cards(number, is_exact=is_exact)
    if cards:
        chosen, others = cards[0], [card.name for card in cards[1:]]
        also = f", as {_listed(others)} {'has' if len(others) == 1 else 'have'} too" if others else ""
        return replace(
            chosen,
            assumed=(
                f"assumed: a GPU of {text} is {_article(chosen.name)} {chosen.name}, "
                f"{chosen.memory_bytes / GIB:.1f} GiB as torch sees it{also}; name the card to plan another"
            ),
        )
    gib = number if is_exact else number * _TORCH_SHARE
    given = given_gpu(text, gib)
    share = "" if is_exact else f", {_TORCH_SHARE:g} of the number"
    nearest = min(gpus(), key=lambda card: abs(card.memory_bytes / GIB - gib))
    return replace(
        given,
        memory_origin=Origin.GIVEN if is_exact else Origin.ASSUMED,
        assumed=(
            f"assumed: torch sees {gib:.1f} GiB of a GPU of {text}{share}; no known card has that memory, so speed and "
            f"links are {nearest.name}'s; name the card, or give --gpu-memory-gib"
        ),
    )


def _cards(number: float, *, is_exact: bool) -> list[Gpu]:
    """The catalog's cards of a size, the most common first."""
    least, most = (1 - _TORCH_EXACT, 1 + _TORCH_EXACT) if is_exact else (_LEAST, _MOST)
    return [card for card in gpus() if least * number <= card.memory_bytes / GIB <= most * number]


def _listed(names: list[str]) -> str:
    shown = names[:4]
    if len(names) > len(shown):
        return f"{', '.join(shown)} and {len(names) - len(shown)} more"
    return ", ".join(shown[:-1]) + f" and {shown[-1]}" if len(shown) > 1 else shown[0]


def _article(name: str) -> str:
    return "an" if name[0] in "AHLMR" else "a"
