from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers

from farspan.errors import InputError
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.prompt import Prompt
from farspan.prompts.scoring import MatchKind, Scorer
from farspan.prompts.tasks import TASKS
from farspan.prompts.tokenizer import Tokenizer

Load = Callable[[str], Tokenizer]

PLANTED = {
    "needle": " The access code of the ",
    "multi-needle": " The access code of the ",
    "multi-key": " The access code of the ",
    "last-update": " The code of the lock of ",
    "chain": " Sealed orders send every courier who is in ",
    "count": " The delegate of ",
    "list": " The delegate of ",
    "summarise": " Main finding: the ",
    "variable-tracking": " VAR ",
}


def text_from(prompt: Prompt, tokenizer: Tokenizer, token: int) -> str:
    """The text from a token on; the first id is BOS, which has none."""
    lengths = tokenizer.byte_lengths(prompt.token_ids[1:token])
    assert lengths is not None
    return prompt.text.encode()[int(lengths.sum()) :].decode()


@pytest.fixture
def llama(tokenizer: Load) -> Tokenizer:
    return tokenizer("llama4")


@pytest.mark.parametrize("task", sorted(PLANTED))
def test_what_is_planted_is_where_it_is_said_to_be(llama: Tokenizer, task: str) -> None:
    prompt = build_prompt(llama, tokens=20_000, task=task, seed=2)
    found = [text_from(prompt, llama, position) for position in prompt.needle_positions]
    assert found
    assert all(text.startswith(PLANTED[task]) for text in found)
    assert prompt.text.count(PLANTED[task]) >= len(found)
    assert list(prompt.needle_positions) == sorted(set(prompt.needle_positions))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_positions_are_right_where_counts_do_not_add_up(
    tokenizer: Load, tokenizer_path: Callable[[str], Path], task: str
) -> None:
    # Its tokens reach across words, so nothing about a piece holds for the whole.
    reference = tokenizers.Tokenizer.from_file(str(tokenizer_path("across-words") / "tokenizer.json"))
    prompt = build_prompt(tokenizer("across-words"), tokens=3000, task=task, seed=3)
    proven = build_prompt(tokenizer("llama4"), tokens=3000, task=task, seed=3)
    assert len(prompt.needle_positions) == len(proven.needle_positions)
    whole = reference.encode(prompt.text)
    assert whole.ids == prompt.token_ids.tolist()
    for position in prompt.needle_positions:
        start, end = whole.offsets[position]
        # A token that spans the space in front holds the beginning of what was planted.
        words = [PLANTED[task]] if task in PLANTED else [f" {word}" for word in prompt.answer.split(", ")]
        assert any(word in prompt.text[start : end + len(word)] for word in words)


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("chat", [False, True])
def test_the_answer_scores_one_and_another_answer_less(llama: Tokenizer, task: str, chat: bool) -> None:
    prompt = build_prompt(llama, tokens=8000, task=task, seed=3, chat=chat)
    other = build_prompt(llama, tokens=8000, task=task, seed=4, chat=chat)
    assert prompt.answer
    assert prompt.score(prompt.answer) == 1
    assert prompt.score(f"Sure! It is: {prompt.answer.upper()}.") == 1
    assert prompt.score(prompt.answer, MatchKind.EXACT) == 1
    assert prompt.score(f"Sure! {prompt.answer}", MatchKind.EXACT) == 0
    assert prompt.score("") == 0
    assert other.answer != prompt.answer
    assert prompt.score(other.answer) < 1
    assert prompt.output_tokens >= len(llama.encode_piece(f" {prompt.answer}"))


@pytest.mark.parametrize("depth", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_depth(llama: Tokenizer, depth: float) -> None:
    (position,) = build_prompt(llama, tokens=100_000, depth=depth).needle_positions
    assert position == pytest.approx(100_000 * depth, abs=150)


@pytest.mark.parametrize(
    ("task", "count"), [("multi-needle", 5), ("multi-key", 40), ("count", 31), ("list", 7)]
)
def test_count_decides_how_much_is_planted(llama: Tokenizer, task: str, count: int) -> None:
    assert len(build_prompt(llama, tokens=9000, task=task, count=count).needle_positions) == count


def test_the_count_is_the_number_of_items(llama: Tokenizer) -> None:
    prompt = build_prompt(llama, tokens=9000, task="count", seed=1)
    assert prompt.answer == str(prompt.text.count("signed the register."))


def test_the_chain_leads_to_the_answer(llama: Tokenizer) -> None:
    prompt = build_prompt(llama, tokens=9000, task="chain", count=6, seed=1)
    leads = {}
    for position in prompt.needle_positions:
        sentence = text_from(prompt, llama, position).split(".")[0].split()
        leads[sentence[sentence.index("on") - 1]] = sentence[-1]
    place = prompt.text.split("courier starts in ")[1].split()[0]
    for _ in range(6):
        place = leads[place]
    assert place == prompt.answer


def test_only_the_last_update_counts(llama: Tokenizer) -> None:
    prompt = build_prompt(llama, tokens=9000, task="last-update", count=9, depth=0.7, seed=1)
    last = text_from(prompt, llama, prompt.needle_positions[-1])
    assert last.split(".")[0].endswith(f"was changed to {prompt.answer}")
    assert prompt.needle_positions[-1] == pytest.approx(6300, abs=200)
    assert prompt.text.count("was changed to ") == 9


def test_variables_reach_the_value(llama: Tokenizer) -> None:
    prompt = build_prompt(llama, tokens=9000, task="variable-tracking", count=5, seed=1)
    values: dict[str, str] = {}
    for position in prompt.needle_positions:
        name, _, *value = text_from(prompt, llama, position).split(".")[0].split()[1:]
        values[name] = value[0] if len(value) == 1 else values[value[1]]
    asked = prompt.text.split("have the value ")[1].split(",")[0]
    assert {name for name, value in values.items() if value == asked} == set(prompt.answer.split(", "))
    assert len(values) == 18


@pytest.mark.parametrize(("task", "number"), [("common-words", 10), ("frequent-words", 3)])
@pytest.mark.parametrize("tokens", [2000, 60_000, 400_000])
def test_the_most_common_words_are_the_answer(llama: Tokenizer, task: str, number: int, tokens: int) -> None:
    prompt = build_prompt(llama, tokens=tokens, task=task, seed=1)
    counts = Counter(prompt.text.split("List: ")[1].split(" [End")[0].split())
    ranked = counts.most_common(number + 1)
    assert {word for word, _ in ranked[:number]} == set(prompt.answer.split(", "))
    assert ranked[number - 1][1] > ranked[number][1]
    assert len(prompt.needle_positions) == number


def test_unknown_things_are_refused(llama: Tokenizer) -> None:
    with pytest.raises(InputError, match="no task 'riddle'"):
        build_prompt(llama, tokens=1000, task="riddle")
    for wrong in ({"depth": 1.5}, {"depth": float("nan")}, {"seed": -1}, {"tokens": 0}, {"count": 0}):
        with pytest.raises(InputError):
            build_prompt(llama, **{"tokens": 1000, **wrong})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at most"):
        build_prompt(llama, tokens=10_000_000, task="list", count=7000)


@pytest.mark.parametrize(
    ("match", "expected", "reply", "score"),
    [
        (MatchKind.EXACT, ("Zorobek",), " Zorobek. ", 1.0),
        (MatchKind.EXACT, ("Zorobek",), "zorobek", 0.0),
        (MatchKind.NORMALISED, ("4839201",), "The code is **4,839,201**!", 1.0),
        (MatchKind.NORMALISED, ("483",), "4839", 0.0),
        (MatchKind.NORMALISED, ("amber vault",), "an Amber  vault", 1.0),
        (MatchKind.NORMALISED, ("amber vault",), "the vault is amber", 0.0),
        (MatchKind.NUMBER, ("12",), "There are 12 of 20.", 1.0),
        (MatchKind.NUMBER, ("12",), "There are 20, not 12.", 0.0),
        (MatchKind.NUMBER, ("12",), "none", 0.0),
        (MatchKind.FRACTION, ("a", "b", "c", "d"), "A, c and d", 0.75),
        (MatchKind.PREFIX, ("Zuri Beko Tala Romi",), " Zuri Beko Rumi Romi Bado", 0.75),
        (MatchKind.PREFIX, ("Zuri Beko",), "", 0.0),
        (MatchKind.ANY, (), "words", 1.0),
        (MatchKind.ANY, (), " ... ", 0.0),
    ],
)
def test_scorers(match: MatchKind, expected: tuple[str, ...], reply: str, score: float) -> None:
    assert Scorer(match, expected).score(reply) == score
