"""What the user wants served."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from farspan.engines.engine import Engine
from farspan.models.spec import KvDtype


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the user wants served.

    Args:
        model: A catalog name, a folder, a config.json or a hub id.
        engine: The engine.
        runtime: "local", "docker" or "kubernetes".
        context: Longest request, prompt and answer together, in tokens; None for the model's.
        longest: Serve the longest context that fits at that concurrency, in place of `context`.
        gpus: GPUs of one machine as in `farspan plan`; "none" for a CPU.
        tp: Tensor-parallel size; None for all GPUs of all machines.
        nodes: Machines.
        node_rank: Which machine this is.
        head: Address of the first machine.
        distributed: "mp" or "ray".
        concurrency: Requests of that length at once.
        output_tokens: Tokens of an answer.
        kv_dtype: Type of the KV cache.
        weights: Plan as if the weights were kept so.
        engine_version: Empty for the installed one (local), else the newest one planned.
        accept_nearest_version: Plan an unknown version as the nearest.
        elastic: Whether the KV cache takes memory as requests come.
        words: The engine's own flags.
        force: Start although the flags break the plan.
        name: The server's name; empty for one made of model and engine.
        host: Where it listens on this machine.
        port: Port; 0 for a free one.
        served_model_name: What the API calls the model; empty for its own name.
        api_key_env: Environment variable that holds the API key; empty for no key.
        cluster_key: Whether a Kubernetes Secret holds the API key.
        service_type: Type of the Kubernetes Service.
        image: The image; empty for the engine's of that version.
        model_path: What the engine is given as its model, where that is not MODEL.
        revision: Branch, tag or commit of a hub id.
        python: The Python that has the engine (local); empty for this one.
        disk_bytes_per_s: How fast weights are read, bytes/s; 0 for the default.
        offline: Never ask the hub for a config.
        no_calibration: Leave out what was calibrated on this machine.
        volume: Kubernetes: where models are kept: "pvc:NAME" or a folder of the machines; empty for the pod's disk.
        hf_secret: Whether a Kubernetes Secret holds HF_TOKEN.
        own_mounts: Whether the user mounts folders of their own into the container.
        environment: This program's environment.
    """

    model: str
    engine: Engine
    runtime: str
    context: int | None = None
    longest: bool = False
    gpus: str = "detect"
    tp: int | None = None
    nodes: int = 1
    node_rank: int = 0
    head: str = ""
    distributed: str = "mp"
    concurrency: int = 1
    output_tokens: int = 200
    kv_dtype: KvDtype = KvDtype.AUTO
    weights: str = ""
    engine_version: str = ""
    accept_nearest_version: bool = False
    elastic: bool = False
    words: tuple[str, ...] = ()
    force: bool = False
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str = ""
    api_key_env: str = ""
    cluster_key: bool = False
    service_type: str = "ClusterIP"
    image: str = ""
    model_path: str = ""
    revision: str = "main"
    python: str = ""
    disk_bytes_per_s: float = 0.0
    offline: bool = False
    no_calibration: bool = False
    ignore_fields: tuple[str, ...] = ()
    rope_scaling: str = ""
    volume: str = ""
    hf_secret: bool = False
    own_mounts: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
