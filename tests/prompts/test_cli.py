import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from farspan.cli.prompt import command
from farspan.errors import FarspanError, InputError
from farspan.prompts.tokenizer import Tokenizer
from farspan.prompts.write import peak_rss_mib, process_start

MakePath = Callable[[str], Path]


@pytest.fixture
def run(tokenizer_path: MakePath) -> Callable[..., Result]:
    path = str(tokenizer_path("llama4"))

    def call(*arguments: str, tokenizer: str = path) -> Result:
        return CliRunner().invoke(
            command, ["--tokenizer", tokenizer, *arguments], catch_exceptions=True, standalone_mode=False
        )

    return call


def test_the_command_others_script_against(
    run: Callable[..., Result], tokenizer: Callable[[str], Tokenizer], tmp_path: Path
) -> None:
    (tmp_path / "book.txt").write_text("A sentence of the book. " * 500)
    target = tmp_path / "new" / "p.txt"
    result = run(
        "--tokens", "12k", "--corpus", str(tmp_path / "book.txt"), "--task", "needle", "--depth", "0.3",
        "--seed", "5", "--format", "text", "-o", str(target), "--json", "--verify",
    )  # fmt: skip
    assert result.exception is None
    told = json.loads(result.output)
    text = target.read_text()
    assert len(tokenizer("llama4").encode_request(text, chat=False)) == told["tokens"] == 12_000
    assert f"is {told['answer']}." in text
    assert told["needle_positions"][0] == pytest.approx(3600, abs=100)
    assert told["seconds"] > 0
    assert told["peak_rss_mib"] > 20
    assert (told["backend"], told["additive"]) == ("tiktoken", "pattern")
    assert told["verified_with"] == [told["tokenizer"]]


def test_ids_chat_and_several(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run(
        "--tokens", "1000", "--chat", "--format", "ids", "--number", "3", "-o", str(tmp_path), "--json"
    )
    assert result.exception is None
    told = [json.loads(line) for line in result.output.splitlines()]
    arrays = [np.load(entry["path"]) for entry in told]
    assert [len(array) for array in arrays] == [1000] * 3
    assert len({array.tobytes() for array in arrays}) == 3
    assert [entry["seed"] for entry in told] == [0, 1, 2]


def test_text_goes_to_standard_output_and_the_rest_to_standard_error(run: Callable[..., Result]) -> None:
    result = run("--tokens", "300")
    assert result.stdout.endswith("is")
    assert "300 tokens in" in result.stderr
    assert "answer" in result.stderr


def test_recall_by_the_command(run: Callable[..., Result], tokenizer_path: MakePath) -> None:
    result = run("--tokens", "4k", tokenizer=str(tokenizer_path("recall")))
    words = result.stdout.split()
    assert len(words) == 3999
    assert words.count(words[-1]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "10"], "takes at least"),
        (["--tokens", "1000", "--depth", "2"], "outside the prompt"),
        (["--tokens", "1000", "--json"], "name a file or folder with -o"),
        (["--tokens", "1000", "--corpus", "/none"], "/none does not exist"),
        (["--tokens", "1000", "--verify-with", "/none"], "/none does not exist"),
        (["--tokens", "1000", "-o", "/proc/none/p.txt"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(run: Callable[..., Result], arguments: list[str], message: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, FarspanError)
    assert message in str(error)
    assert "\n" not in str(error)


def test_a_prompt_that_does_not_verify_is_an_error(
    run: Callable[..., Result], tokenizer_path: MakePath, tmp_path: Path
) -> None:
    other = str(tokenizer_path("llama3"))
    error = run("--tokens", "2000", "-o", str(tmp_path / "p"), "--verify-with", other).exception
    assert isinstance(error, FarspanError)
    assert not isinstance(error, InputError)
    assert "counts" in str(error)


def test_exit_codes_and_no_torch(tokenizer_path: MakePath, tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['farspan', *sys.argv[1:]]\n"
        "from farspan.cli.main import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    start = [sys.executable, "-c", code, "prompt", "--tokenizer", str(tokenizer_path("llama3"))]
    good = subprocess.run([*start, "--tokens", "64", "-o", str(tmp_path / "p")], env=environment, check=False)
    bad = subprocess.run([*start, "--tokens", "zero"], env=environment, capture_output=True, check=False)
    assert (good.returncode, bad.returncode) == (0, 2)
    assert b"token count" in bad.stderr


def test_what_a_process_took() -> None:
    code = (
        "import time\nfrom farspan.prompts.write import peak_rss_mib, process_start\n"
        "a = bytearray(200 * 2**20)\ndel a\n"
        "print(peak_rss_mib(), time.perf_counter() - process_start())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=True
    ).stdout
    peak, age = map(float, said.split())
    assert 200 < peak < 400
    assert 0 < age < 60
    assert peak_rss_mib() > 0
    assert abs(process_start() - process_start()) < 0.1
