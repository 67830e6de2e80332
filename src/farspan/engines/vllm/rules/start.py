"""vLLM's start: its command line."""

from __future__ import annotations

from farspan.engines.logs.rule import known

ENTRYPOINT_DOUBLED = known(
    "vllm-entrypoint-doubled",
    "The container's command repeats what its entrypoint already says.",
    (
        r"error: unrecognized arguments: (?:(?:.*?\s)?-m\s+vllm\.entrypoints|(?:vllm )?serve\b"
        r"|python3?\b|/bin/(?:ba)?sh\b)"
        r"|unrecognized arguments: .*\bvllm\.entrypoints\.openai\.api_server\b"
        r"|invalid choice: '(?:vllm|python3?)'"
    ),
    "The image's entrypoint already is `vllm serve` (older images: the API server), and the "
    "container's command "
    "repeats it: vLLM reads those words as arguments, and the container ends with code 2 within "
    "seconds.",
    "start the command with the model: docker run [OPTIONS] vllm/vllm-openai:TAG MODEL [FLAGS]",
    "or replace the entrypoint: docker run --entrypoint python3 IMAGE -m "
    "vllm.entrypoints.openai.api_server --model MODEL",
    sources=("vllm-project/vllm#22072", "vllm-project/vllm#37133", "observed on vllm 0.12.0"),
)

RULES = (ENTRYPOINT_DOUBLED,)
