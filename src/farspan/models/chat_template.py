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
from farspan.models.template_deadline import TemplateDeadline, TemplateTimeoutError

if TYPE_CHECKING:
    import jinja2

_MARK = "farspan-user-message"
_MAX_FILE_BYTES = 64 * 2**20  # some tokenizer_config.json list every added token
_LONGEST_ERROR = 300  # characters
_ONE_MESSAGE_S = 5.0  # of processor time, jinja2's import included; templates take milliseconds


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
        try:
            return self._compiled.render(
                {**self.variables, "messages": messages, "add_generation_prompt": True}
            )
        except Exception as error:  # a template is a program: it can fail in any way
            said = " ".join(str(error).split())[:_LONGEST_ERROR] or type(error).__name__
            raise InputError(
                f"the chat template cannot be rendered ({said})", "use completions, without a chat template"
            ) from error

    @cached_property
    def around(self) -> tuple[str, str]:
        """The text before and after a single user message, generation prompt included.

        Raises:
            InputError: The template cannot be rendered, takes too long, or does not put the message in as it is.
        """
        try:
            with TemplateDeadline(_ONE_MESSAGE_S):
                whole = self.render([{"role": "user", "content": _MARK}])
        except TemplateTimeoutError as error:
            raise InputError(str(error), "use completions, without a chat template") from None
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
    texts = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token")
    }
    variables = {name: text for name, text in texts.items() if isinstance(text, str)}
    source: Any = _read(folder / "chat_template.jinja") or None
    source = source or _read_json(folder / "chat_template.json").get("chat_template")
    source = source or config.get("chat_template")
    if isinstance(source, list):  # several named templates: the default one is meant
        entries = [entry for entry in source if isinstance(entry, dict)]
        source = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
    return ChatTemplate(source, variables) if isinstance(source, str) else None


def _read(path: Path) -> str:
    """Return a file's text, none when it is not there."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", "download the model's folder again") from error
    if len(content) > _MAX_FILE_BYTES:
        raise InputError(
            f"{path} is larger than {_MAX_FILE_BYTES // 2**20} MiB", "download the model's folder again"
        )
    return text


def _read_json(path: Path) -> dict[str, Any]:
    text = _read(path)
    if not text:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error})", "download the model's folder again") from error
    return content if isinstance(content, dict) else {}


def _refuse(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
