"""No secret on a command line or in a manifest, however it is written; no value that is read as something else."""

import contextlib
import time

import pytest

from farspan.engines.plain_secrets import check_no_secret
from farspan.errors import InputError
from farspan.launch.plain_values import check_values

SECRET = "sesame-42"
TOKEN = "hf_" + "aB3" * 8


@pytest.mark.parametrize(
    "words",
    [
        ("--api-key", SECRET),
        (f"--api-key={SECRET}",),
        (f"--api_key={SECRET}",),
        (f"--API-KEY={SECRET}",),
        ("--api-k", SECRET),
        ("--api", SECRET),
        ("-api-key", SECRET),
        (f"--admin-api-key={SECRET}",),
        ("--admin", SECRET),
        ("--hf-token", SECRET),
        ("--hf-t", SECRET),
        ("--hf_token", "True"),
        ("--ssl-keyfile-password", SECRET),
        ("--json-arg.api_key", SECRET),
        ("--auth-token", SECRET),
        ("--tokenizer", TOKEN),
        ("--download-dir", f"/data/{TOKEN}/x"),
        ("--tokenizer", f"https://user:{SECRET}@hub.example/x"),
        ("--tokenizer", f"https://{TOKEN}@huggingface.co/x"),
        (f"HF_TOKEN={SECRET}",),
        (f"OPENAI_API_KEY={SECRET}",),
        (f"DB_PASSWORD={SECRET}",),
        ("--kv-transfer-config", f'{{"api_key": "{SECRET}"}}'),
        ("--header", f"Authorization: Bearer {SECRET}"),
        ("--enforce-eager", f"--api-key={SECRET}"),
    ],
)
def test_secrets_are_refused_and_never_repeated(words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as refused:
        check_no_secret(words)
    assert SECRET not in str(refused.value)
    assert TOKEN not in str(refused.value)
    assert refused.value.fix


@pytest.mark.parametrize(
    "words",
    [
        ("--max-num-batched-tokens", "8192"),
        ("--tokenizer-mode", "auto"),
        ("--tokenizer=owner/name",),
        ("--skip-tokenizer-init",),
        ("--ssl-keyfile", "/etc/key.pem"),
        ("--hf-overrides", '{"rope_scaling": {"factor": 4}, "eos_token": "x"}'),
        ("--kv-cache-dtype", "fp8"),
        ("--max-total-tokens=5",),
        ("--served", "x"),
        ("--a",),
    ],
)
def test_ordinary_flags_pass(words: tuple[str, ...]) -> None:
    check_no_secret(words)


@pytest.mark.parametrize(
    "value",
    [
        "-v/:/host",
        "--privileged",
        "a\nb",
        "a\x00b",
        "a\x1b[31m",
        " a",
        "a ",
        "x" * 5000,
        TOKEN,
        "https://u:p@h/x",
    ],
)
def test_values_that_would_be_misread_are_refused(value: str) -> None:
    for cluster in (False, True):
        with pytest.raises(InputError, match=r"--image|on the command line"):
            check_values({"--image": value}, cluster=cluster)


def test_variables_of_a_cluster_are_not_expanded_into_values() -> None:
    check_values({"--served-model-name": "$(HF_TOKEN)"}, cluster=False)
    with pytest.raises(InputError, match="Kubernetes puts the value"):
        check_values({"--served-model-name": "$(HF_TOKEN)"}, cluster=True)
    check_values({"MODEL": "owner/name", "--model-path": "/a b/'c'", "--image": ""}, cluster=True)


@pytest.mark.parametrize("piece", ["a", "a.", "_", "9", "a:", "a ", "://", "a@", "bearer", "-", "token-"])
def test_a_long_word_is_read_once(piece: str) -> None:
    started = time.process_time()
    with contextlib.suppress(InputError):
        check_no_secret([piece * 200_000])
    assert time.process_time() - started < 5  # well under a second when the time grows with the length
