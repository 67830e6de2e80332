"""Names, paths and addresses that reach a command line or a manifest as they are, checked before they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from farspan.engines.plain_secrets import check_no_secret
from farspan.errors import InputError

if TYPE_CHECKING:
    from farspan.launch.prepare_launch import ServeOptions

_LONGEST = 4096


def check_options(options: ServeOptions) -> None:
    """Check what a server is to be started with.

    Raises:
        InputError: A value would be misread, or holds a secret.
    """
    named = {
        "MODEL": options.model,
        "--host": options.host,
        "--head": options.head,
        "--image": options.image,
        "--model-path": options.model_path,
        "--served-model-name": options.served_model_name,
        "--revision": options.revision,
        "--python": options.python,
        "--engine-version": options.engine_version,
    }
    check_values(named, options.words, cluster=options.runtime == "kubernetes")


def check_values(values: Mapping[str, str], words: Sequence[str] = (), *, cluster: bool) -> None:
    """Check what the user named, by option; an empty value is one that was not given.

    Args:
        values: Option to value.
        words: The engine's own words, after `--`.
        cluster: Whether Kubernetes reads them, which puts a variable's value where `$(NAME)` stands.

    Raises:
        InputError: A value begins with a dash, holds a line break or another control character, or a secret.
    """
    for name, value in values.items():
        if value.startswith("-"):
            raise InputError(
                f"{name} begins with a dash and would be read as an option", "write ./ before a path"
            )
        if any(not character.isprintable() for character in value) or value != value.strip():
            raise InputError(
                f"{name} holds a line break, a control character or a space at an end", "leave it out"
            )
        if len(value) > _LONGEST:
            raise InputError(f"{name} is longer than {_LONGEST} characters", "shorten it")
        check_no_secret((value,))
    if cluster and any("$(" in value for value in (*values.values(), *words)):
        # A secret's value among them: it would stand on the engine's command line.
        raise InputError("a value holds $(, where Kubernetes puts the value of a variable", "leave it out")
