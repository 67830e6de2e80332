"""Strict reading of a config.json: each field is read, declared harmless, or refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn

from farspan.errors import InputError

# Fields that Hugging Face writes for every model and that change no byte of weights or KV: token ids,
# generation defaults, training-time rates, bookkeeping.
HARMLESS = frozenset(
    {
        "_attn_implementation",
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "embd_pdrop",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "hidden_dropout_prob",
        "id2label",
        "ignore_index",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "output_scores",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "resid_pdrop",
        "return_dict",
        "return_dict_in_generate",
        "rms_norm_eps",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "typical_p",
        "unk_token_id",
        "use_bfloat16",
        "use_cache",
    }
)

_MISSING = object()


class ConfigReader:
    """One level of a config, remembering which fields were read.

    Args:
        fields: The JSON object.
        source: What to call the config in errors.
        path: Dotted path of this level, with a trailing dot, empty at the top.
    """

    def __init__(self, fields: Mapping[str, object], source: str, path: str = "") -> None:
        self._fields = fields
        self._source = source
        self._path = path
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def refuse(self, name: str, why: str, fix: str = "") -> NoReturn:
        """Raise an InputError that names the field."""
        raise InputError(f"{self._source}: field {self._path}{name} {why}", fix)

    def _value(self, name: str, default: object) -> object:
        self._read.add(name)
        value = self._fields.get(name)
        if value is None:
            if default is _MISSING:
                self.refuse(name, "is missing", "use the model's complete config.json")
            return default
        return value

    def integer(self, name: str, default: int | object = _MISSING, *, zero: bool = False) -> int:
        """A positive whole number (or zero, where allowed); null counts as absent."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            if not (isinstance(value, float) and value.is_integer()):
                self.refuse(name, f"is {value!r}, not a whole number")
            value = int(value)
        if value < 0 or (value == 0 and not zero and value != default):
            self.refuse(name, f"is {value}, not positive")
        return value

    def number(self, name: str, default: float | object = _MISSING) -> float:
        """A number; null counts as absent."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name, f"is {value!r}, not a number")
        return float(value)

    def flag(self, name: str, default: bool | object = _MISSING) -> bool:
        """True or false; null counts as absent."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            self.refuse(name, f"is {value!r}, not true or false")
        return value

    def text(self, name: str, default: str | object = _MISSING) -> str:
        """A string; null counts as absent."""
        value = self._value(name, default)
        if not isinstance(value, str):
            self.refuse(name, f"is {value!r}, not a string")
        return value

    def integers(self, name: str, default: Iterable[int] | object = _MISSING) -> list[int]:
        """A list of whole numbers; null counts as absent."""
        value = self._value(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, int) for item in value):
            self.refuse(name, "is not a list of whole numbers")
        return [int(item) for item in value]

    def texts(self, name: str, default: Iterable[str] | object = _MISSING) -> list[str]:
        """A list of strings; null counts as absent."""
        value = self._value(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            self.refuse(name, "is not a list of strings")
        return [str(item) for item in value]

    def per_layer(self, name: str, count: int, allowed: Iterable[object]) -> list[object]:
        """A list with one entry a layer, each among `allowed`."""
        value = self._value(name, _MISSING)
        if not isinstance(value, list | tuple) or len(value) != count:
            self.refuse(name, f"is not a list of {count} entries, one a layer")
        known = list(allowed)
        for item in value:
            if item not in known:
                self.refuse(name, f"has an entry {item!r}; known are {', '.join(map(str, known))}")
        return list(value)

    def section(self, name: str) -> ConfigReader | None:
        """A nested object, or None when absent or null. Its own fields are checked by its own `finish`."""
        value = self._value(name, None)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.refuse(name, "is not an object")
        return ConfigReader(value, self._source, f"{self._path}{name}.")

    def expect(self, name: str, *allowed: object) -> None:
        """Accept the field only when absent, null, or one of `allowed`: others change the layout."""
        value = self._value(name, None)
        if value is not None and value not in allowed:
            names = ", ".join(map(repr, allowed)) or "absent"
            self.refuse(name, f"is {value!r}, which farspan does not model", f"it knows {names}")

    def ignore(self, *names: str) -> None:
        """Declare fields that change no byte of weights or KV for this family."""
        self._read.update(names)

    def finish(self) -> None:
        """Refuse the config if it has a field nobody read.

        Raises:
            InputError: Some field might change memory; it is named.
        """
        unread = sorted(name for name in self._fields if name not in self._read and name not in HARMLESS)
        if unread:
            raise InputError(
                f"{self._source}: field {self._path}{unread[0]} is not one farspan knows for this model"
                + (f" (nor {', '.join(unread[1:])})" if len(unread) > 1 else ""),
                "it may change memory, so nothing was guessed; remove it if it cannot",
            )

    def dtype(self, default: str = "bfloat16") -> str:
        """The dtype of the weights: `dtype`, or `torch_dtype` as older configs spell it."""
        name = "dtype" if "dtype" in self else "torch_dtype"
        value = self.text(name, default)
        if value not in ("bfloat16", "float16", "float32"):
            self.refuse(name, f"is {value!r}", "farspan knows bfloat16, float16 and float32")
        return value
