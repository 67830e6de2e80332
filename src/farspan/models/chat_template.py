"""A checkpoint's chat template, rendered as transformers renders it: messages in, text out.

Mirrors transformers `utils/chat_template_utils.py: render_jinja_template`: a sandboxed environment that trims blocks,
with `raise_exception`, `strftime_now` and a `tojson` that does not escape for HTML.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from farspan.errors import InputError

if TYPE_CHECKING:
    import jinja2

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

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the text that a server tokenizes for these messages, up to where the answer begins.

        Raises:
            InputError: The template cannot be rendered, or refuses the messages.
        """
        import jinja2

        try:
            return self._compiled.render(messages=messages, add_generation_prompt=True, **self.variables)
        except jinja2.TemplateError as error:
            raise InputError(
                f"the chat template cannot be rendered ({error})", "use completions, without a chat template"
            ) from error

    @cached_property
    def around(self) -> tuple[str, str]:
        """The text before and after a single user message, generation prompt included.

        Raises:
            InputError: The template cannot be rendered, or does not put the message in as it is.
        """
        whole = self.render([{"role": "user", "content": _MARK}])
        before, found, after = whole.partition(_MARK)
        if not found or _MARK in after:
            raise InputError(
                "the chat template does not hold the user message exactly once",
                "use completions, without a chat template",
            )
        return before, after

    @cached_property
    def _compiled(self) -> jinja2.Template:
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        # Sandboxed: a template comes with the checkpoint and may be anybody's.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        environment.filters["tojson"] = _to_json
        return environment.from_string(self.source)


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """Read the chat template of a Hugging Face folder; None when it has none.

    Looks at chat_template.jinja, chat_template.json and tokenizer_config.json, in that order.

    Raises:
        InputError: A file is there and cannot be read.
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
    if isinstance(source, list):  # several named templates: the default one is meant
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
