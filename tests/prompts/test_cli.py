import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from farspan.cli.prompt import command
from farspan.errors import FarspanError, InputError
from farspan.prompts.prompt import Prompt
from farspan.prompts.tokenizer import Tokenizer
from farspan.prompts.write_prompts import PromptRequest, peak_rss_mib, process_start, write_prompts

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
    result = run(
        "--tokens", "1000", "--chat", "--format", "ids-json", "--number", "3", "-o", str(tmp_path), "--json"
    )
    assert result.exception is None
    paths = [Path(json.loads(line)["path"]) for line in result.output.splitlines()]
    assert [path.suffix for path in paths] == [".json"] * 3
    assert [json.loads(path.read_bytes()) for path in paths] == [array.tolist() for array in arrays]


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
    refused = run("--tokens", "4k", "--corpus", __file__, tokenizer=str(tokenizer_path("recall")))
    assert isinstance(refused.exception, FarspanError)
    assert "the recall checkpoint knows no words but its own" in str(refused.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "10"], "takes at least"),
        (["--tokens", "1000", "--depth", "2"], "outside the prompt"),
        (["--tokens", "1000", "--json"], "name a file or folder with -o"),
        (["--tokens", "1000", "--corpus", "/none"], "/none does not exist"),
        (["--tokens", "1000", "--verify-with", "/none"], "/none does not exist"),
        (["--tokens", "1000", "-o", "/proc/none/p.txt"], "cannot be written"),
        (["--tokens", "1000", "-o", "/dev/full"], "/dev/full cannot be written (No space left on device)"),
        (["--tokens", "1000", "--number", "2", "-o", __file__], "is a file; name a folder"),
    ],
)
def test_bad_input_is_one_line(run: Callable[..., Result], arguments: list[str], message: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, FarspanError)
    assert message in str(error)
    assert "\n" not in str(error)


def test_a_failed_write_leaves_the_old_file_alone(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(self: Prompt) -> Iterator[bytes]:
        yield b"the first megabyte"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "old.txt").write_text("old")
    (tmp_path / "old.txt").chmod(0o640)
    with monkeypatch.context() as patched:
        patched.setattr(Prompt, "iter_text", fill_the_disk)
        for name in ("old.txt", "new.txt"):
            error = run("--tokens", "1000", "-o", str(tmp_path / name)).exception
            assert "No space left on device" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"
    (tmp_path / "link.txt").symlink_to("old.txt")
    assert run("--tokens", "1000", "-o", str(tmp_path / "link.txt")).exception is None
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "old.txt").read_text().endswith(" is")
    assert (tmp_path / "old.txt").stat().st_mode & 0o777 == 0o640


def test_devices_and_pipes_are_written_to_as_they_are(run: Callable[..., Result], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    result = run("--tokens", "1000", "-o", str(tmp_path / "pipe"), "--json")
    reader.join()
    assert json.loads(result.output)["tokens"] == 1000
    assert read[0].endswith(" is")
    assert run("--tokens", "1000", "-o", "/dev/null").exception is None
    assert Path("/dev/null").is_char_device()


def test_an_interrupted_write_leaves_nothing(
    tokenizer_path: MakePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Prompt) -> Iterator[bytes]:
        yield b"the first megabyte"
        raise KeyboardInterrupt

    monkeypatch.setattr(Prompt, "iter_text", interrupt)
    request = PromptRequest(tokens=500, tokenizer=str(tokenizer_path("llama4")), output=tmp_path / "p.txt")
    with pytest.raises(KeyboardInterrupt):
        list(write_prompts(request))
    assert not list(tmp_path.iterdir())


def test_a_prompt_that_does_not_verify_is_an_error(
    run: Callable[..., Result], tokenizer_path: MakePath, tmp_path: Path
) -> None:
    other = str(tokenizer_path("llama3"))
    error = run("--tokens", "2000", "-o", str(tmp_path / "p"), "--verify-with", other).exception
    assert isinstance(error, FarspanError)
    assert not isinstance(error, InputError)
    assert "counts" in str(error)
    assert not list(tmp_path.iterdir()), "a prompt of the wrong length is not left where one was asked for"


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
        "import time\nfrom farspan.prompts.write_prompts import peak_rss_mib, process_start\n"
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
