"""What asks the device while work is scheduled: the answer comes when the pass that runs has ended."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result, or its size, the host needs.
_ASKING = ("nonzero", "unique", "masked_select", "_local_scalar_dense")
_TORCH = Path(torch.__file__).parent


class DeviceQuestions(TorchDispatchMode):
    """Counts what waits for the device, by the file and function that asks; it runs on the CPU, where nothing waits.

    A number of the host's that is written to some places of a tensor counts too: CUDA copies it, and waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._waits(str(func), args):
            frames = [
                one for one in traceback.extract_stack()[:-1] if _TORCH not in Path(one.filename).parents
            ]
            self.asked[f"{Path(frames[-1].filename).name}: {frames[-1].name}"] += 1
        return func(*args, **(kwargs or {}))

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, watched."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return watched

    @staticmethod
    def _waits(name: str, args: tuple[Any, ...]) -> bool:
        if any(asking in name for asking in _ASKING):
            return True
        if name.startswith("aten.index.Tensor"):
            return any(one is not None and one.dtype == torch.bool for one in args[1])
        return name.startswith("aten.index_put") and args[2].dim() == 0
