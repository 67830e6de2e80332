"""Llama 3's and Llama 4's tokenizer.model: token bytes in base64 and their ranks, one a line (tiktoken's format).

The file holds neither the pre-tokenizer nor the control tokens; which they are follows from the number of ranks.
Mirrored from llama-models 0.3.0: `llama3/tokenizer.py`, `llama4/tokenizer.py` (patterns, control tokens),
`llama3/chat_format.py`, `llama4/chat_format.py` (message headers).
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from farspan.errors import InputError
from farspan.models.chat_template import ChatTemplate, read_chat_template
from farspan.prompts.backends.bytepair import BytePairTokenizer, BytePairVocabulary
from farspan.prompts.cuts import LLAMA3_PATTERN, O200K_PATTERN

_BOS = "<|begin_of_text|>"


@dataclass(frozen=True, slots=True)
class _Generation:
    """The pattern and control tokens of one generation of Llama."""

    name: str
    pattern: str
    control: tuple[str, ...]
    template: str


def _llama4_control() -> tuple[str, ...]:
    basic = ["begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix"]
    text = ["header_start", "header_end", "eom", "eot", "step"]
    text += [f"text_post_train_reserved_special_token_{i}" for i in range(6)]
    text += ["python_start", "python_end", "finetune_right_pad"]
    text += [f"text_post_train_reserved_special_token_{i}" for i in range(8, 69)]
    vision = [
        "image_start",
        "image_end",
        "vision_reserved_special_token_0",
        "vision_reserved_special_token_1",
    ]
    vision += ["tile_x_separator", "tile_y_separator"]
    vision += [f"vision_reserved_special_token_{i}" for i in range(2, 6)]
    vision += ["image", "vision_reserved_special_token_6", "patch"]
    vision += [f"vision_reserved_special_token_{i}" for i in range(7, 1048)]
    reasoning = [f"reasoning_reserved_special_token_{i}" for i in range(8)]
    reasoning += ["reasoning_thinking_start", "reasoning_thinking_end"]
    named = basic + text + vision + reasoning
    return _filled(named, 2048, first_reserved=0)


def _llama3_control() -> tuple[str, ...]:
    named = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"]
    named += ["finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id", "eot_id"]
    named += ["python_tag", "image"]
    return _filled(named, 256, first_reserved=2)


def _filled(named: list[str], count: int, first_reserved: int) -> tuple[str, ...]:
    reserved = [f"reserved_special_token_{first_reserved + i}" for i in range(count - len(named))]
    return tuple(f"<|{name}|>" for name in named + reserved)


def _header_template(start: str, end: str, end_of_turn: str) -> str:
    return (
        f"{_BOS}{{% for message in messages %}}"
        f"{start}{{{{ message['role'] }}}}{end}\n\n{{{{ message['content'] | trim }}}}{end_of_turn}"
        f"{{% endfor %}}{start}assistant{end}\n\n{{{{ '' }}}}"
    )


def _generation(ranks: int) -> _Generation | None:
    if ranks == 200_000:
        template = _header_template("<|header_start|>", "<|header_end|>", "<|eot|>")
        return _Generation("Llama 4", O200K_PATTERN, _llama4_control(), template)
    if ranks == 128_000:
        template = _header_template("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
        return _Generation("Llama 3", LLAMA3_PATTERN, _llama3_control(), template)
    return None


def load_tokenizer_model(path: Path) -> BytePairTokenizer:
    """Load Llama 3's or Llama 4's tokenizer.model; the chat template beside it is used when there is one.

    Raises:
        InputError: The file is not in this format, or is of a model whose pre-tokenizer it does not tell.
    """
    content = path.read_bytes()
    fields = content.split()
    fix = "give the model's Hugging Face folder, with tokenizer.json"
    try:
        ranks = dict(zip(map(binascii.a2b_base64, fields[::2]), map(int, fields[1::2]), strict=True))
    except ValueError as error:
        raise InputError(f"{path} is not in tiktoken's format", fix) from error
    generation = _generation(len(ranks))
    if generation is None or sorted(ranks.values()) != list(range(len(ranks))):
        raise InputError(
            f"{path} has {len(ranks)} tokens, and only Llama 3 (128,000) and Llama 4 (200,000) are known", fix
        )
    specials = {token: len(ranks) + i for i, token in enumerate(generation.control)}
    return BytePairTokenizer(
        BytePairVocabulary(
            pattern=generation.pattern,
            ranks=ranks,
            ids=None,
            specials=specials,
            before=(specials[_BOS],),
            after=(),
        ),
        name=str(path),
        reason=f"{generation.name}'s tokenizer.model is in tiktoken's own format",
        fingerprint=blake2b(content, digest_size=16).hexdigest(),
        template=read_chat_template(path.parent) or ChatTemplate(generation.template, {}),
    )
