"""What a user hands over as a corpus: text, JSON lines, packed files; and the command for what cannot be read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from farspan.errors import InputError, NotFoundError, UnsupportedError
from farspan.prompts.corpus import BuiltinCorpus, TextCorpus, corpus_warnings, open_corpus
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.shared_prefix import SharedPrefix
from farspan.prompts.tokenizer import Tokenizer
from farspan.prompts.verify import verify_prompt

Load = Callable[[str], Tokenizer]
ROWS = [
    {"text": "Of shoes and ships, and sealing wax,", "id": 1},
    {"text": None},
    {"text": "of cabbages & kings."},
]
TEXT = "Of shoes and ships, and sealing wax,\n\nof cabbages & kings."


def lines(rows: list[object]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(path: Path, field: str | None = None) -> str:
    corpus = TextCorpus(path, field)
    assert corpus.segments is not None
    return "".join(corpus.segment(number) for number in range(corpus.segments)).strip()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", lines(ROWS)),
        ("rows.ndjson", lines(ROWS)),
        ("rows.JSONL", lines(ROWS)),
        ("rows.json", json.dumps(ROWS).encode()),
        ("rows.jsonl.gz", gzip.compress(lines(ROWS), mtime=0)),
        ("rows.json.bz2", bz2.compress(json.dumps(ROWS).encode())),
        ("rows.jsonl.xz", lzma.compress(lines(ROWS))),
        ("words.jsonl", lines([row["text"] for row in ROWS])),
        ("plain.txt", TEXT.encode()),
        ("plain.txt.gz", gzip.compress(TEXT.encode(), mtime=0)),
        ("plain.xz", lzma.compress(TEXT.encode())),
    ],
)
def test_every_form_of_a_text_is_the_same_text(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == TEXT
    assert read(tmp_path / name) == TEXT, "and again, from what was kept"


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines([{"text": "before"}]))
    assert read(path) == "before"
    path.write_bytes(lines([{"text": "afterwards"}]))
    assert read(path) == "afterwards"


@pytest.mark.parametrize(
    ("row", "field", "text"),
    [
        ({"content": "a b"}, "content", "a b"),
        ({"doc": {"body": "a b"}}, "doc.body", "a b"),
        ({"turns": [{"who": "x", "value": "a"}, {"who": "y", "value": "b"}]}, "turns.value", "a\n\nb"),
        ({"parts": ["a", "b"]}, "parts", "a\n\nb"),
    ],
)
def test_the_field_is_named(tmp_path: Path, row: object, field: str, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines([row]))
    assert read(path, field) == text
    with pytest.raises(
        InputError, match=r"line 1 of .*rows.jsonl has no text in a field 'text', but .*--corpus-field"
    ):
        TextCorpus(path)


def test_an_error_names_the_fields_that_hold_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines([{"text": "a"}, {"turns": [{"value": "b"}], "n": 3}]))
    with pytest.raises(InputError, match=r"line 2 of .* such as turns.value"):
        TextCorpus(path)
    path.write_bytes(lines([{"n": 3}]))
    with pytest.raises(InputError, match=r"line 1 of .* nor any other"):
        TextCorpus(path)
    path.write_bytes(lines([{"text": None}]))
    with pytest.raises(InputError, match=r"the field 'text' of .* holds no text"):
        TextCorpus(path)
    path.write_bytes(b"{broken\n")
    with pytest.raises(InputError, match=r"line 1 of .* is no JSON .*name the file .txt"):
        TextCorpus(path)
    (tmp_path / "rows.json").write_bytes(b'[{"text": "a"}, ')
    with pytest.raises(InputError, match="is no JSON"):
        TextCorpus(tmp_path / "rows.json")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines(ROWS * 5000))[:-100])
    with pytest.raises(InputError, match="see that the file is whole"):
        TextCorpus(tmp_path / "cut.jsonl.gz")


def test_a_field_without_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text(TEXT)
    with pytest.raises(InputError, match="is of JSON records"):
        TextCorpus(tmp_path / "plain.txt", "content")
    with pytest.raises(InputError, match="add --corpus"):
        open_corpus(None, "content")
    assert isinstance(open_corpus(None), BuiltinCorpus)


def test_a_folder_is_read_in_order_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(lines([{"text": "second"}]))
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "config.json").write_text('{"raw": 1}')
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / ".hidden").write_text("never")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    corpus = TextCorpus(tmp_path)
    assert corpus.segment(0).split() == ["first", "second", '{"raw":', "1}"]
    assert corpus_warnings(corpus, 0.5) == (
        f"1 file holds no text and is left out, such as {tmp_path / 'picture.png'}",
    )


@pytest.mark.parametrize(("name", "kind"), [("t.parquet", "parquet"), ("t.arrow", "arrow")])
def test_a_table_is_refused_with_the_command_that_makes_text_of_it(
    tmp_path: Path, name: str, kind: str
) -> None:
    folder = tmp_path / "wiki"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("A data set.")
    (folder / "data" / name).write_bytes(b"PAR1\0\0PAR1")
    with pytest.raises(UnsupportedError) as refusal:
        TextCorpus(folder)
    assert f"is {kind}, which farspan does not read" in str(refusal.value)
    assert f"load_dataset({str(folder)!r}, split='train').to_json('wiki.jsonl')" in str(refusal.value)
    with pytest.raises(UnsupportedError, match=rf"load_dataset\('{kind}', data_files=.*to_json\('t.jsonl'\)"):
        TextCorpus(folder / "data" / name)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("Salesforce/wikitext", r"load_dataset\('Salesforce/wikitext', .*--corpus wikitext.jsonl"),
        ("https://huggingface.co/datasets/a/b/tree/main", r"load_dataset\('a/b', "),
        ("hf://datasets/a/b", r"load_dataset\('a/b', "),
        ("https://example.org/book.txt", "curl -L -o book.txt https://example.org/book.txt"),
        ("./nowhere/book", "does not exist"),
        ("nowhere.txt", "does not exist"),
    ],
)
def test_what_is_not_there_says_how_to_get_it(path: str, words: str) -> None:
    with pytest.raises(NotFoundError, match=words):
        TextCorpus(path)


SENTENCE = "The keeper of the lighthouse wrote down the weather every evening. "


@pytest.mark.parametrize("copies", [1, 40, 4000])
def test_a_corpus_shorter_than_the_prompt_is_said_to_be_repeated(
    tokenizer: Load, tmp_path: Path, copies: int
) -> None:
    path = tmp_path / "short.txt"
    path.write_text("".join(f"{number} {SENTENCE}" for number in range(copies)))
    encoder = tokenizer("llama4")
    whole = len(encoder.encode_piece(" " + path.read_text().strip()))
    long = build_prompt(encoder, tokens=5 * whole + 200, corpus=TextCorpus(path))
    verify_prompt(long, encoder)
    # What is neither text nor corpus (the frame, the needle, the question) is a few dozen tokens.
    assert 5 <= long.corpus_passes <= (5 * whole + 200) / whole
    # The needle and both ends of the text each cut a sentence in two.
    assert 0 <= long.corpus_passes - long.text.count(f" {copies - 1} {SENTENCE}".rstrip()) <= 3
    (warning,) = corpus_warnings(TextCorpus(path), long.corpus_passes)
    assert (
        f"short.txt is shorter than the prompt: its text stands there {long.corpus_passes:.1f} times"
        in warning
    )
    if whole > 400:
        short = build_prompt(encoder, tokens=whole // 2, corpus=TextCorpus(path))
        assert short.corpus_passes < 1
        assert not corpus_warnings(TextCorpus(path), short.corpus_passes)


def test_a_corpus_of_several_segments_is_repeated_only_when_all_of_it_is_read(
    tokenizer: Load, tmp_path: Path
) -> None:
    path = tmp_path / "long.txt"
    path.write_text("".join(f"{number} {SENTENCE}" for number in range(70_000)))
    corpus = TextCorpus(path)
    assert corpus.segments == 3
    assert build_prompt(tokenizer("llama4"), tokens=10_000, corpus=corpus).corpus_passes < 0.01
    assert build_prompt(tokenizer("llama4"), tokens=2_500_000, corpus=corpus).corpus_passes > 1


def test_a_shared_prefix_counts_and_built_in_text_never_repeats(tokenizer: Load, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text(SENTENCE * 20)
    shared = SharedPrefix(1500, 3)
    prompt = build_prompt(tokenizer("llama4"), tokens=2000, corpus=TextCorpus(path), shared=shared)
    alone = build_prompt(tokenizer("llama4"), tokens=2000, corpus=TextCorpus(path))
    assert prompt.corpus_passes == pytest.approx(alone.corpus_passes, rel=0.05)
    assert build_prompt(tokenizer("llama4"), tokens=2000).corpus_passes == 0


@pytest.mark.parametrize("task", ["common-words", "frequent-words"])
def test_a_task_that_has_its_own_words_does_not_pass_over_a_corpus(
    tokenizer: Load, tmp_path: Path, task: str
) -> None:
    (tmp_path / "short.txt").write_text(SENTENCE * 20)
    with pytest.raises(
        UnsupportedError, match=f"the task {task} is a list of words of its own, and none of .*short"
    ):
        build_prompt(tokenizer("llama4"), tokens=2000, task=task, corpus=TextCorpus(tmp_path / "short.txt"))
    assert build_prompt(tokenizer("llama4"), tokens=2000, task=task).tokens == 2000
