"""Container images, pinned by version, and what starts the server inside them."""

from __future__ import annotations

from farspan.errors import InputError

# One known pair; newer ones by --engine-version. The runtime image of SGLang is half the size of the other one
# (sgl-project/sglang#13861).
DEFAULT_VERSIONS = {"vllm": "0.12.0", "sglang": "0.5.6.post2"}
_IMAGES = {"vllm": "vllm/vllm-openai:v{version}", "sglang": "lmsysorg/sglang:v{version}-runtime"}


def engine_image(engine: str, version: str) -> str:
    """The public image of an engine's release.

    Raises:
        InputError: The engine has no public image.
    """
    if engine not in _IMAGES:
        raise InputError(
            f"there is no public image of the {engine} engine",
            "use --runtime local, or name one with --image",
        )
    return _IMAGES[engine].format(version=version)


def image_program(engine: str) -> tuple[str, ...]:
    """The program that starts a server inside an image; its entrypoint is always replaced by this.

    Entrypoints differ: vllm/vllm-openai has `vllm serve` now and had `python3 -m
    vllm.entrypoints.openai.api_server` before, so that the same arguments mean different things; SGLang's image
    runs whatever it is given, and its runtime image has no `sglang` program (sgl-project/sglang#26897). The
    programs named here are in every version.
    """
    return {
        "vllm": ("vllm", "serve"),
        "sglang": ("python3", "-m", "sglang.launch_server"),
        "builtin": ("python3", "-m", "farspan.builtin"),
    }[engine]
