"""Names, paths and addresses that reach a command line or a manifest as they are, checked before they do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from farspan.engines.plain_secrets import check_no_secret
from farspan.errors import InputError
from farspan.launch.helper_environment import SECRET_VARIABLES

if TYPE_CHECKING:
    from farspan.launch.serve_options import ServeOptions

_LONGEST = 4096
_SHORTEST_SECRET = 8  # anything shorter stands in ordinary words by chance
_LONGEST_WORD = 128 * 1024 - 1  # bytes: Linux starts no program with a longer one
_LONGEST_WORDS = 1024 * 1024
_DEVICES = re.compile(r"[A-Za-z0-9,./:_-]*")
_ENV_FLAG = re.compile(r"^(-e|--env)=?")


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
    _check_secret_values((*named.values(), *options.words), options)
    key = options.environment.get(options.api_key_env, "")
    if key and (not key.isascii() or not key.isprintable() or key != key.strip()):
        raise InputError(
            "the API key holds characters that no header carries",
            "use letters, digits and punctuation of ASCII",
        )


def check_runtime_values(
    options: ServeOptions, values: Mapping[str, str], docker_words: Sequence[str]
) -> None:
    """Check what only docker or Kubernetes is given.

    Args:
        options: Whose environment holds the secrets.
        values: Option to value.
        docker_words: Arguments for docker run, passed on as they are.

    Raises:
        InputError: A value would be misread, or holds a secret.
    """
    check_values(values, cluster=options.runtime == "kubernetes")
    _check_words(docker_words)
    check_no_secret(docker_words)
    for word in docker_words:
        check_no_secret((_ENV_FLAG.sub("", word),))
    _check_secret_values((*values.values(), *docker_words), options)
    if not _DEVICES.fullmatch(values.get("--devices", "")):
        raise InputError(
            "--devices is not a list of GPUs", "write indexes or UUIDs with commas between, as 0,1"
        )
    if ":" in values.get("--compile-cache", ""):
        raise InputError(
            "--compile-cache has a colon in its path, where docker ends it", "choose another folder"
        )


def _check_words(words: Sequence[str]) -> None:
    if any("\0" in word or any("\ud800" <= character <= "\udfff" for character in word) for word in words):
        raise InputError(
            "a word holds a NUL or bytes that are not UTF-8, which cannot be passed on", "leave it out"
        )
    sizes = [len(word.encode()) for word in words]
    if max(sizes, default=0) > _LONGEST_WORD or sum(sizes) > _LONGEST_WORDS:
        raise InputError(
            f"the words are too long to start a program with: {max(sizes):,} bytes the longest, {sum(sizes):,} all",
            "put what they say into a file that the engine reads",
        )


def _check_secret_values(texts: Sequence[str], options: ServeOptions) -> None:
    """Refuse the very value of a secret, whatever it is called and wherever it stands."""
    for name in (options.api_key_env, *SECRET_VARIABLES):
        secret = options.environment.get(name, "")
        if len(secret) >= _SHORTEST_SECRET and any(secret in text for text in texts):
            raise InputError(
                f"the value of {name} stands on the command line, where every user of the machine reads it",
                "leave it out: farspan passes it on by name",
            )


_SECRETS_BY_NAME = ("--hf-secret", "--key-secret")


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
        # NAME:KEY names a Secret and a key in it, and holds neither.
        check_no_secret(value.split(":", 1) if name in _SECRETS_BY_NAME else (value,))
    _check_words(words)
    if cluster and any("$(" in value for value in (*values.values(), *words)):
        # A secret's value among them: it would stand on the engine's command line.
        raise InputError("a value holds $(, where Kubernetes puts the value of a variable", "leave it out")
