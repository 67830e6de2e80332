"""Print what vLLM's own classes make of configs: bytes of parameters, shapes of recurrent states. Run by its Python.

    python vllm_parameters.py [FOLDER TP]...

Nothing is allocated: modules are made on the meta device, their tensor-parallel group told to be as large as TP. Each
is made in a process of its own, forked behind what is slow to import.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import sys

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _print_parameters(folder: str, tp: int) -> None:
    config = EngineArgs(
        model=folder, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, max_model_len=4096
    ).create_engine_config()
    with set_current_vllm_config(config):
        parallel_state.init_distributed_environment(1, 0, f"tcp://127.0.0.1:{_free_port()}", 0, "gloo")
        parallel_state.initialize_model_parallel(1, 1)
        parallel_state.get_tp_group().world_size = tp
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            model = initialize_model(config)
    config.parallel_config.tensor_parallel_size = tp
    states = getattr(type(model), "get_mamba_state_shape_from_config", lambda _: ())(config)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    print(json.dumps({"bytes": size, "states": [list(shape) for shape in states]}), flush=True)


if __name__ == "__main__":
    for folder, tp in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        child = multiprocessing.get_context("fork").Process(target=_print_parameters, args=(folder, int(tp)))
        child.start()
        child.join()
        if child.exitcode:
            sys.exit(f"{folder} failed")
