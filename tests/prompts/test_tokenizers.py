import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from farspan.errors import InputError, NetworkError
from farspan.models.chat_template import ChatTemplate
from farspan.prompts.backends.bytepair import BytePairTokenizer
from farspan.prompts.backends.huggingface import HuggingFaceTokenizer
from farspan.prompts.backends.splitting import additivity_of
from farspan.prompts.corpus import TextCorpus
from farspan.prompts.cuts import DEEPSEEK_PATTERN, O200K_PATTERN, PROVEN_PATTERNS, is_cut, spanned_pairs
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.load_tokenizer import load_tokenizer
from farspan.prompts.tokenizer import Tokenizer
from farspan.prompts.verify import InexactPromptError, verify_prompt

Load = Callable[[str], Tokenizer]
MakePath = Callable[[str], Path]
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)


@pytest.mark.parametrize(("generation", "header"), [(3, "start_header_id"), (4, "header_start")])
def test_llama_files_agree_with_llama_models(tokenizer: Load, generation: int, header: str) -> None:
    if generation == 3:
        from llama_models.llama3.tokenizer import Tokenizer as Theirs

        pattern = Theirs.pat_str
    else:
        from llama_models.llama4.tokenizer import Tokenizer as Theirs

        pattern = Theirs.O200K_PATTERN
    theirs = Theirs.get_instance()
    ours = tokenizer(f"llama{generation}")
    assert isinstance(ours, BytePairTokenizer)
    assert dict(ours.vocabulary.specials) == theirs.special_tokens
    assert ours.vocabulary.pattern == pattern
    text = "Hello, world! It's 12345 naïve tests. <|eot|>"
    assert ours.encode_ordinary(text).tolist() == theirs.encode(text, bos=False, eos=False)
    assert ours.encode_request("Hi there", chat=False).tolist() == theirs.encode(
        "Hi there", bos=True, eos=False
    )
    chat = ours.encode_request("Hi there", chat=True).tolist()
    assert chat[:2] == [theirs.bos_id, theirs.special_tokens[f"<|{header}|>"]]
    assert theirs.decode(chat).count("Hi there") == 1


@pytest.mark.parametrize(
    ("name", "backend", "proof"),
    [
        ("llama3", "tiktoken", "pattern"),
        ("llama4", "tiktoken", "pattern"),
        ("bytes-o200k", "tiktoken", "pattern"),
        ("bytes-nfc", "tiktoken", "pattern"),
        ("bytes-gpt2", "tokenizers", "pattern"),
        ("unigram", "tokenizers", "split"),
        ("sentencepiece", "tokenizers", "vocabulary"),
        ("no-splitting", "tokenizers", "checked"),
        ("recall", "tokenizers", "split"),
    ],
)
def test_how_each_tokenizer_is_run(tokenizer: Load, name: str, backend: str, proof: str) -> None:
    loaded = tokenizer(name)
    assert (loaded.backend, loaded.proof) == (backend, proof)
    assert loaded.reason


@pytest.mark.parametrize(
    "name", ["bytes-o200k", "bytes-nfc", "bytes-gpt2", "unigram", "sentencepiece", "recall"]
)
@pytest.mark.parametrize("chat", [False, True])
def test_ids_are_those_of_transformers(
    tokenizer: Load, tokenizer_path: MakePath, name: str, chat: bool
) -> None:
    reference = PreTrainedTokenizerFast.from_pretrained(tokenizer_path(name))
    prompt = build_prompt(tokenizer(name), tokens=4000, seed=8, chat=chat)
    if chat:
        messages = [{"role": "user", "content": prompt.text}]
        ids = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    else:
        ids = reference(prompt.text)["input_ids"]
    assert prompt.token_ids.tolist() == ids


@pytest.mark.parametrize(
    "name", ["llama3", "llama4", "bytes-o200k", "bytes-nfc", "bytes-gpt2", "unigram", "sentencepiece"]
)
@settings(max_examples=150)
@given(left=WORDS, right=WORDS)
def test_counts_add_up_at_cuts(tokenizer: Load, name: str, left: str, right: str) -> None:
    loaded = tokenizer(name)
    left, right = "x " + loaded.clean(left).strip(), " " + loaded.clean(right).strip()
    if not is_cut(left, right) or not is_cut("x", " " + left):
        return
    whole = loaded.encode_request(left + right, chat=False)
    apart = [loaded.encode_request(left, chat=False), loaded.encode_piece(right)]
    assert whole.tolist() == np.concatenate(apart).tolist()


def test_a_conversion_is_kept_and_gives_the_same(
    tokenizer_path: MakePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_tokenizer(tokenizer_path("bytes-nfc"))
    monkeypatch.setattr(
        "farspan.prompts.backends.bytelevel._convert_and_check", lambda *_: pytest.fail("not kept")
    )
    second = load_tokenizer(tokenizer_path("bytes-nfc"))
    assert second.reason == first.reason
    text = "Größe e\u0301 123 it's\n\n"
    assert isinstance(first, BytePairTokenizer)
    assert isinstance(second, BytePairTokenizer)
    assert first.encode_ordinary(text).tolist() == second.encode_ordinary(text).tolist()
    assert first.encode_request(text, chat=True).tolist() == second.encode_request(text, chat=True).tolist()


def test_merges_out_of_order_are_noticed(tokenizer_path: MakePath, tmp_path: Path) -> None:
    recipe = json.loads((tokenizer_path("bytes-o200k") / "tokenizer.json").read_text())
    # A pair that merges to a token another pair already makes: tiktoken cannot tell the two apart.
    recipe["model"]["merges"] = recipe["model"]["merges"][::-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(recipe))
    loaded = load_tokenizer(tmp_path)
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "The old harbour master, who had once repaired a compass, walked slowly."
    assert (
        loaded.encode_piece(f" {text}").tolist() == reference.encode(f" {text}", add_special_tokens=False).ids
    )


def test_other_ids_than_tokenizers_means_tokenizers(
    tokenizer_path: MakePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ordinary = BytePairTokenizer.encode_ordinary
    monkeypatch.setattr(BytePairTokenizer, "encode_ordinary", lambda self, text: ordinary(self, text)[::-1])
    loaded = load_tokenizer(tokenizer_path("bytes-o200k"))
    assert isinstance(loaded, HuggingFaceTokenizer)
    assert "other ids" in loaded.reason


def test_verify_names_the_first_difference(tokenizer: Load) -> None:
    prompt = build_prompt(tokenizer("llama4"), tokens=2000)
    with pytest.raises(InexactPromptError, match=r"counts [0-9,]+ tokens where the prompt has 2,000"):
        verify_prompt(prompt, tokenizer("llama3"))


def test_a_text_with_control_tokens_is_refused(tokenizer: Load) -> None:
    with pytest.raises(InputError, match="control token"):
        tokenizer("llama4").encode_request("a <|eot|> b", chat=False)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "not JSON"),
        ("tokenizer.json", b"[]", "not a tokenizer.json"),
        ("tokenizer.json", b'{"model": {"type": "Strange"}}', "cannot be read by tokenizers"),
        ("tokenizer.model", b"\x0a\x0e\x0a\x05<unk>", "not in tiktoken's format"),
        ("tokenizer.model", b"AA== 0\nAQ== 1\n", "only Llama 3"),
        ("other.bin", b"x", "not a tokenizer"),
    ],
)
def test_what_is_not_a_tokenizer_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path / name)


def test_missing_things_are_named(tmp_path: Path, tokenizer: Load, tokenizer_path: MakePath) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(InputError, match=r"neither tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_path("unigram") / "tokenizer.json").read_bytes())
    with pytest.raises(InputError, match="no chat template"):
        build_prompt(load_tokenizer(tmp_path), tokens=1000, chat=True)


def test_chat_templates_that_cannot_be_used() -> None:
    for source in ("{{ raise_exception('no') }}", "no message", "{% if %}", "{{messages[0].content * 2}}"):
        with pytest.raises(InputError, match="chat template"):
            _ = ChatTemplate(source, {}).around
    dated = "{{ strftime_now('%Y') }} {{ messages | tojson }}{{ bos_token }}"
    before, after = ChatTemplate(dated, {"bos_token": "<s>"}).around
    assert before.startswith("20")
    assert after == '"}]<s>'


def test_the_vocabulary_argument() -> None:
    assert spanned_pairs(["▁the", "▁▁▁", "a", ",", "▁", "x▁▁y"]) == set()
    assert spanned_pairs(["▁the", "of▁the"]) == {("f", "t")}
    assert spanned_pairs([".▁", "a▁b▁c"]) == {(".", ""), ("a", "b"), ("b", "c")}


def _recipe(normalizer: object = None, splitter: object = None, words: str = "▁ a ▁a") -> dict[str, Any]:
    vocabulary = {word: i for i, word in enumerate(words.split())}
    return {"normalizer": normalizer, "pre_tokenizer": splitter, "model": {"vocab": vocabulary}}


def _split(pattern: dict[str, str], behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


O200K = {"Regex": O200K_PATTERN}
NUMBERS = {"Regex": r"\p{N}{1,3}"}
SPACE = {"String": " "}
SPACES_WRITTEN = {"type": "Replace", "pattern": SPACE, "content": "▁"}


@pytest.mark.parametrize(
    ("recipe", "proof"),
    [
        (_recipe(splitter=_split(O200K)), "pattern"),
        (_recipe(splitter=_split(O200K, "Removed", invert=True)), "pattern"),
        (_recipe(splitter=_split(O200K, "MergedWithNext")), "checked"),
        (_recipe(splitter=_sequence(_split(NUMBERS), _split({"Regex": DEEPSEEK_PATTERN}))), "pattern"),
        (_recipe(splitter=_sequence(_split(NUMBERS, "MergedWithPrevious"), _split(O200K))), "checked"),
        (_recipe(splitter=_sequence(_split({"Regex": ".x"}), _split(O200K))), "checked"),
        (_recipe(splitter=_sequence(_split(O200K), _split({"Regex": ".x"}))), "pattern"),
        (_recipe({"type": "ByteLevel"}, _split(O200K)), "checked"),
        (_recipe({"type": "Nmt"}, {"type": "WhitespaceSplit"}), "split"),
        (_recipe({"type": "Nmt"}), "checked"),
        (_recipe({"type": "Strip"}, {"type": "WhitespaceSplit"}), "checked"),
        (_recipe(SPACES_WRITTEN, _split(SPACE, "MergedWithPrevious")), "vocabulary"),
        (_recipe(None, _split(SPACE, "MergedWithPrevious")), "checked"),
        (_recipe(splitter={"type": "Punctuation", "behavior": "MergedWithPrevious"}), "checked"),
        (_recipe(splitter={"type": "Metaspace", "split": False}), "vocabulary"),
        (_recipe(splitter=_sequence({"type": "Metaspace", "split": False}, _split(O200K))), "checked"),
        (_recipe(splitter={"type": "UnicodeScripts"}), "checked"),
        (_recipe(words="a b"), "checked"),
        (_recipe(words="▁ of▁the"), "checked"),
        (_recipe(words="▁ >▁"), "checked"),
        (_recipe(words="▁ >▁</"), "vocabulary"),
    ],
)
def test_why_counts_add_up(recipe: dict[str, Any], proof: str) -> None:
    assert additivity_of(recipe).proof == proof


def test_markup_that_spans_a_cut_is_kept_apart(tokenizer_path: MakePath, tmp_path: Path) -> None:
    recipe = json.loads((tokenizer_path("sentencepiece") / "tokenizer.json").read_text())
    vocabulary, merges = recipe["model"]["vocab"], recipe["model"]["merges"]
    for token in ("<", ">", "▁<", ">▁<"):
        vocabulary.setdefault(token, len(vocabulary))
    merges += [["▁", "<"], [">", "▁<"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(recipe))
    loaded = load_tokenizer(tmp_path)
    assert (loaded.proof, loaded.apart) == ("vocabulary", ((">", "<"),))
    assert loaded.clean("a > < > b <b> <c> > >") == "a >\n< > b <b>\n<c> > >"
    (tmp_path / "page.html").write_text("<p> <b> word </b> > < > text </p> " * 3000)
    prompt = build_prompt(loaded, tokens=20_000, corpus=TextCorpus(tmp_path / "page.html"))
    verify_prompt(prompt, loaded)
    assert loaded.encode_piece(" > <").tolist() != [*loaded.encode_piece(" >"), *loaded.encode_piece(" <")]


def test_patterns_keep_white_space_in_front() -> None:
    assert all(pattern.endswith(r"|\s+(?!\S)|\s+") for pattern in PROVEN_PATTERNS)


PATTERN_TOKENIZERS = [
    tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    for pattern in sorted(PROVEN_PATTERNS)
]
MIXED = st.text(st.sampled_from("aZé'sſ1२,/<>-\n\r\t  \u00a0\u2028中ゟ\u0301😀\x01"), min_size=1, max_size=12)


@settings(max_examples=400)
@given(left=MIXED | WORDS, right=MIXED | WORDS)
def test_no_match_of_a_proven_pattern_spans_a_cut(left: str, right: str) -> None:
    right = f" {right}"
    if not is_cut(left, right):
        return
    for splitter in PATTERN_TOKENIZERS:
        apart = [piece for text in (left, right) for piece, _ in splitter.pre_tokenize_str(text)]
        assert [piece for piece, _ in splitter.pre_tokenize_str(left + right)] == apart


def test_a_split_written_the_other_way_round_is_run_by_tiktoken(
    tokenizer_path: MakePath, tmp_path: Path
) -> None:
    recipe = json.loads((tokenizer_path("bytes-o200k") / "tokenizer.json").read_text())
    recipe["pre_tokenizer"]["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(recipe))
    loaded = load_tokenizer(tmp_path)
    assert (loaded.backend, loaded.proof) == ("tiktoken", "pattern")


class _Handler(BaseHTTPRequestHandler):
    reference: PreTrainedTokenizerFast

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "served"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert request["model"] == "served"
        if "messages" in request:
            ids = self.reference.apply_chat_template(
                request["messages"], add_generation_prompt=True, return_dict=False
            )
        else:
            ids = self.reference(request["prompt"], add_special_tokens=request["add_special_tokens"])[
                "input_ids"
            ]
        self._answer({"count": len(ids), "tokens": ids})

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tokenizer_path: MakePath) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {})
    handler.reference = PreTrainedTokenizerFast.from_pretrained(tokenizer_path("bytes-o200k"))
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_address[1]}"
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.mark.parametrize("chat", [False, True])
def test_a_server_counts_its_own_tokens(server: str, tokenizer: Load, chat: bool) -> None:
    served = load_tokenizer(f"{server}/v1")
    prompt = build_prompt(served, tokens=2500, chat=chat, seed=6)
    assert len(prompt.token_ids) == 2500
    verify_prompt(prompt, tokenizer("bytes-o200k"))
    local = build_prompt(tokenizer("bytes-o200k"), tokens=9000, chat=chat)
    verify_prompt(local, served)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(NetworkError, match="does not answer"):
        load_tokenizer("http://127.0.0.1:9")


def test_a_server_without_tokenize(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: _Handler) -> None:
        self.send_error(404, "Not Found")

    monkeypatch.setattr(_Handler, "do_POST", refuse)
    with pytest.raises(NetworkError, match="/tokenize answers 404"):
        load_tokenizer(server)
    monkeypatch.setattr(_Handler, "do_POST", lambda self: self._answer({"error": "no"}))
    with pytest.raises(NetworkError, match="does not answer with tokens"):
        load_tokenizer(server)
