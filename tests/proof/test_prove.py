"""`farspan prove`: the built-in engine as two engines' stand-ins, real processes, killed and resumed at every step."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

import farspan
from campaign_program import CampaignProgram
from farspan.cli.main import group
from farspan.errors import InputError, NetworkError, NotFoundError
from farspan.measurement.runs.run_folder import load_run
from farspan.proof.campaign import STATE_FILE, Campaign, Step
from scripted import Script, serve_in_thread

CONTEXTS = (1000, 2000)
DEPTHS = (0.1, 0.9)


@pytest.fixture(scope="module")
def recall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return farspan.probe(tmp_path_factory.mktemp("prove") / "recall", heads=2, kv_heads=2).folder


def a_campaign(folder: Path, recall: Path) -> CampaignProgram:
    """A campaign of three engines, the last of which cannot start."""
    return CampaignProgram(
        folder, "prove", str(recall), "--engines", "a=builtin,b=builtin,c=builtin", "--flags", "c=--dtype float8",
        "--runtime", "local", "--gpus", "none", "--contexts", "1k,2k", "--depths", "0.1,0.9", "--output-tokens", "16",
        "--concurrency", "2", "--port", "0", checkpoint=recall,
    )  # fmt: skip


def test_killed_at_every_step_it_goes_on_and_leaves_nothing(tmp_path: Path, recall: Path) -> None:
    prove = a_campaign(tmp_path, recall)
    prove.end_when(lambda: len(prove.servers()) == 2, signal.SIGKILL)  # the guard and the server: it starts
    assert prove.progress()["a"]["steps"] == []
    err = prove.end_when(lambda: prove.sent("a") >= 1, signal.SIGINT)
    assert "the same command goes on" in err
    prove.end_when(lambda: prove.progress().get("a", {}).get("steps") == ["measured"], signal.SIGKILL)
    a = load_run(prove.out / "a").results
    prove.end_when(lambda: prove.sent("b") >= 1, signal.SIGKILL)
    assert prove.progress()["a"]["steps"] == ["measured", "loaded", "examined"]
    process = prove.start("--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "a: done before" in err
    document = json.loads(out)
    engines = {engine["name"]: engine for engine in document["engines"]}
    assert [engines[name]["good"] for name in "abc"] == [True, True, False]
    assert engines["c"]["outcome"].startswith("did not start: the server ended with status 2")
    assert "'float8' is not one of" in engines["c"]["outcome"]
    for name in "ab":
        results = load_run(prove.out / name).results
        assert len(results) == len(CONTEXTS) * len(DEPTHS) + 2
        assert all(result.score == 1.0 for result in results)
        assert sum(result.concurrency == 2 for result in results) == 2
        assert (prove.out / name / "server.log").stat().st_size
    assert {r.job: r.ttft_s for r in a}.items() <= {
        r.job: r.ttft_s for r in load_run(prove.out / "a").results
    }.items()
    seeds = {load_run(prove.out / name).info.identity.seed for name in "ab"}
    assert len(seeds) == 1, "both engines get the same prompts"
    page = Path(document["report"]["html"]).read_text()
    assert "Engine by engine" in page
    assert "did not start" in page
    text = Path(document["report"]["markdown"]).read_text()
    assert "| c (built-in engine 0.1.0) | not proven: did not start" in text
    assert prove.servers() == []
    assert [path.stem.split("-")[1] for path in prove.records.glob("*.json")] == ["c"], (
        "farspan logs shows why"
    )


def test_a_server_that_dies_while_it_is_measured_is_why_requests_failed(tmp_path: Path, recall: Path) -> None:
    prove = CampaignProgram(
        tmp_path, "prove", str(recall), "--engines", "builtin", "--runtime", "local", "--gpus", "none", "--contexts",
        "1k,16k", "--depths", "0.5", "--output-tokens", "16", "--port", "0", checkpoint=recall,
    )  # fmt: skip
    process = prove.start("--json")
    try:
        prove.wait_until(lambda: prove.sent("builtin") >= 1, process)
        (server,) = [one for one in prove.servers() if "guard.py" not in " ".join(one.cmdline())]
        server.kill()
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1, err
    (engine,) = json.loads(out)["engines"]
    died = "the server ended with status 137 after it had been ready"
    assert engine["outcome"].startswith(f"not measured to the end: {died}")
    assert engine["outcome"].endswith("right up to 1k")
    assert died in err
    again = prove.start("--json", "--retry-failed")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert [engine["outcome"] for engine in json.loads(out)["engines"]] == ["right up to 16k"]
    assert prove.servers() == []


def test_commands_of_a_dry_run(recall: Path, tmp_path: Path) -> None:
    commands = farspan.prove(
        str(recall), dry_run=True, engines="builtin", gpus="none", runtime="local", contexts="1k,2k", concurrency=3,
        output=tmp_path / "out", seed=9,
    )  # fmt: skip
    folder, serve, ready, alone, together, doctor, stop, log = commands.engines["builtin"]
    assert folder == f"mkdir -p {tmp_path}/out"
    assert "-m farspan.builtin" in serve
    assert ready.startswith("until curl --silent --fail")
    alike = f"--output-tokens 200 --seed 9 --tokenizer {recall}"
    assert f"--contexts 1k,2k --depths 0.1,0.5,0.9 {alike} --repeats 1" in alone
    assert f"--contexts 1k --depths 0.1 {alike} --repeats 3 --concurrency 3" in together
    assert f"--run {tmp_path}/out/builtin-at-once " in together
    assert doctor.startswith("farspan doctor")
    assert stop == "kill %1; wait"
    assert log == f"cp {tmp_path}/out/builtin.log {tmp_path}/out/builtin/server.log"
    assert commands.report == (
        f"farspan report {tmp_path}/out/builtin {tmp_path}/out/builtin-at-once -o {tmp_path}/out"
    )
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_not_there_is_bad_input_and_begins_nothing(
    recall: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    out = tmp_path / "out"
    with pytest.raises(NetworkError, match="no server answers"):
        farspan.prove(url="http://127.0.0.1:9", contexts=[1000], output=out)
    with serve_in_thread() as server:
        server.card = {"id": "recall", "owned_by": "vllm", "root": str(recall), "max_model_len": 1100}
        with pytest.raises(InputError, match="above the server's limit"):
            farspan.prove(url=server.url, contexts=[1000], output=out)
    assert not out.exists(), "the same command proves it once it is started"


def test_a_server_that_is_there_is_proven_and_stays(
    recall: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with serve_in_thread() as server:
        server.script = Script(recall=True)
        server.card = {"id": "recall", "owned_by": "vllm", "root": str(recall)}
        proof = farspan.prove(
            url=server.url, contexts=[1000], output_tokens=16, output=tmp_path / "out", metrics_interval=0
        )
        assert proof.good
        assert proof.exit_code == 0
        (row,) = proof.engines
        assert (row.name, row.engine, row.outcome) == ("server", "vLLM 1.2.3", "right up to 1k")
        asked = len(server.requests)
        again = farspan.prove(
            url=server.url, contexts=[1000], output_tokens=16, output=tmp_path / "out", metrics_interval=0
        )
        assert again.good
        assert len(server.requests) == asked, "what is done is not done again"
        server.script = Script(reply="Wrong ")
        wrong = farspan.prove(
            url=server.url, contexts=[1000], output_tokens=16, output=tmp_path / "wrong", metrics_interval=0
        )
        assert wrong.exit_code == 1
        assert wrong.engines[0].outcome == "3 of 3 requests failed or were wrong"
        server.script = Script(recall=True)
        mended = farspan.prove(
            url=server.url, contexts=[1000], output_tokens=16, output=tmp_path / "wrong", metrics_interval=0,
            retry_failed=True,
        )  # fmt: skip
        assert mended.good


def test_a_campaign_of_failures_alone_has_a_report(
    recall: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    proof = farspan.prove(
        str(recall), engines="builtin", flags=["--dtype float8"], runtime="local", gpus="none", contexts="1k", port=0,
        output=tmp_path / "out", formats=["html", "md", "json", "csv"],
    )  # fmt: skip
    assert proof.exit_code == 1
    assert all("did not start" in path.read_text() for path in proof.report.written if path.suffix != ".csv")
    assert (tmp_path / "out" / "builtin.log").stat().st_size
    words = [
        "prove",
        str(recall),
        "--engines",
        "builtin",
        "--flags",
        "--dtype float8",
        "--runtime",
        "local",
        "--gpus",
    ]
    shown = CliRunner().invoke(
        group, [*words, "none", "--contexts", "1k", "--port", "0", "-o", str(tmp_path / "out")]
    )
    (row,) = proof.engines
    below = [*row.findings, *(f"-> {step}" for step in row.fixes)]
    assert below
    verdict = f"NOT PROVEN  builtin: {row.outcome}\n    "
    assert verdict + "\n    ".join(below) in shown.output, (
        "the reason and the way out are on the terminal, too"
    )


def test_what_cannot_be_proven_is_said_before_anything_starts(recall: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="not an engine"):
        farspan.prove(
            str(recall), engines="vlm", contexts="1k", gpus="none", runtime="local", output=tmp_path / "a"
        )
    with pytest.raises(InputError, match="two engines are called vllm"):
        farspan.prove(str(recall), engines="vllm,vllm", contexts="1k", output=tmp_path / "a")
    with pytest.raises(InputError, match="no engine"):
        farspan.prove(str(recall), engines="vllm@", contexts="1k", output=tmp_path / "a")
    for option in ("flags", "python", "image"):
        with pytest.raises(InputError, match=r"old is no engine of this proof; name one of vllm, new$"):
            farspan.prove(
                str(recall),
                engines="vllm,new=vllm",
                contexts="1k",
                output=tmp_path / "a",
                **{option: ["old=--x 1"]},
            )
    with pytest.raises(InputError, match="nothing is to be proven"):
        farspan.prove(str(recall), output=tmp_path / "a")
    with pytest.raises(InputError, match="recall is named beside --url; leave it out"):
        farspan.prove(str(recall), url="http://127.0.0.1:9", contexts="1k", output=tmp_path / "a")
    with pytest.raises(InputError, match="neither a model nor --url"):
        farspan.prove(contexts="1k", output=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_beyond_the_model_it_goes_on_when_forced(recall: Path, tmp_path: Path) -> None:
    """What a refusal says to add is an option of this command."""
    words = [
        "prove",
        str(recall),
        "--engines",
        "builtin",
        "--runtime",
        "local",
        "--gpus",
        "none",
        "--contexts",
        "2M",
    ]
    words += ["--dry-run", "-o", str(tmp_path / "out")]
    refused = CliRunner().invoke(group, words)
    assert "# cannot be started: a context of 2,000,216 is above" in refused.output
    assert "ask for 1Mi or less, or add --force" in refused.output
    forced = CliRunner().invoke(group, [*words, "--force"])
    assert "--max-model-len 2000216" in forced.output


def test_a_seed_of_zero_is_a_seed(tmp_path: Path) -> None:
    with Campaign(tmp_path / "c", {}, 0) as campaign:
        assert campaign.seed == 0
    with Campaign(tmp_path / "fresh", {}, None) as campaign:
        seed = campaign.seed
    with Campaign(tmp_path / "fresh", {}, None) as again:
        assert again.seed == seed


def test_a_campaign_is_gone_on_with_as_it_was(tmp_path: Path) -> None:
    with Campaign(tmp_path / "c", {"contexts": (1, 2)}, 7) as campaign:
        campaign.done(campaign.progress("a"), Step.MEASURED)
        with pytest.raises(InputError, match="another farspan is at work"):
            Campaign(tmp_path / "c", {"contexts": (1, 2)}, 8)
    with Campaign(tmp_path / "c", {"contexts": (1, 2)}, 8) as campaign:
        assert campaign.seed == 7
        assert campaign.progress("a").steps == ["measured"]
        assert campaign.is_resumed
    with pytest.raises(InputError, match=r"has contexts \[1, 2\], not \[3\]"):
        Campaign(tmp_path / "c", {"contexts": (3,)}, 8)
    (tmp_path / "c" / f"{STATE_FILE}.tmp").write_text("{ torn")
    (tmp_path / "c" / STATE_FILE).write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        Campaign(tmp_path / "c", {"contexts": (1, 2)}, 8)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    with pytest.raises(InputError, match="holds no campaign"):
        Campaign(tmp_path / "other", {}, 8)


def test_a_full_disk_is_told_with_the_file_and_is_no_other_farspan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Campaign(tmp_path / "c", {}, 7) as campaign:
        campaign.done(campaign.progress("a"), Step.MEASURED)
        with monkeypatch.context() as patch:
            patch.setattr("farspan.proof.campaign.os.fsync", full)
            with pytest.raises(OSError, match=rf"No space left on device: '.*{STATE_FILE}'"):
                campaign.done(campaign.progress("b"), Step.MEASURED)
            with pytest.raises(OSError, match="No space left"):
                Campaign(tmp_path / "new", {}, 7)
    with Campaign(tmp_path / "c", {}, 7) as campaign:
        assert list(campaign.engines) == ["a"]
    with Campaign(tmp_path / "new", {}, 8) as campaign:
        assert campaign.seed == 8
