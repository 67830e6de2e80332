"""An option that a verb lacks: its own word for it, where an engine's flag goes, or what is written without one."""

from __future__ import annotations

import click
import pytest

from farspan.cli.failures import describe
from farspan.cli.main import VERBS, group
from farspan.cli.unknown_option import _MEANT, suggest


def refusal(*words: str) -> str:
    with pytest.raises(click.UsageError) as caught:
        group.main(list(words), prog_name="farspan", standalone_mode=False)
    failure = describe(caught.value)
    assert failure is not None
    assert failure.exit_code == 2
    return f"{failure.message}; {failure.fix}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("plan", "m", "--gpu", "8xH200"), "No such option '--gpu'; write --gpus"),
        (("plan", "m", "--version", "0.12.0"), "; write --engine-version"),
        (("bench", "s", "--context", "2k"), "; write --contexts"),
        (("bench", "s", "--dataset", "x.jsonl"), "; write --corpus"),
        (("prompt", "--context=3"), "No such option '--context'; write --tokens"),
        (("report", "runs/a", "--csv"), "; write --format csv"),
        (("serve", "m", "--memory-request", "100Gi"), "; write --memory-gib"),
        (("serve", "m", "--background"), "; write --detach"),
        (
            ("plan", "m", "--max-model-len", "2M"),
            "it is a flag of vllm and builtin; write --context, or it as the engine's own: "
            "--engine vllm -- --max-model-len ...",
        ),
        (
            ("plan", "m", "--mem-fraction-static", "0.8"),
            "it is a flag of sglang; write it as the engine's own: --engine sglang -- --mem-fraction-static ...",
        ),
        (
            ("serve", "m", "--kv-fixed"),
            "it is a flag of builtin; write it as the engine's own: --engine builtin --",
        ),
        (
            ("prove", "m", "--contexts", "2M", "--swa-full-tokens-ratio", "0.1"),
            "write it as the engine's own: --flags 'sglang=--swa-full-tokens-ratio ...'",
        ),
        (("plan", "--model", "m"), "No such option '--model'; write it by itself: farspan plan MODEL"),
        (("stop", "--name", "m"), "; write it by itself: farspan stop NAME"),
        (("doctor", "--log", "x.log"), "; write it by itself: farspan doctor "),
        (("plan", "m", "--blurb"), "No such option '--blurb'; see farspan plan --help"),
        (("plan", "m", "--contxt", "1M"), "Did you mean one of: '--context'"),
    ],
)
def test_an_unknown_option_says_what_to_write(words: tuple[str, ...], expected: str) -> None:
    assert expected in refusal(*words)


def test_every_word_of_the_table_helps_some_verb() -> None:
    commands = {name: group.get_command(click.Context(group), name) for name in VERBS}
    for word, meant in _MEANT.items():
        helped = False
        for name, command in commands.items():
            assert command is not None
            options = {option for parameter in command.params for option in parameter.opts}
            if word in options or not any(one.partition(" ")[0] in options for one in meant):
                continue
            context = click.Context(command, info_name=f"farspan {name}")
            found = suggest(click.NoSuchOption(word, ctx=context))
            assert found is not None
            helped = True
        assert helped, word
