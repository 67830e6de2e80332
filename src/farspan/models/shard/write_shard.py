"""One rank as a Hugging Face folder that any engine opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from farspan.models.checkpoint_folder import folder_bytes, written_whole
from farspan.models.shard.dummy_weights import write_dummy_weights
from farspan.models.shard.rank_config import BOS_ID, EOS_ID, RankShard

SHARD_FILE = "shard.json"
# The lowest id that is an ordinary word of a shard's vocabulary.
FIRST_WORD_ID = 2
_SPECIAL = {EOS_ID: "<|end|>", BOS_ID: "<|begin|>"}


def write_shard(shard: RankShard, folder: str | Path, *, weights: bool = False) -> int:
    """Write a shard's folder, replacing a shard that is there; return the bytes of all files.

    Its tokenizer has one word an id, so that prompts can be sent as ids and answers read. The folder is complete or
    untouched.

    Args:
        shard: The rank.
        folder: Where config.json and the rest go.
        weights: Whether dummy weights are written too, for an engine that makes none itself.

    Raises:
        UnsupportedError: No dummy weights are written for the model.
        InputError: The folder holds something else, or cannot be written.
    """
    target = Path(folder)
    with written_whole(target, SHARD_FILE, "holds no shard") as made:
        for name, content in {
            "config.json": dict(shard.config),
            "generation_config.json": {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "do_sample": False},
            "tokenizer.json": _tokenizer(shard.spec.vocab_size),
            "tokenizer_config.json": _tokenizer_config(shard.spec.max_position_embeddings),
            SHARD_FILE: describe_shard(shard),
        }.items():
            (made / name).write_text(json.dumps(content, indent=None if name == "tokenizer.json" else 1))
        if weights:
            write_dummy_weights(shard, made)
    return folder_bytes(target)


def describe_shard(shard: RankShard) -> dict[str, Any]:
    """What a shard is of, for programs and people."""
    division = shard.division
    return {
        "model": shard.whole.name,
        "tp": division.tp,
        "ep": division.ep,
        "layers": None if division.layers is None else [division.layers.start, division.layers.stop],
        "weight_bytes": shard.weight_bytes,
        "differences": list(shard.differences),
    }


def _tokenizer(words: int) -> dict[str, Any]:
    special = [
        {
            "id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for number, content in _SPECIAL.items()
    ]  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {_SPECIAL.get(number, f"w{number}"): number for number in range(words)},
            "unk_token": _SPECIAL[EOS_ID],
        },
    }


def _tokenizer_config(length: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _SPECIAL[BOS_ID],
        "eos_token": _SPECIAL[EOS_ID],
        "unk_token": _SPECIAL[EOS_ID],
        "pad_token": _SPECIAL[EOS_ID],
        "clean_up_tokenization_spaces": False,
        "model_max_length": length,
        "model_input_names": ["input_ids", "attention_mask"],
    }
