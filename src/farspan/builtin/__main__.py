"""`python -m farspan.builtin FOLDER`: serve a checkpoint with the built-in engine."""

from __future__ import annotations

import gc
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path

import click

from farspan.builtin.model_config import read_config
from farspan.builtin.startlog import StartLog
from farspan.errors import FarspanError, InputError, install_command
from farspan.kv.kv_options import KVOptions
from farspan.kv.memory.budget.settings import (
    FLOOR_VARIABLE,
    LIMIT_VARIABLE,
    NAME_VARIABLE,
    budget_settings,
)
from farspan.sizes import GIB, format_bytes, parse_bytes, parse_tokens

_KV = KVOptions()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8000, type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option("--served-model-name", default=None, help="Name on the API.  [default: the folder's name]")
@click.option(
    "--max-model-len", default=None, help="Longest prompt plus output, e.g. 128k.  [default: the model's]"
)
@click.option(
    "--kv-cache-gib",
    default=None,
    type=float,
    help="The most the KV cache may grow to.  [default: half of what is free, read again before each growth]",
)
@click.option(
    "--kv-initial",
    default="",
    metavar="SIZE",
    help="Memory taken at the start and kept, as 8GiB or as the tokens it holds, 1M; the cache grows from there.",
)
@click.option("--kv-fixed", is_flag=True, help="Take all of --kv-cache-gib at the start, and keep it.")
@click.option(
    "--kv-cache-dtype",
    default="auto",
    type=click.Choice(["auto", "fp8_e4m3"]),
    help="auto is the model's; fp8_e4m3 has a scale a head and position.",
)
@click.option("--page-size", default=_KV.page_tokens, help="Tokens a page: what is shared in one piece.")
@click.option(
    "--kv-segment-mib",
    default=None,
    type=int,
    help="What a layer's memory grows by.  [default: by the capacity]",
)
@click.option("--kv-host-gib", default=_KV.host_gib, help="Host memory for evicted prefixes; 0 for none.")
@click.option("--kv-quiet-s", default=_KV.quiet_s, help="Unused memory goes back after this many seconds.")
@click.option(
    "--kv-budget",
    default="",
    envvar=NAME_VARIABLE,
    help="Share the memory of a budget of this name with other servers of the device: see farspan kv.",
)
@click.option(
    "--kv-budget-limit",
    default="",
    envvar=LIMIT_VARIABLE,
    help="What all servers of the budget may hold, as 64GiB; the first to come sets it.",
)
@click.option(
    "--kv-budget-floor",
    default="",
    envvar=FLOOR_VARIABLE,
    help="What this server may always hold, as 2GiB.",
)
@click.option(
    "--keep-prefixes-s",
    default=None,
    type=float,
    help="Idle for this long, prefixes leave the device too.  [default: only for other requests]",
)
@click.option(
    "--enable-prefix-caching/--no-enable-prefix-caching",
    default=True,
    help="Whether requests reuse the prefixes of earlier ones.",
)
@click.option("--max-num-batched-tokens", default=4096, help="Most tokens of one step.")
@click.option("--max-num-seqs", default=64, help="Most requests in progress at once.")
@click.option("--dtype", default="auto", type=click.Choice(["auto", "float32", "bfloat16"]))
@click.option(
    "--load-format",
    default="auto",
    type=click.Choice(["auto", "dummy"]),
    help="dummy makes random weights on the device: FOLDER needs no more than config.json and a tokenizer.",
)
@click.option("--enforce-eager", is_flag=True, help="Compute every step anew, without CUDA graphs.")
@click.option(
    "--allowed-hosts",
    default=None,
    help="Host names clients may use, with commas between them, or *; addresses always may be.  "
    "[default: localhost on a loopback address without a key, else any]",
)
@click.option("--device", default="cpu", help="cpu, cuda or cuda:N.")
def serve(
    folder: Path,
    host: str,
    port: int,
    served_model_name: str | None,
    max_model_len: str | None,
    kv_cache_gib: float | None,
    kv_initial: str,
    kv_fixed: bool,
    kv_cache_dtype: str,
    page_size: int,
    kv_segment_mib: int | None,
    kv_host_gib: float,
    kv_quiet_s: float,
    kv_budget: str,
    kv_budget_limit: str,
    kv_budget_floor: str,
    keep_prefixes_s: float | None,
    enable_prefix_caching: bool,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    dtype: str,
    load_format: str,
    enforce_eager: bool,
    allowed_hosts: str | None,
    device: str,
) -> None:
    """Serve the checkpoint in FOLDER with the built-in engine, behind the OpenAI API.

    Set FARSPAN_API_KEY to require that key of every request but GET /health.
    """
    read_config(folder)  # says what is wrong with a folder before anything of size is imported
    try:
        import uvicorn

        from farspan.builtin.child_process import KEY_VARIABLE
        from farspan.builtin.engine_client import EngineClient
        from farspan.builtin.engine_start import EngineProcess
        from farspan.builtin.gate import access_rules
        from farspan.builtin.server import create_app
        from farspan.builtin.server_tokenizer import ChatTokenizer
    except ModuleNotFoundError as error:
        raise InputError(f"the built-in engine needs {error.name}", install_command("builtin")) from error
    rules = access_rules(os.environb.get(KEY_VARIABLE.encode()), host, allowed_hosts)
    name = served_model_name or folder.resolve().name
    budget = budget_settings(
        {NAME_VARIABLE: kv_budget, LIMIT_VARIABLE: kv_budget_limit, FLOOR_VARIABLE: kv_budget_floor}
    )
    initial_gib, initial_tokens = _read_initial(kv_initial, kv_cache_gib, is_fixed=kv_fixed)
    kv = KVOptions(
        capacity_gib=kv_cache_gib,
        initial_gib=initial_gib,
        initial_tokens=initial_tokens,
        fp8=kv_cache_dtype == "fp8_e4m3",
        page_tokens=page_size,
        segment_mib=kv_segment_mib,
        prefix_caching=enable_prefix_caching,
        quiet_s=kv_quiet_s,
        keep_prefixes_s=keep_prefixes_s,
        host_gib=kv_host_gib,
        budget=budget,
        member=name,
    )
    options = {
        "max_model_len": None if max_model_len is None else parse_tokens(max_model_len),
        "max_num_batched_tokens": max_num_batched_tokens,
        "max_num_seqs": max_num_seqs,
        "enforce_eager": enforce_eager,
    }
    asked = {
        "folder": str(folder),
        "device": device,
        "dtype": dtype,
        "load_format": load_format,
        "kv": asdict(kv),
        "options": options,
        "model_name": name,
    }
    listener = _listen(host, port)
    with EngineProcess(asked) as process:
        tokenizer = ChatTokenizer(folder)  # read while the engine loads
        about = process.wait_until_ready()
        engine = EngineClient(process.connection, about, process.end)
        app = create_app(engine, tokenizer, name, rules)
        address, taken = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        log = StartLog()
        log.ready(
            f"{name} on http://{shown}:{taken}, {about.settings['device']}, {about.settings['dtype']}, "
            f"max_model_len {about.max_model_len}, "
            f"KV cache {format_bytes(about.mapped_bytes)}, growing to {format_bytes(about.capacity_bytes)}"
        )
        # What is here now stays: a collection that walked all of the libraries' objects would hold up /health.
        gc.collect()
        gc.freeze()
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, timeout_keep_alive=75)
        uvicorn.Server(config).run(sockets=[listener])
    log.stopped()


def _read_initial(size: str, capacity_gib: float | None, *, is_fixed: bool) -> tuple[float, int]:
    """The memory to take at the start: GiB, and the positions it must hold."""
    if is_fixed:
        if size:
            raise InputError(
                "--kv-fixed and --kv-initial both say what is taken at the start", "give one of them"
            )
        if capacity_gib is None:
            raise InputError("--kv-fixed has no size", "add --kv-cache-gib")
        return capacity_gib, 0
    if not size:
        return 0.0, 0
    if size.strip().lower().endswith("b"):
        return parse_bytes(size) / GIB, 0
    return 0.0, parse_tokens(size)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port}: {error.strerror}", "choose another --port"
        ) from error
    return listener


def main() -> None:
    """Run the server until it is interrupted."""
    try:
        serve.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except FarspanError as error:
        click.echo(f"farspan: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
