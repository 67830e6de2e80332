"""Who owns the slots: what the tree needs of an allocator, slots on their way back, and which it would rather have."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.integrations.sglang.prefix_tree.stretch import Span, Stretch, join

# Slots of a candidate that the allocator is asked about.
_SAMPLE = 1024


class SlotOwner(Protocol):
    """What the tree needs of the engine's allocator."""

    def free(self, slots: torch.Tensor) -> None:
        """Take slots back, with what window layers have of them."""

    def free_full(self, slots: torch.Tensor) -> None:
        """Take slots back of which window layers have nothing."""

    def free_window(self, slots: torch.Tensor) -> None:
        """Take back only what window layers have of slots."""

    def move_window(self, kept: torch.Tensor, given: torch.Tensor) -> None:
        """Make what window layers have of `given` that of `kept`, which has nothing there, and take `given` back."""

    @property
    def prefers(self) -> bool:
        """Whether `pressure` has anything to say."""

    def pressure(self, slots: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return for each slot how much freeing it would help; asked only when `prefers`."""


class Gone:
    """Slots that leave the tree, put together before the allocator is called.

    Attributes:
        both: Of all layers.
        full: Of which window layers have nothing.
        window: Of which only window layers' part goes; `full` may have them too.
    """

    def __init__(self) -> None:
        self.both: list[torch.Tensor] = []
        self.full: list[torch.Tensor] = []
        self.window: list[torch.Tensor] = []

    def free(self, owner: SlotOwner) -> None:
        """Give them to their owner, what window layers have first."""
        if self.window:
            owner.free_window(join(self.window))
        if self.full:
            owner.free_full(join(self.full))
        if self.both:
            owner.free(join(self.both))


def leaf_scores(owner: SlotOwner, leaves: list[Stretch]) -> list[float]:
    """Return how much it would help to free what goes first of each leaf, its end."""
    return _scores(
        owner, [node.slots.numbers(max(node.start, node.end - _SAMPLE), node.end) for node in leaves]
    )


def span_scores(owner: SlotOwner, spans: list[Span]) -> list[float]:
    """Return how much it would help to free what goes first of each span, its start."""
    samples = []
    for span in spans:
        assert span.stretch is not None
        samples.append(span.stretch.slots.numbers(span.start, min(span.stop, span.start + _SAMPLE)))
    return _scores(owner, samples)


def _scores(owner: SlotOwner, samples: list[NDArray[np.integer[Any]]]) -> list[float]:
    """Return how much each candidate's slots would help, on average; one question for all."""
    answer = owner.pressure(np.concatenate(samples))
    ends = np.cumsum([len(each) for each in samples])[:-1]
    return [float(part.mean()) for part in np.split(answer, ends)]
