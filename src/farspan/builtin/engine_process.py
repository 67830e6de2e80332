"""`python -m farspan.builtin.engine_process`: the process in which the built-in engine loads and runs.

Started by `farspan.builtin.engine_start`; speaks to the server over a socket (`farspan.builtin.engine_channel`). It has
an interpreter of its own, so that the server answers whatever the engine does.
"""

from __future__ import annotations

import gc
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan.builtin.child_process import leave_signals_to_the_server
from farspan.builtin.engine_channel import EngineChannel, pack_error
from farspan.builtin.startlog import StartLog
from farspan.errors import CheckpointError, FarspanError, InputError, install_command
from farspan.kv.kv_options import KVOptions
from farspan.kv.memory.budget.settings import BudgetSettings

if TYPE_CHECKING:
    from farspan.builtin.engine import InferenceEngine


def main() -> None:
    """Load an engine and run it until the server closes the socket."""
    leave_signals_to_the_server()  # whose end is ours, however it comes
    channel = EngineChannel(socket.socket(fileno=int(sys.argv[1])))
    asked = channel.receive()
    if asked is None:
        return
    try:
        engine = load_engine(asked.header)
    except FarspanError as error:
        channel.send({"error": pack_error(error)})
        sys.exit(2)
    # What is here now stays: a collection that walked all of torch's objects would hold every thread.
    gc.collect()
    gc.freeze()
    from farspan.builtin.engine_host import EngineHost

    if not EngineHost(engine, channel, asked.header["model_name"]).run():
        sys.exit(1)


def load_engine(asked: dict[str, Any]) -> InferenceEngine:
    """Return the engine that a server's first message asks for; its phases go to the log.

    Raises:
        InputError: A package or a device is missing, or an option does not fit.
        CheckpointError: The weights cannot be loaded.
    """
    log = StartLog()
    try:
        import torch

        from farspan.builtin.engine import EngineOptions, InferenceEngine
        from farspan.builtin.load_weights import LoadFormat
        from farspan.builtin.model import LlamaModel
    except ModuleNotFoundError as error:
        raise InputError(f"the built-in engine needs {error.name}", install_command("builtin")) from error
    folder, device, dtype = Path(asked["folder"]), asked["device"], asked["dtype"]
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("torch sees no CUDA device", "use --device cpu")
    options = EngineOptions(kv=_kv_options(asked["kv"]), **asked["options"])
    log.libraries_loaded(torch.__version__)
    try:
        model = LlamaModel(
            folder,
            device,
            None if dtype == "auto" else getattr(torch, dtype),
            LoadFormat(asked["load_format"]),
        )
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        # Weights that do not fit the device, or a config whose numbers torch can do nothing with.
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"{folder} cannot be loaded ({said})", "check the checkpoint, and the memory"
        ) from error
    log.weights_loaded(model.weight_bytes)
    return InferenceEngine(model, options, write=log.memory)


def _kv_options(asked: dict[str, Any]) -> KVOptions:
    budget = asked["budget"]
    return KVOptions(**{**asked, "budget": None if budget is None else BudgetSettings(**budget)})


if __name__ == "__main__":
    main()
