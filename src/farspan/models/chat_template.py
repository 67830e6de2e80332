"""A checkpoint's chat template, rendered as transformers renders it: text in, text out."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from farspan.errors import CheckpointError, InputError


class ChatTemplate:
    """A compiled template and the special tokens it may name.

    Args:
        source: Jinja source.
        special_tokens: Such as {"bos_token": "<|begin_of_text|>"}.

    Raises:
        CheckpointError: The source is not a valid template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        # Sandboxed: a template comes with the checkpoint and may be anybody's.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        environment.filters["tojson"] = _tojson
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"the chat template does not compile: {error}") from error
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """Return the text that a server tokenizes for these messages, special tokens included.

        Raises:
            InputError: The template refuses the messages.
        """
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._special_tokens
            )
        except TemplateError as error:
            raise InputError(f"the chat template refuses these messages: {error}") from error


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """Read a checkpoint folder's template, from chat_template.jinja or tokenizer_config.json; None when it has none.

    Raises:
        CheckpointError: A file is there and cannot be read, or the template does not compile.
    """
    config: dict[str, Any] = {}
    path = folder / "tokenizer_config.json"
    try:
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
        own = folder / "chat_template.jinja"
        source = own.read_text(encoding="utf-8") if own.is_file() else config.get("chat_template")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}", "check that the checkpoint is whole"
        ) from error
    if isinstance(source, list):  # several named templates: the default one is meant
        source = next((item.get("template") for item in source if item.get("name") == "default"), None)
    if not source:
        return None
    specials = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token") and isinstance(value, str | dict)
    }
    return ChatTemplate(source, specials)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


def _tojson(value: Any, indent: int | None = None) -> str:
    # Not jinja's own filter, which escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)
