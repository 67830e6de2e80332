"""What an engine is given as its model in each runtime, and what must be said before it looks for it."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from farspan.errors import InputError, NotFoundError
from farspan.launch.expected import DOWNLOAD_BYTES_PER_S
from farspan.launch.hubcache import CONTAINER_HOME, ModelFiles, find_model_files, has_token
from farspan.models.config import engine_model_name
from farspan.models.hub import is_hub_id
from farspan.sizes import GIB, format_seconds

# Owners on the Hugging Face hub all of whose models ask for a licence to be accepted first.
_GATED_OWNERS = frozenset({"meta-llama"})


def locate_model(
    model: str,
    runtime: str,
    environment: Mapping[str, str],
    *,
    model_path: str = "",
    revision: str = "main",
    volume: str = "",
    own_container: bool = False,
) -> ModelFiles:
    """Find what the engine is given as its model.

    Args:
        model: What is planned: a catalog name, a folder, or a hub id.
        runtime: "local", "docker" or "kubernetes".
        environment: This program's environment.
        model_path: What the engine is given, where that is not `model`.
        revision: Branch, tag or commit of a hub id.
        volume: Kubernetes: "pvc:NAME" or a folder of the machines, mounted in the pods; empty for none.
        own_container: Whether the container has files that farspan does not know of: an image or mounts of the user's.

    Raises:
        InputError: The engine would not find it there.
    """
    planned = engine_model_name(model)
    given = model_path or planned
    if runtime == "kubernetes":
        files = _in_cluster(planned, model_path, volume, own_container=own_container)
    elif (
        runtime == "docker" and own_container and model_path.startswith("/") and not Path(model_path).exists()
    ):
        files = ModelFiles(_api_name(planned), model_path, model_path)  # a path inside the user's own mounts
    else:
        files = find_model_files(given, environment, revision=revision, container=runtime == "docker")
    return replace(files, name=_api_name(planned)) if model_path else files


def describe_download(
    files: ModelFiles, weight_bytes: int, environment: Mapping[str, str], *, with_secret: bool = False
) -> tuple[str, ...]:
    """What to say before an engine downloads its model: how much, for how long, and what may stop it.

    Args:
        files: Where the model is.
        weight_bytes: Its weights.
        environment: This program's environment.
        with_secret: Whether pods get the token from a Secret.
    """
    if not files.downloads:
        return ()
    here = files.cache is not None
    where = f"is not in {files.cache}" if here else "is taken from the pods' volume when it is there"
    begin = "it will be downloaded first" if here else "else it is downloaded"
    took = format_seconds(weight_bytes / DOWNLOAD_BYTES_PER_S)
    said = [
        f"{files.outside} {where}: {begin}, {weight_bytes / GIB:,.0f} GiB, {took} at the "
        f"{DOWNLOAD_BYTES_PER_S / 1e6:.0f} MB/s assumed."
    ]
    if files.cache is not None and (free := _free_bytes(files.cache)) < weight_bytes:
        said.append(
            f"The disk of {files.cache} has {free / GIB:,.0f} GiB free, less than that: free some, or set HF_HOME."
        )
    owner = files.outside.partition("/")[0].lower()
    token = with_secret or (here and has_token(environment))
    if owner in _GATED_OWNERS and not token and not environment.get("HF_ENDPOINT"):
        how = "set HF_TOKEN" if here else "make a Secret and add --hf-secret NAME:KEY"
        said.append(
            f"{files.outside} is gated and there is no token: the download will be refused (401). Accept its licence "
            f"at https://huggingface.co/{files.outside}, then {how}."
        )
    return tuple(said)


def _in_cluster(planned: str, model_path: str, volume: str, *, own_container: bool) -> ModelFiles:
    """The model in pods, whose volume is mounted at `CONTAINER_HOME`."""
    if not model_path:
        if not is_hub_id(planned):
            raise InputError(
                f"{planned} is a folder of this machine",
                "give --model-path with its folder in the cluster's --volume",
            )
        return ModelFiles(planned, planned, planned, downloads=True)
    if is_hub_id(model_path):
        return ModelFiles(planned, model_path, model_path, downloads=True)
    name = _api_name(planned)
    inside = _translate(posixpath.normpath(model_path), volume)
    if inside is None:
        if not own_container:
            raise NotFoundError(
                f"--model-path {model_path} is not in the container, where "
                + (f"the volume is mounted at {CONTAINER_HOME}" if volume else "there is no volume"),
                "give the path inside the volume, without a slash in front"
                if volume
                else "name the volume that holds it with --volume",
            )
        inside = model_path
    return ModelFiles(name, inside, inside)


def _translate(path: str, volume: str) -> str | None:
    """A path as the container sees it, from a folder of the machine or a path inside the volume; None for neither."""
    if not volume:
        return None
    if not path.startswith("/"):
        return None if path.startswith("..") else f"{CONTAINER_HOME}/{path}"
    if path == CONTAINER_HOME or path.startswith(f"{CONTAINER_HOME}/"):
        return path
    host = posixpath.normpath(volume)
    if host.startswith("/") and (path == host or path.startswith(f"{host.rstrip('/')}/")):
        return posixpath.normpath(f"{CONTAINER_HOME}/{path[len(host) :]}")
    return None


def _api_name(planned: str) -> str:
    """What the API calls a model that is given by another path."""
    return planned if is_hub_id(planned) else Path(planned).name


def _free_bytes(folder: Path) -> int:
    """Bytes free on the disk of a folder, or of the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
