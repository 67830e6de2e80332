"""Tokenizers to test with: Llama's own, a few trained on the spot, and the recall checkpoint's."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from farspan.models.probe import write_probe
from farspan.prompts.cuts import LLAMA3_PATTERN, O200K_PATTERN
from farspan.prompts.generator import generate_text
from farspan.prompts.load_tokenizer import load_tokenizer
from farspan.prompts.tokenizer import Tokenizer

BOS = "<|bos|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|role|>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|role|>assistant\n{{ '' }}{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def llama_model(generation: int) -> Path:
    spec = importlib.util.find_spec("llama_models")
    assert spec is not None, "install the dev extra: it has llama-models"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / f"llama{generation}" / "tokenizer.model"


def _trainer(model: str, size: int) -> trainers.Trainer:
    specials = ["<unk>", BOS, "<|role|>", "<|end|>"]
    if model == "unigram":
        return trainers.UnigramTrainer(
            vocab_size=size, special_tokens=specials, unk_token="<unk>", show_progress=False
        )
    alphabet = pre_tokenizers.ByteLevel.alphabet() if model == "bytes" else []
    return trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )


def save_tokenizer(folder: Path, tokenizer: tokenizers.Tokenizer, *, bos: bool = True) -> Path:
    """Write a tokenizer as a Hugging Face folder with a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": BOS, "chat_template": TEMPLATE}))
    return folder


def _train(model: str, size: int, characters: int = 200_000, **options: object) -> tokenizers.Tokenizer:
    made = (
        models.Unigram()
        if model == "unigram"
        else models.BPE(unk_token=None if model == "bytes" else "<unk>")
    )
    tokenizer = tokenizers.Tokenizer(made)
    for name, value in options.items():
        setattr(tokenizer, name, value)
    tokenizer.train_from_iterator(generate_text(characters, 5).decode().splitlines(), _trainer(model, size))
    return tokenizer


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _metaspace(scheme: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)


def _without_splitting(folder: Path) -> Path:
    """A SentencePiece-like tokenizer: trained on words, run without a pre-tokenizer."""
    tokenizer = _train("characters", 1500, pre_tokenizer=_metaspace("always"), decoder=decoders.Metaspace())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    recipe = json.loads(tokenizer.to_str())
    recipe["pre_tokenizer"] = None
    return save_tokenizer(folder, tokenizers.Tokenizer.from_str(json.dumps(recipe)))


# name -> writes the tokenizer's folder
_MAKERS: dict[str, Callable[[Path], Path]] = {
    "llama3": lambda folder: llama_model(3),
    "llama4": lambda folder: llama_model(4),
    "recall": lambda folder: write_probe(folder / "probe").folder,
    "bytes-o200k": lambda folder: save_tokenizer(
        folder, _train("bytes", 3000, pre_tokenizer=_split(O200K_PATTERN))
    ),
    "bytes-nfc": lambda folder: save_tokenizer(
        folder,
        _train("bytes", 2000, pre_tokenizer=_split(LLAMA3_PATTERN), normalizer=normalizers.NFC()),
        bos=False,
    ),
    "bytes-gpt2": lambda folder: save_tokenizer(
        folder, _train("bytes", 1500, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True))
    ),
    "unigram": lambda folder: save_tokenizer(
        folder, _train("unigram", 2000, pre_tokenizer=_metaspace("first"))
    ),
    "sentencepiece": _without_splitting,
    "across-words": lambda folder: save_tokenizer(
        folder,
        _train(
            "unigram",
            500,
            # Without splitting, training looks at every stretch of a line.
            characters=30_000,
            normalizer=normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
            pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        ),
    ),
    "no-splitting": lambda folder: save_tokenizer(
        folder,
        _train("bytes", 600, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    ),
}


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes, once, the folder of a tokenizer by its name."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = _MAKERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return make


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Callable[[str], Path]) -> Callable[[str], Tokenizer]:
    """Return a function that loads, once, a tokenizer by its name."""
    loaded: dict[str, Tokenizer] = {}

    def load(name: str) -> Tokenizer:
        if name not in loaded:
            loaded[name] = load_tokenizer(tokenizer_path(name))
        return loaded[name]

    return load
