"""Chat templates: what a server puts before and after the one user message of a prompt."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from farspan.errors import InputError

_MARK = "farspan-user-message"


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template in Jinja, as Hugging Face folders carry them.

    Attributes:
        source: The template's text.
        variables: What it may name besides the messages: bos_token and the other special tokens.
    """

    source: str
    variables: Mapping[str, str]

    @cached_property
    def around(self) -> tuple[str, str]:
        """The text before and after a user message, generation prompt included.

        Rendered as `transformers` renders it (`utils/chat_template_utils.py: render_jinja_template`): a sandboxed
        environment that trims blocks, with `raise_exception`, `strftime_now` and `tojson`.

        Raises:
            InputError: The template cannot be rendered, or does not put the message in as it is.
        """
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        environment.filters["tojson"] = _to_json
        try:
            whole = environment.from_string(self.source).render(
                messages=[{"role": "user", "content": _MARK}], add_generation_prompt=True, **self.variables
            )
        except jinja2.TemplateError as error:
            raise InputError(
                f"the chat template cannot be rendered ({error})", "build the prompt without --chat"
            ) from error
        before, found, after = whole.partition(_MARK)
        if not found or _MARK in after:
            raise InputError(
                "the chat template does not hold the user message exactly once",
                "build the prompt without --chat",
            )
        return before, after


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """Read the chat template of a Hugging Face folder; None when it has none.

    Looks at chat_template.jinja, chat_template.json and tokenizer_config.json, in that order.
    """
    config = _read_json(folder / "tokenizer_config.json")
    variables = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token") and isinstance(value, (str, dict))
    }
    jinja = folder / "chat_template.jinja"
    source: Any = jinja.read_text("utf-8") if jinja.is_file() else None
    source = source or _read_json(folder / "chat_template.json").get("chat_template")
    source = source or config.get("chat_template")
    if isinstance(source, list):
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("default")
    return ChatTemplate(source, variables) if isinstance(source, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error})", "download the model's folder again") from error
    return content if isinstance(content, dict) else {}


def _refuse(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
