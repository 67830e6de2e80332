"""Ranks and nodes that must find each other: NCCL, Gloo, the rendezvous, ports, shared memory, Ray."""

from __future__ import annotations

import ipaddress

from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, known
from farspan.engines.logs.server_state import ServerState

_RENDEZVOUS = compile_pattern(
    r"(?:DistNetworkError|DistStoreError|[Tt]imed out after .{0,60}waiting for clients|The client "
    r"socket has (?:timed out|failed)"
    r"|TCPStore.{0,80}[Tt]imed? ?out)"
    r"(?:.{0,200}?(?:connect to|address) \(?\[?(?P<address>[\d.]+|localhost)\]?[,:] ?(?P<port>\d+))?"
)


def _rendezvous(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    address = rule_match.match["address"] or ""
    several = max(server_state.number("nnodes", "node_rank", "data_parallel_size") or 0, 0) > 1 or bool(
        server_state.text("dist_init_addr", "data_parallel_address", "master_addr")
    )
    if address and not several:
        bridge = _is_docker_bridge(address)
        return Diagnosis(
            f"The ranks of this one host meet at {address}:{rule_match.match['port']}, the address "
            f"the engine took for the host's"
            f"{' (one of a container bridge)' if bridge else ''}, and cannot reach it: the wrong "
            f"network interface was chosen, "
            "or a proxy or firewall stands between.",
            (
                "VLLM_HOST_IP=127.0.0.1 for one host (SGLang: --dist-init-addr 127.0.0.1:PORT), or "
                "the address the ranks do reach",
                "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the interface (lo, eth0); docker: "
                "--network host avoids the "
                "bridge",
                "unset http_proxy for local addresses (no_proxy=127.0.0.1,localhost)",
            ),
            Confidence.STRONG,
        )
    return Diagnosis(
        "The processes of this server did not all reach the rendezvous: a node was not started, or "
        "its address or port "
        "cannot be reached.",
        (
            "start every node with the same --dist-init-addr (SGLang) or head address (vLLM), and "
            "--node-rank of its own",
            "open that port between the nodes; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the "
            "interface, VLLM_HOST_IP the "
            "node's own address",
        ),
        Confidence.STRONG,
    )


def _is_docker_bridge(address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network("172.16.0.0/12")
    except ValueError:
        return False


RENDEZVOUS = Rule(
    id="rendezvous-timeout",
    means="The ranks or nodes did not find each other.",
    severity=Severity.ERROR,
    pattern=_RENDEZVOUS,
    explain=_rendezvous,
    sources=("sgl-project/sglang#3932", "torch distributed/rendezvous.py"),
)

RULES: tuple[Rule, ...] = (
    RENDEZVOUS,
    known(
        "nccl-cuda-error",
        "NCCL could not use one of the GPUs.",
        r"unhandled cuda error|ncclUnhandledCudaError|NCCL WARN Cuda failure|NCCL error:? unhandled cuda",
        "NCCL asked CUDA for something that a GPU, the driver or the container refused: peer-to-peer "
        "access between these "
        "GPUs, a driver older than NCCL's CUDA, no memory left, or a GPU another process has locked.",
        "NCCL_DEBUG=INFO makes the next run print the CUDA call that failed, in a line with 'NCCL WARN'",
        "NCCL_P2P_DISABLE=1 where that line speaks of peer access or IPC (consumer GPUs, virtual "
        "machines, IOMMU on)",
        "update the driver to the CUDA of the image, or take an image of the driver's CUDA; "
        "`nvidia-smi topo -m` shows how the "
        "GPUs are connected",
        "docker run --ipc=host (or --shm-size 16g)",
        sources=("vllm-project/vllm#26257", "NVIDIA/nccl docs: troubleshooting"),
        confidence=Confidence.STRONG,
    ),
    known(
        "nccl-duplicate-gpu",
        "Two ranks were given the same GPU.",
        r"Duplicate GPU detected|ncclInvalidUsage|NCCL error:? invalid usage",
        "NCCL found two ranks on one GPU: more ranks than GPUs on a node, or every rank sees the "
        "same CUDA_VISIBLE_DEVICES.",
        "as many GPUs a node as ranks; let the engine set CUDA_VISIBLE_DEVICES of its workers itself",
        "Ray: the same number of GPUs on each node, and no CUDA_VISIBLE_DEVICES in the environment "
        "of `ray start`",
        sources=("NVIDIA/nccl init.cc", "vllm-project/vllm#11431"),
    ),
    known(
        "nccl-system-error",
        "NCCL could not set up its connections.",
        r"unhandled system error|ncclSystemError|NCCL_ERROR_SYSTEM_ERROR|ncclInternalError"
        r"|NCCL error:? (?:internal error)|[Bb]ootstrap ?: no socket interface found",
        "NCCL could not set up its connections between the ranks: most often too little shared "
        "memory, a network interface it "
        "must not use, or limits of the container.",
        "docker run --shm-size 16g --ulimit memlock=-1",
        "several nodes: NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the right interface",
        "NCCL_DEBUG=INFO makes the next run say which call failed",
        sources=("vllm-project/vllm#10626", "vllm-project/vllm#6574", "vllm-project/vllm#19613"),
        confidence=Confidence.LIKELY,
    ),
    known(
        "gloo-interface",
        "Gloo found no network interface, or one the others cannot reach.",
        r"[Gg]loo connectFullMesh failed|Unable to find (?:address for|interface)|"
        r"no address for interface"
        r"|ifa != nullptr",
        "Gloo, which carries the ranks' small messages, took a network interface that has no address "
        "the other ranks reach: a "
        "host name that resolves to 127.0.1.1, a bridge, or a name in GLOO_SOCKET_IFNAME that this "
        "host does not have.",
        "GLOO_SOCKET_IFNAME=eth0 (as `ip -br addr` names the interface with the node's address), and "
        "NCCL_SOCKET_IFNAME alike",
        "VLLM_HOST_IP must be this node's own address; the host name must resolve to it in /etc/hosts",
        "one host: GLOO_SOCKET_IFNAME=lo works",
        sources=("pytorch/gloo transport/tcp", "vllm-project/vllm#9460", "sgl-project/sglang#3516"),
        confidence=Confidence.STRONG,
    ),
    known(
        "peer-gone",
        "A rank lost its connection to another, which has ended.",
        (
            r"Connection (?:closed|reset) by peer|ncclRemoteError|remote process exited|store->get\('0'\) got error"
            r"|recvValue failed|Broken pipe.{0,60}TCPStore|Connection was likely closed"
        ),
        "A rank lost its connection to another one, which had ended before: this error is its consequence.",
        "look for the first error of the other rank, on every node: that is the reason",
        "no error anywhere: it was killed (dmesg -T, docker inspect), or a firewall cuts idle connections",
        sources=("pytorch/gloo transport/tcp/pair.cc", "NVIDIA/nccl docs: ncclRemoteError"),
        confidence=Confidence.STRONG,
        general=True,
    ),
    known(
        "nccl-timeout",
        "A collective operation did not finish: one rank is missing.",
        r"Watchdog caught collective operation timeout|Timed out waiting \d+ms for (?:recv|send) operation",
        "A collective operation waited until its timeout: one rank had died, hung, or was busy with "
        "something the others were "
        "not.",
        "look for the first error of another rank before this line: that is the reason",
        "where one step is really that long: --dist-timeout 3600 (SGLang), "
        "--distributed-timeout-seconds (vLLM)",
        sources=("sgl-project/sglang#3784", "sgl-project/sglang#3932"),
        confidence=Confidence.STRONG,
        general=True,
    ),
    known(
        "ray-placement",
        "Ray has no nodes or GPUs for the placement the engine asks for.",
        r"Cannot provide a placement group|No available node types can fulfill resource request|No "
        r"node in the .{0,40}cluster"
        r"|[Pp]lacement group .{0,40}(?:infeasible|cannot be)|The number of required GPUs exceeds "
        r"the total number of available GPUs"
        r"|current node has no GPU available|Every node should have a unique IP address",
        "Ray cannot place the ranks: the cluster has fewer free GPUs than ranks, or the address this "
        "node calls its own "
        "(VLLM_HOST_IP) is not the one Ray knows it by, so that the resource node:ADDRESS does not exist.",
        "set VLLM_HOST_IP on every node to the address `ray status` and `ray list nodes` show for "
        "it, before `ray start`",
        "`ray status` must show as many free GPUs as tensor x pipeline parallel ranks; ray start "
        "--num-gpus N where it counts wrong",
        "an old server's placement group may hold them: `ray list placement-groups`, ray stop on all nodes",
        sources=("vllm-project/vllm#12670", "vllm-project/vllm#13388", "vllm v1/executor/ray_utils.py"),
    ),
    known(
        "shared-memory-too-small",
        "The container's /dev/shm is too small for the ranks.",
        r"Error while (?:creating|attaching to) shared memory segment|Fatal Python error: Bus error|"
        r"\bBus error\b|SIGBUS received"
        r"|unable to (?:allocate|open) shared memory|exitcode -7\b|shm_open.{0,40}No space left|"
        r"/dev/shm has only \d+ bytes",
        "/dev/shm is too small: the ranks exchange data through it, and a container gets 64 MiB "
        "unless told otherwise.",
        "docker run --shm-size 16g (or --ipc=host)",
        "Kubernetes: an emptyDir with medium: Memory mounted at /dev/shm",
        sources=(
            "vllm-project/vllm#1771",
            "vllm-project/vllm#859",
            "MiniMax-AI/MiniMax-01#42",
            "NVIDIA/nccl#2190",
        ),
        confidence=Confidence.STRONG,
    ),
    known(
        "port-in-use",
        "Another process listens on that port.",
        r"(?i)address already in use|EADDRINUSE|port \d+ is (?:already )?(?:in use|not available|occupied)",
        "Another process already listens on the port: an earlier server that still ends, or one that was left.",
        "`ss -ltnp` shows who; end it, or choose another --port",
        "several servers on one host also need different --nccl-port or VLLM_PORT values",
        sources=("vllm-project/vllm#8638", "vllm-project/vllm#9225", "vllm-project/vllm#7514"),
    ),
)
