import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.prompts.corpus import BuiltinCorpus, TextCorpus, split_pieces
from farspan.prompts.corpus_reader import CorpusReader
from farspan.prompts.cuts import find_cuts, is_cut
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.generator import generate_text
from farspan.prompts.index import CorpusIndex
from farspan.prompts.tokenizer import Tokenizer
from farspan.prompts.verify import verify_prompt

Load = Callable[[str], Tokenizer]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)


class OneText(TextCorpus):
    """A corpus of one text, without a file."""

    def __init__(self, text: str) -> None:
        self.name = "one text"
        self.key = repr(text)  # type: ignore[misc]
        self.segments = 1
        self._text = text

    def segment(self, number: int) -> str:
        return self._text


HARD_TEXTS = {
    "chinese": "我能吞下玻璃而不伤身体。" * 3000,
    "one long word": "x" * 50_000,
    "base64 lines": "\n".join(["QmFzZTY0" * 10] * 500),
    "words in lines": "\n".join(["word"] * 20_000),
    "white space": "a" + " \t\n" * 20_000 + "b c d" + "\u3000" * 5000 + " e",
    "code": "def f(x):\r\n\treturn  x + 1  # comment\r\n\r\n" * 1000,
    "control tokens": "say <|eot|> and <|begin_of_text|> or <|bos|> again, <|end|>\0 " * 500,
    "emoji and marks": "👩‍👩‍👧‍👦 e\u0301a\u030a\u0323 ﬁ ½ \u00a0 \u2028 ok " * 800,
    "contractions": "it's 'tis don't'll I'm'd 've ' s " * 800,
    "numbers": "1234567 12 3.14 1,000 " * 1000 + "9" * 5000,
    "wide spaces": "three   spaces   each " * 10 + "columns   of   words   " * 3000,
    "tiny": "word",
    "two": "a b",
}


@pytest.mark.parametrize("name", ["llama4", "bytes-nfc", "unigram", "sentencepiece", "no-splitting"])
@pytest.mark.parametrize("kind", sorted(HARD_TEXTS))
def test_any_corpus_gives_exact_prompts(tokenizer: Load, name: str, kind: str) -> None:
    corpus = OneText(HARD_TEXTS[kind][:20_000] if name == "no-splitting" else HARD_TEXTS[kind])
    for seed, tokens in enumerate((300, 2500)):
        prompt = build_prompt(
            tokenizer(name), tokens=tokens, seed=seed, corpus=corpus, task="needle", chat=True
        )
        verify_prompt(prompt, tokenizer(name))


@settings(max_examples=60)
@given(text=ANY_TEXT.filter(lambda text: text.replace("\0", "").strip()), seed=st.integers(0, 1000))
@example(text="word\u0085 next", seed=0)
@example(text="a\u001c b \u001c c", seed=1)
@pytest.mark.parametrize("name", ["llama3", "bytes-nfc", "unigram"])
def test_any_text_gives_exact_prompts(tokenizer: Load, name: str, text: str, seed: int) -> None:
    prompt = build_prompt(tokenizer(name), tokens=700, seed=seed, corpus=OneText(text), task="summarise")
    verify_prompt(prompt, tokenizer(name))


@given(text=ANY_TEXT)
@example(text="x" * 40_000 + " y" * 20_000)
@example(text="\n" * 40_000 + "x" + " " * 40_000 + "y")
def test_pieces_begin_and_end_at_cuts_and_lose_only_space(text: str) -> None:
    pieces = split_pieces(text)
    for left, right in zip(["x", *pieces], [*pieces, " x"], strict=True):
        assert is_cut(left, right)
    assert "".join("".join(pieces).split()) == "".join(text.split())


@pytest.mark.parametrize("kind", sorted(HARD_TEXTS))
def test_no_stretch_is_without_a_cut(kind: str) -> None:
    text = "".join(split_pieces(HARD_TEXTS[kind]))
    gaps = np.diff([0, *find_cuts(text), len(text)])
    assert gaps.max() <= 1024
    assert "".join(split_pieces(text)) == text


@given(text=ANY_TEXT)
def test_cuts_are_cuts(text: str) -> None:
    cuts = find_cuts(text)
    assert all(is_cut(text[:cut], text[cut:]) for cut in cuts)
    assert set(find_cuts(text, sentences=True)) <= set(cuts)


def test_built_in_text_is_seeded_and_does_not_repeat() -> None:
    text = generate_text(3_000_000, 1).decode("ascii")
    assert text == generate_text(3_000_000, 1).decode("ascii")
    assert generate_text(10_000, 1) != generate_text(10_000, 2)
    assert generate_text(10_000, 1, part=1) != generate_text(10_000, 1)
    assert 2_990_000 < len(text) <= 3_000_000
    sentences = [sentence for sentence in text.replace("\n\n", " ").split(". ") if len(sentence) > 40]
    assert len(set(sentences)) > 0.99 * len(sentences)
    words = text.split()
    shingles = {" ".join(words[i : i + 12]) for i in range(0, len(words) - 12, 5)}
    assert len(shingles) > 0.999 * len(range(0, len(words) - 12, 5))


def test_phrases_give_the_same_index_as_encoding(tokenizer: Load, tmp_path: Path) -> None:
    for name in ("llama4", "bytes-gpt2", "sentencepiece"):
        encoded = CorpusIndex(BuiltinCorpus(3), tokenizer(name), tmp_path / name / "encoded")
        gathered = CorpusIndex(BuiltinCorpus(3), tokenizer(name), tmp_path / name / "gathered")
        gathered.prepare(range(5))
        for number in (0, 4):
            one, other = encoded.segment(number), gathered.segment(number)
            assert bytes(one.text) == bytes(other.text)
            assert np.array_equal(one.ids, other.ids)


def test_marks_say_which_byte_a_token_is_at(tokenizer: Load, tmp_path: Path) -> None:
    llama = tokenizer("llama4")
    index = CorpusIndex(OneText("Größe naïve façade 日本語 テキスト. " * 5000), llama, tmp_path)
    segment = index.segment(0)
    for number in range(len(segment.marks) - 1):
        text, ids = segment.piece(number)
        assert llama.encode_piece(text).tolist() == ids.tolist()
    assert segment.marks[-1].tolist() == [segment.tokens, len(segment.text)]


def test_a_small_corpus_is_read_round_and_round(tokenizer: Load, tmp_path: Path) -> None:
    index = CorpusIndex(OneText("one two three. four five six. seven"), tokenizer("llama4"), tmp_path)
    reader = CorpusReader(index, 100, random.Random(1))
    text = b"".join(bytes(part.content) for part in reader.read(100)).decode()
    assert text.count("seven") > 5
    assert " seven one two" in text


def test_a_prompt_from_a_tiny_corpus_has_few_parts(tokenizer: Load, tmp_path: Path) -> None:
    llama = tokenizer("llama4")
    (tmp_path / "t.txt").write_text("\n Just a few words here, ok?\n")
    prompt = build_prompt(llama, tokens=1_000_000, corpus=TextCorpus(tmp_path / "t.txt"))
    assert len(prompt.parts) < 300
    assert prompt.text.count(" ok? Just a few words here, ok? Just a few") > 50_000
    verify_prompt(prompt, llama)


def test_different_seeds_start_at_different_places(tokenizer: Load) -> None:
    starts = {build_prompt(tokenizer("llama4"), tokens=500, seed=seed).text[200:300] for seed in range(50)}
    assert len(starts) == 50


def test_a_folder_is_one_corpus(tokenizer: Load, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("second file. " * 100)
    (tmp_path / "a.txt").write_text("first file. " * 100)
    (tmp_path / "sub" / "c.md").write_text("third file. " * 100)
    (tmp_path / ".hidden").write_text("hidden file. ")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0\0")
    (tmp_path / "empty.txt").write_text("")
    corpus = TextCorpus(tmp_path)
    text = corpus.segment(0)
    assert text.index("first") < text.index("second") < text.index("third")
    assert "hidden" not in text
    assert "PNG" not in text
    before = corpus.key
    (tmp_path / "a.txt").write_text("other file. " * 100)
    assert TextCorpus(tmp_path).key != before


def test_segments_of_a_file_lose_nothing(tmp_path: Path) -> None:
    text = "".join(f"line {i} über 日本語。\n" for i in range(200_000))
    (tmp_path / "t.txt").write_text(text)
    corpus = TextCorpus(tmp_path / "t.txt")
    assert corpus.segments
    assert corpus.segments > 2
    assert "".join(corpus.segment(number) for number in range(corpus.segments)).rstrip("\n") == text.rstrip(
        "\n"
    )


def test_bad_bytes_do_not_matter(tokenizer: Load, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"good text \xff\xfe and more " * 1000)
    prompt = build_prompt(tokenizer("llama4"), tokens=3000, corpus=TextCorpus(tmp_path / "t.txt"))
    verify_prompt(prompt, tokenizer("llama4"))


@pytest.mark.parametrize("content", [None, b"", b"  \n ", b"\0\0\0"])
def test_what_is_not_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"t\.txt"):
        TextCorpus(path)


def test_a_damaged_index_is_named(tokenizer: Load, tmp_path: Path) -> None:
    index = CorpusIndex(BuiltinCorpus(7), tokenizer("llama4"), tmp_path)
    index.segment(0)
    (ids,) = tmp_path.glob("*/000000/ids.npy")
    np.save(ids, np.zeros(3, np.int32))
    with pytest.raises(InputError, match="delete that folder"):
        CorpusIndex(BuiltinCorpus(7), tokenizer("llama4"), tmp_path).segment(0)


def test_a_cache_that_cannot_be_written_is_named(tokenizer: Load, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        CorpusIndex(BuiltinCorpus(7), tokenizer("llama4"), tmp_path / "file").segment(0)
