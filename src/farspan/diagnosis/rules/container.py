"""The container and its keeper: files, users, devices, signals."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Evidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.records import StartPhase
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, StateRule, known
from farspan.engines.logs.server_state import ServerState

_SOON_S = 600.0
_NO_GPU = compile_pattern(
    r"Failed to infer device type|No (?P<kind>CUDA|HIP) GPUs are available|Found no NVIDIA driver"
    r"|no CUDA-capable device is detected|no ROCm-capable device is detected|hipErrorNoDevice"
    r"|could not select device driver|nvidia-container-cli: |Device string must not be empty|No supported "
    r"device detected|libcuda\.so\.1: cannot open shared object"
)


def _no_gpu(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    text = rule_match.message.text
    if rule_match.match["kind"] == "HIP" or "ROCm" in text or "hip" in text:
        return Diagnosis(
            "The engine sees no AMD GPU: its devices were not passed to the container, or the user "
            "may not open them.",
            (
                "docker run --device /dev/kfd --device /dev/dri --group-add video --group-add render "
                "--ipc=host "
                "--security-opt seccomp=unconfined",
                "`rocminfo` inside must list the GPU; HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES "
                "must not be empty",
                "outside of containers: add the user to the groups render and video",
            ),
        )
    return Diagnosis(
        "The engine sees no GPU.",
        (
            "docker: add --gpus all (and install nvidia-container-toolkit); Kubernetes: "
            "resources.limits nvidia.com/gpu",
            "`nvidia-smi` inside the container must list the GPUs; CUDA_VISIBLE_DEVICES must not be empty",
            "AMD GPUs need the ROCm image, and --device /dev/kfd --device /dev/dri",
        ),
    )


NO_GPU = Rule(
    id="no-gpu",
    means="No GPU is visible to the engine.",
    severity=Severity.ERROR,
    pattern=_NO_GPU,
    explain=_no_gpu,
    sources=("vllm-project/vllm#12847", "vllm-project/vllm#13946", "ROCm docs: running containers"),
)

_KILLED = compile_pattern(
    r"(?:died unexpectedly|crashed with exit code|exit ?code:?|exited with code|"
    r"exitcode)[^\d-]{0,12}(?P<code>-?\d+)"
    r"|(?P<kernel>Out of memory: Killed process|OOMKilled|oom-kill|SIGKILL)|(?:^|line \d+: +\d+ "
    r")(?P<shell>Killed)\b"
)
_SIGNAL_9 = ("-9", "137")


def _killed(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    match = rule_match.match
    outright = match["kernel"] is not None or match["shell"] is not None
    if not outright and match["code"] not in _SIGNAL_9:
        return None
    stopped = server_state.stopped
    if stopped is not None and stopped.line <= rule_match.message.where.line:
        return None
    if (
        match["shell"] is not None
        and server_state.died is not None
        and (server_state.died.line < rule_match.message.where.line)
    ):
        return None  # the engines kill their own process group when one of them has failed
    return Diagnosis(
        "A process was killed with signal 9 from outside: nothing in the engine does that while it "
        "starts or serves. Most "
        "often the host or the container ran out of main memory (loading weights, HiCache, a long "
        "prompt's text).",
        (
            "`dmesg | grep -i kill` on the host, or `docker inspect` (OOMKilled) and `kubectl "
            "describe pod`, say so",
            "give the container more memory, load from local disk instead of page cache, lower "
            "--hicache-size or "
            "--swap-space",
        ),
        Confidence.STRONG if outright else Confidence.LIKELY,
    )


KILLED = Rule(
    id="killed",
    means="A process was killed from outside, most often by the host's memory limit.",
    severity=Severity.ERROR,
    pattern=_KILLED,
    explain=_killed,
    sources=("vllm-project/vllm#3895", "vllm-project/vllm#20657"),
    general=True,
)


def _stopped_while_starting(server_state: ServerState) -> Diagnosis | None:
    stopped = server_state.stopped
    if stopped is None or server_state.ready is not None or server_state.died_itself:
        return None
    if (
        server_state.phase in (None, StartPhase.READY)
        or server_state.rates.lines
        or server_state.access_log.answered
    ):
        return None
    during = server_state.phase.value if server_state.phase is not None else "start"
    since = ""
    if server_state.first_at is not None and server_state.last_at is not None:
        since = f", {server_state.last_at - server_state.first_at:.0f} s after its first line"
    return Diagnosis(
        f"The server was told to stop (SIGTERM or Ctrl-C) while it still started ({during}){since}: "
        f"nothing in it failed. In "
        "Kubernetes a liveness or startup probe that is shorter than the start does that, again and again.",
        (
            "Kubernetes: a startupProbe on /health with failureThreshold x periodSeconds longer than "
            "the start takes (for "
            "large models 30 minutes: 180 x 10 s); liveness and readiness probes count from there on",
            "`kubectl describe pod` shows 'Liveness probe failed' or 'Startup probe failed', and who "
            "else ended it",
            "`farspan serve MODEL` shows every phase of a start beside its planned time (before one: --dry-run --json, "
            "planned_start_s); docker, systemd and CI have start timeouts of their own",
        ),
        Confidence.STRONG,
        evidence=Evidence(stopped.line, server_state.stop_text),
    )


STOPPED_WHILE_STARTING = StateRule(
    id="stopped-while-starting",
    means="A probe, or somebody, ended the server while it still started.",
    severity=Severity.ERROR,
    look=_stopped_while_starting,
    sources=("Kubernetes docs: startup probes", "vllm v1/engine/utils.py: wait_for_engine_startup"),
    only_unexplained=True,
)


def _stopped_unserved(server_state: ServerState) -> Diagnosis | None:
    ready, stopped = server_state.ready, server_state.stopped
    if ready is None or stopped is None or server_state.died_itself or stopped.line < ready.line:
        return None
    if "SIGTERM" not in server_state.stop_text:
        return None  # Ctrl-C, or a server that says no more than that it stopped
    served = server_state.access_log.answered or server_state.access_log.refused or server_state.rates.lines
    before, at = server_state.ready_at, stopped.at
    if served or (before is not None and at is not None and at - before > _SOON_S):
        return None
    after = (
        f" {at - before:.0f} s after its last line of the start"
        if before is not None and at is not None
        else ""
    )
    return Diagnosis(
        f"The server was ready and was told to stop (SIGTERM){after}, before it answered a single "
        f"request. The log does not say "
        "by whom: errors after that line are only its shutdown.",
        (
            "rootless podman or docker, or a user's systemd service: all of a user's processes end "
            "with the last login; "
            "`loginctl enable-linger USER` keeps them",
            "Kubernetes: `kubectl describe pod` (a probe on the wrong port or path, eviction, a new "
            "rollout); `docker events` for "
            "docker",
            "a script, CI job or ssh session that ended: start the server with nohup, tmux, or as a service",
        ),
        Confidence.STRONG,
        evidence=Evidence(stopped.line, server_state.stop_text),
    )


STOPPED_UNSERVED = StateRule(
    id="stopped-unserved",
    means="Somebody ended a server that was ready, before it had answered anything.",
    severity=Severity.ERROR,
    look=_stopped_unserved,
    sources=("systemd loginctl(1): enable-linger", "containers/podman troubleshooting.md"),
    only_unexplained=True,
)


def _start_unfinished(server_state: ServerState) -> Diagnosis | None:
    if not server_state.is_starting:
        return None
    if not server_state.args and not server_state.version:
        return None  # a few lines of a log, pasted: nobody says that it ends there
    during = server_state.phase.value if server_state.phase is not None else "start"
    return Diagnosis(
        f"The log ends during the start ({during}) with no error: the server is still starting, or "
        f"it was killed from "
        "outside (signal 9 leaves no line).",
        (
            "if the process is gone: `dmesg | grep -i kill`, `docker inspect` (OOMKilled, exit code "
            "137), `kubectl describe pod`",
            "a startup probe that is too short kills a server that only loads; `farspan serve` shows every phase of a "
            "start beside its planned time, and sets probes by it",
        ),
        Confidence.LIKELY,
        evidence=Evidence(server_state.last.line, f"the last line, during {during}"),
    )


START_UNFINISHED = StateRule(
    id="start-unfinished",
    means="The log ends in the middle of a start, without an error.",
    severity=Severity.WARNING,
    look=_start_unfinished,
    only_unexplained=True,
)

RULES: tuple[Rule | StateRule, ...] = (
    NO_GPU,
    known(
        "mig-device",
        "A MIG slice, or a GPU named by its UUID, is not understood.",
        r"invalid literal for int\(\) with base 10: '(?:MIG|GPU)-|invalid device UUID|"
        r"CUDA_VISIBLE_DEVICES.{0,60}MIG"
        r"|MIG .{0,60}not supported|nvmlDeviceGet\w+.{0,80}MIG",
        "CUDA_VISIBLE_DEVICES names a MIG slice (or a GPU) by its UUID, and this version reads it as "
        "a number; ranks cannot span "
        "MIG slices anyway, which have no peer-to-peer access.",
        "one slice a server, --tensor-parallel-size 1; docker: --gpus '\"device=0:0\"' lets the "
        "container see it as device 0",
        "a newer version of the engine reads UUIDs; or give the index: CUDA_VISIBLE_DEVICES=0",
        "for more memory than a slice has: switch MIG off on that GPU (nvidia-smi -mig 0, as administrator)",
        sources=("vllm-project/vllm#6551", "vllm platforms/cuda.py: device_id_to_physical_device_id"),
        confidence=Confidence.STRONG,
    ),
    known(
        "user-without-name",
        "The container runs under a user id that has no name.",
        r"getpwuid\(\): uid not found|No username set in the environment|I have no name!|cannot find "
        r"name for user ID",
        "The container runs under a user id that /etc/passwd does not list (OpenShift does that, and "
        "docker run --user): Python "
        "cannot tell the user's name, which cache folders are called by.",
        "set USER=vllm LOGNAME=vllm and HOME=/tmp in the environment (any name), and a writable HF_HOME",
        "or mount an /etc/passwd that has the id; OpenShift: an image made for arbitrary users",
        sources=("Python getpass.getuser", "vllm config/vllm.py", "OpenShift docs: arbitrary user IDs"),
    ),
    known(
        "disk-full",
        "A disk is full.",
        r"No space left on device|Disk quota exceeded|not enough free disk space to download",
        "A disk is full: the model cache, the compile cache, /tmp, or, for a file under /dev/shm, "
        "the shared memory.",
        "`df -h` inside the container shows which; mount a larger volume at HF_HOME",
        "for /dev/shm: docker run --shm-size 16g",
        sources=("huggingface/text-generation-inference#3087", "NVIDIA/Megatron-LM#878"),
    ),
    known(
        "read-only-cache",
        "The model cache is mounted read-only, and the engine writes into it.",
        r"\[Errno 30\] Read-only file system(?:: '(?P<path>[^']*)')?"
        r"|PermissionError: \[Errno 13\] Permission denied: '(?:[^']*(?:cache|huggingface|hub|triton|"
        r"flashinfer)[^']*|/\.[^']*)'"
        r"|There was a problem when trying to write in your cache folder",
        "The engine cannot write into its cache: given a hub id it writes lock files and metadata "
        "even when every file is there, "
        "and the cache is mounted read-only or belongs to another user.",
        "mount the cache writable: docker run -v ~/.cache/huggingface:/root/.cache/huggingface (no :ro)",
        "or give the snapshot's folder instead of the hub id: .../models--OWNER--NAME/snapshots/HASH",
        "or set HF_HOME to a writable folder, with HF_HUB_OFFLINE=1 when nothing may be fetched; "
        "compile caches follow HOME, "
        "VLLM_CACHE_ROOT, TRITON_CACHE_DIR and FLASHINFER_WORKSPACE_BASE",
        sources=(
            "huggingface/huggingface_hub#2797",
            "llm-d-incubation/llm-d-modelservice#243",
            "vllm-project/vllm#20127",
        ),
    ),
    known(
        "too-many-open-files",
        "The process may not open more files.",
        r"^\s*OSError: \[Errno 24\] Too many open files|accept\(\).*Too many open files|ZMQError: "
        r"Too many open files",
        "The process reached its limit of open files and connections.",
        "docker run --ulimit nofile=1048576:1048576, or ulimit -n 65536 before the start",
        sources=("vllm utils/system_utils.py: set_ulimit",),
    ),
    known(
        "fork-after-cuda",
        "A process that had used CUDA was forked.",
        r"Cannot re-initialize CUDA in forked subprocess",
        "CUDA was used before the engine's processes were forked, and a forked process cannot use it again.",
        "VLLM_WORKER_MULTIPROC_METHOD=spawn; in a script of your own, start the engine under if "
        "__name__ == '__main__':",
        "do not touch torch.cuda (also not device_count() of old versions) before the engine is made",
        sources=("vllm docs: troubleshooting, Python multiprocessing", "torch notes on CUDA multiprocessing"),
    ),
    KILLED,
    STOPPED_WHILE_STARTING,
    STOPPED_UNSERVED,
    START_UNFINISHED,
)
