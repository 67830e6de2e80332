"""The recall checkpoint's vocabulary: one token a word, so that text and tokens convert without loss.

Haystack words are lower-case, needle words capitalised, both made of the same syllables. Only needle words may be
planted, so a planted key is unique in a prompt as long as it is planted once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

VOCAB_SIZE = 4096
BOS = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
END_OF_TURN = "<|eot|>"
HEADER_START = "<|header_start|>"
HEADER_END = "<|header_end|>"
UNKNOWN = "<|unknown|>"
PAD = "<|pad|>"

_SPECIALS = (BOS, END_OF_TEXT, END_OF_TURN, HEADER_START, HEADER_END, UNKNOWN, PAD)
_ROLES = ("system", "user", "assistant")
_FIRST_WORD = 16
_HAYSTACK_WORDS = 2048
_CONSONANTS = "bdfghklmnprstvwz"
_VOWELS = "aeio"

# The user's last word stays the last token of the prompt: the model answers by continuing it.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|header_start|>{{ message['role'] }}<|header_end|>"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% if not loop.last %}<|eot|>{% endif %}"
    "{% endfor %}"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids by word, and which ids a prompt builder may use for what (half-open ranges)."""

    tokens: tuple[str, ...]
    haystack_ids: range
    needle_ids: range

    @property
    def bos_token_id(self) -> int:
        """The id of the begin-of-text token, which every prompt starts with."""
        return self.tokens.index(BOS)

    @property
    def eos_token_ids(self) -> tuple[int, int]:
        """The ids at which generation stops; no haystack or needle word is among them."""
        return self.tokens.index(END_OF_TEXT), self.tokens.index(END_OF_TURN)


def vocabulary() -> Vocabulary:
    """Return the vocabulary; it is the same for every recall checkpoint."""
    syllables = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
    # Stepping by a number coprime to 4096 mixes the syllables, so that neighbours in id do not look alike.
    words = [syllables[k // 64] + syllables[k % 64] for k in (i * 2741 % 4096 for i in range(4096))]
    haystack = words[:_HAYSTACK_WORDS]
    needle = [word.capitalize() for word in words[_HAYSTACK_WORDS : VOCAB_SIZE - _FIRST_WORD]]
    head = list(_SPECIALS + _ROLES)
    head += [f"<|reserved_{i}|>" for i in range(_FIRST_WORD - len(head))]
    first_needle = _FIRST_WORD + _HAYSTACK_WORDS
    return Vocabulary(
        tokens=tuple(head + haystack + needle),
        haystack_ids=range(_FIRST_WORD, first_needle),
        needle_ids=range(first_needle, VOCAB_SIZE),
    )


def tokenizer_json(words: Vocabulary) -> str:
    """Return tokenizer.json: whole words split at whitespace, BOS put first by the post-processor."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(words.tokens)}, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = [token for token in words.tokens if token.startswith("<|")]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, words.bos_token_id)]
    )
    return str(tokenizer.to_str(pretty=False))


def tokenizer_config(max_position_embeddings: int) -> dict[str, Any]:
    """Return tokenizer_config.json, chat template included."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END_OF_TURN,
        "unk_token": UNKNOWN,
        "pad_token": PAD,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_position_embeddings,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def recall_json(words: Vocabulary, attention_chunk_size: int, answer_words: int) -> str:
    """Return recall.json, which tells a prompt builder what it may plant and where."""
    return json.dumps(
        {
            "bos_token_id": words.bos_token_id,
            "haystack_ids": [words.haystack_ids.start, words.haystack_ids.stop],
            "needle_ids": [words.needle_ids.start, words.needle_ids.stop],
            "attention_chunk_size": attention_chunk_size,
            "answer_words": answer_words,
        },
        indent=1,
    )
