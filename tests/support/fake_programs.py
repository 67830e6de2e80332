"""docker and kubectl, played: python fake_programs.py docker|kubectl ARGUMENTS...

Every call is recorded in $FAKE_FOLDER/calls.jsonl (argv, standard input, secrets among the environment). What the two
programs print is as docker 27 and kubectl 1.31 print it. `docker run` and `kubectl port-forward` start the scripted
server on the port asked for, so that readiness is a real answer to a real request. $FAKE_FOLDER/play.json says how the
server fares: {"log": file, "exit": status or null, "pods": [pod status, ...]}.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["FAKE_FOLDER"])
SERVER = Path(__file__).with_name("scripted_main.py")


def main(program: str, arguments: list[str]) -> int:
    text = sys.stdin.read() if "-" in arguments else ""
    secrets = {
        name: os.environ[name]
        for name in ("HF_TOKEN", "VLLM_API_KEY", "SGLANG_API_KEY", "FARSPAN_API_KEY", "SCOUT_KEY")
        if name in os.environ
    }
    with (FOLDER / "calls.jsonl").open("a") as file:
        file.write(json.dumps({"argv": [program, *arguments], "stdin": text, "secrets": secrets}) + "\n")
    play = json.loads((FOLDER / "play.json").read_text())
    return docker(arguments, play) if program == "docker" else kubectl(arguments, play, text)


def start_server(port: int) -> None:
    server = subprocess.Popen(
        [sys.executable, str(SERVER), str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SERVER.parent), str(SERVER.parents[2] / "src")]),
        },
    )
    (FOLDER / "server.pid").write_text(str(server.pid))


def end_server() -> None:
    file = FOLDER / "server.pid"
    if file.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
        file.unlink()


def docker(arguments: list[str], play: dict) -> int:
    container = FOLDER / "container.json"
    if play.get("broken"):
        print("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", file=sys.stderr)
        return 1
    match arguments:
        case ["run", *_]:
            time.sleep(play.get("pull_s", 0))
            label = next(word for word in arguments if word.startswith("farspan.digest="))
            state = "created" if play.get("run_fails") else "running"
            port = (
                int(arguments[arguments.index("--publish") + 1].split(":")[-2])
                if "--publish" in arguments
                else 0
            )
            container.write_text(
                json.dumps({"digest": label.partition("=")[2], "state": state, "port": port})
            )
            if state == "created":
                print(
                    'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
                    file=sys.stderr,
                )
                return 125
            print("4f1c" * 16)
        case ["container", "inspect", "--format", template, name]:
            if not container.exists():
                print(f"Error response from daemon: No such container: {name}", file=sys.stderr)
                return 1
            state = json.loads(container.read_text())
            if "Labels" in template:
                print(state["state"], state["digest"])
            elif play["exit"] is None:
                # There is no daemon to start it: `docker run` itself ends with all its children.
                if state["port"] and not (FOLDER / "server.pid").exists():
                    start_server(state["port"])
                print("running 0 false")
            else:
                print("exited", play["exit"], "false")
        case ["logs", *_]:
            sys.stdout.write(Path(play["log"]).read_text())
            sys.stdout.flush()
            while "--follow" in arguments and play["exit"] is None and container.exists():
                time.sleep(0.05)
        case ["stop", *_]:
            end_server()
        case ["rm", "--force", name]:
            if not container.exists():
                print(f"Error response from daemon: No such container: {name}", file=sys.stderr)
                return 1
            container.unlink()
        case _:
            raise SystemExit(f"docker was not expected to be called with {arguments}")
    return 0


def pod_status(play: dict) -> dict:
    """The pod as it was when last looked at; each look brings it one step on."""
    looks = FOLDER / "looks"
    number = int(looks.read_text() or 1) if looks.exists() else 1
    return play["pods"][min(number, len(play["pods"])) - 1]


def kubectl(arguments: list[str], play: dict, text: str) -> int:
    applied = FOLDER / "applied.yaml"
    while arguments and arguments[0] in ("--context", "--namespace"):
        arguments = arguments[2:]
    match arguments:
        case ["apply", "--filename", "-"]:
            applied.write_text(text)
            print("deployment.apps/served created\nservice/served created")
        case ["get", "pods", *_]:
            looks = FOLDER / "looks"
            looks.write_text(str(int(looks.read_text()) + 1 if looks.exists() else 1))
            status = pod_status(play) if applied.exists() else None
            print(json.dumps({"items": [] if status is None else [{"status": status}]}))
        case ["get", _, _, "--ignore-not-found", *_]:
            if applied.exists():
                mark = applied.read_text().split("farspan/digest: ")[1].split()[0].strip("'")
                print(json.dumps({"metadata": {"annotations": {"farspan/digest": mark}}}))
        case ["logs", *_]:
            sys.stdout.write(
                "".join(
                    f"[pod/served-1/engine] {line}\n" for line in Path(play["log"]).read_text().splitlines()
                )
            )
            sys.stdout.flush()
            while (
                "--follow" in arguments
                and applied.exists()
                and "terminated" not in json.dumps(pod_status(play))
            ):
                time.sleep(0.05)
        case ["port-forward", "--address", "127.0.0.1", _, ports]:
            start_server(int(ports.split(":")[0]))
            while applied.exists():
                time.sleep(0.05)
        case ["delete", *_]:
            applied.unlink(missing_ok=True)
            end_server()
        case _:
            raise SystemExit(f"kubectl was not expected to be called with {arguments}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
