"""What a tensor on the device holds, on the CPU: copied when it is made, so that who asks later does not wait."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class HostCopy:
    """A copy of a tensor of whole numbers that nobody changes any more.

    Reading a tensor from the device waits for all that is queued before it, which for a scheduler is the forward pass
    that runs. A copy that was queued when the tensor was made has long ended.
    """

    __slots__ = ("_copied", "_numbers")

    def __init__(self, numbers: NDArray[np.integer[Any]], copied: Any = None) -> None:
        self._numbers = numbers
        self._copied = copied  # an event, until it is known to have happened

    @classmethod
    def of(cls, tensor: torch.Tensor) -> HostCopy:
        """Begin to copy a tensor of whole numbers."""
        if tensor.device.type != "cuda":
            return cls(tensor.numpy())
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        pinned.copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return cls(pinned.numpy(), copied)

    def part(self, low: int, high: int) -> HostCopy:
        """Return a copy of [low, high) that keeps no memory of the whole; see `numbers`."""
        return HostCopy(self.numbers()[low:high].copy())

    @property
    def has_arrived(self) -> bool:
        """Whether `numbers` does not wait."""
        return self._copied is None or bool(self._copied.query())

    def settle(self) -> None:
        """Move to ordinary memory if the copy has ended: there is little of the kind that the device can copy to."""
        if self.has_arrived:
            self.numbers()

    def numbers(self) -> NDArray[np.integer[Any]]:
        """Return what the tensor holds; waits when it was made just now."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied, self._numbers = None, self._numbers.copy()
        return self._numbers
