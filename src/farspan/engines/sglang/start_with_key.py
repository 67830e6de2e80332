"""Starts SGLang with an API key taken from the environment. Given to `python3 -c`; runs where SGLang is installed.

SGLang reads its key from `--api-key` alone, which any user of the machine sees in the list of processes, and prints
its arguments when it starts. Here the key is set after the arguments are read, and shows as *** when printed.
Read for SGLang 0.5.6.post2 to 0.5.23: in all of them what `prepare_server_args` returns may still be changed.
"""

import os
import sys
from importlib import import_module


class ApiKey(str):
    """A key that is not printed, and becomes plain text in other processes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str.__str__(self),)


def main() -> None:
    """Do what `python3 -m sglang.launch_server` does."""
    launch = import_module("sglang.launch_server")
    try:
        plugins = import_module("sglang.srt.plugins")
    except ModuleNotFoundError:  # before 0.5.16
        pass
    else:
        plugins.load_plugins()
    arguments = import_module("sglang.srt.server_args").prepare_server_args(sys.argv[1:])
    arguments.api_key = ApiKey(os.environ.pop("SGLANG_API_KEY"))
    try:
        launch.run_server(arguments)
    finally:
        import_module("sglang.srt.utils").kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()
