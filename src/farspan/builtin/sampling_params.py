"""How a request's tokens are chosen. Needs no torch until numbers are drawn: the text workers read it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from farspan.errors import InputError

if TYPE_CHECKING:
    import torch

_SMALLEST_SEED, _LARGEST_SEED = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request's tokens are chosen and when it ends; names and meanings are vLLM's.

    Raises:
        InputError: A value is out of range.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 or -1: no limit
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}", "it must be at least 1")
        if not 0 <= self.temperature <= 100:
            raise InputError(f"temperature is {self.temperature}", "it must be between 0 and 100")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}", "it must be above 0 and at most 1")
        if self.seed is not None and not _SMALLEST_SEED <= self.seed <= _LARGEST_SEED:
            raise InputError("the seed is outside the signed 64-bit integers", "use a smaller one")
        if self.top_k < -1:
            raise InputError(f"top_k is {self.top_k}", "it must be positive, or 0 or -1 for no limit")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < 1e-5

    def generator(self) -> torch.Generator | None:
        """Return the request's own random numbers, or None when it draws none."""
        if self.greedy:
            return None
        import torch

        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator
