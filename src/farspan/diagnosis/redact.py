"""Taking out of a log what must not be pasted in public: secrets, hosts, paths, names of users, and what clients sent.

Both for one line of evidence and for a whole report. What is not known to be harmless goes: a version number is worth
keeping, an address is not.
"""

from __future__ import annotations

import re

from farspan.engines.logs.pattern import compile_pattern

_SECRETS = (
    (
        r"\b(?:hf_|sk-|gh[pousr]_|github_pat_|xox[abprs]-|AKIA|ASIA|AIza|nvapi-|glpat-|r8_)[A-Za-z0-9_-]{8,}",
        "<secret>",
    ),
    (r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*)?", "<secret>"),
    (
        r"(?i)((?:api[_-]?key|token|secret|password|passwd|pwd|authorization|credential)s?['\"]?"
        r"(?:\s{0,3}[=:]\s{0,3}\[?|\s))(?:(?:Bearer|Basic) )?(?:'[^']+'|\"[^\"]+\"|[^\s,'\"\])]{8,})",
        r"\1<secret>",
    ),
    (r"(?i)\b((?:Bearer|Basic) )[A-Za-z0-9+/=_.-]{8,}", r"\1<secret>"),
    (r"\b[A-Fa-f0-9]{32,}\b", "<id>"),
    (r"\b[A-Za-z0-9+/]{40,}={0,2}", "<secret>"),
)  # fmt: skip
_ADDRESSES = (
    (r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "<mail>"),
    (r"[a-z][a-z0-9+]{1,9}://[^\s'\"<>)\],]+", "<url>"),
    (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b", "<host>"),
    (r"\[?\b(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{0,4}\]?(?::\d{1,5})?", "<host>"),
    (
        r"\b(?:[a-z0-9-]{1,60}\.){1,6}"
        r"(?:com|net|org|io|ai|dev|cloud|internal|local|lan|corp|svc|cn|de|eu|edu|gov|co)\b(?::\d{1,5})?",
        "<host>",
    ),
)  # fmt: skip
_KEPT_URLS = (
    "https://huggingface.co",
    "https://docs.nvidia.com",
    "https://github.com",
    "https://errors.pydantic.dev",
)
_PATH = compile_pattern(r"(^|[\s'\"=(:,\[{`])((?:[A-Za-z]:\\|~?/)(?:[\w.@+~%=-]+[/\\])*[\w.@+~%=-]+/?)")
_PACKAGE = compile_pattern(
    r"(?:site|dist)-packages/(.+)$|/(sglang/(?:srt|python)/.+)$|/(python3\.\d+/\w+\.py)$"
)
_SYSTEM = (
    "/usr/local/cuda",
    "/usr/lib/",
    "/lib/",
    "/dev/shm",
    "/dev/nvidia",
    "/dev/kfd",
    "/dev/dri",
    "/bin/",
    "/proc/",
)
_CLIENT = compile_pattern(
    r"Received request|Generated response|Receive: obj=|Finish: obj=|prompt_token_ids|Dumping (?:input|"
    r"scheduler)|prompt=|"
    r"prompt: |'messages'|\"messages\"|messages=|input_ids|'content':|\"content\":|\"prompt\":|'prompt':|"
    r"output_text|text='"
)
_RUNTIME = compile_pattern(
    r"^(?:\[(?:pod/)?[^\]\s]+/[^\]\s]+\]\s+)?(?:[\w.-]+\s+\|\s)?"
    r"(?:([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) \S+ ([\w./@-]+\[\d+\]: ))?"
)
_ENDPOINTS = compile_pattern(
    r"^/(?:v\d|health|ping|metrics|version|generate|server_info|get_\w+|tokenize|detokenize|flush_cache)\b"
)
_HOST_OF_USER = compile_pattern(
    r"\b(user(?:name)?|host(?:name)?|node)(['\"]?\s{0,3}[=:]\s{0,3}['\"]?)[\w.-]+"
)
_COMPILED = tuple((compile_pattern(pattern), put) for pattern, put in (*_SECRETS, *_ADDRESSES))


def redact(line: str) -> str:
    """One line without secrets, hosts, paths, user names, or what a client sent."""
    line = _RUNTIME.sub(r"\1 \2", line, 1).lstrip() if not line.startswith(" ") else line
    client = _CLIENT.search(line)
    if client is not None:
        return f"{redact(line[: client.start()])}{client[0]}<what a client sent>"
    for pattern, put in _COMPILED:
        line = pattern.sub(_url if put == "<url>" else put, line)
    line = _HOST_OF_USER.sub(r"\1\2<name>", line)
    return _PATH.sub(_path, line)


def _url(match: re.Match[str]) -> str:
    kept = next((url for url in _KEPT_URLS if match[0].startswith(url)), None)
    return "<url>" if kept is None else f"{kept}/..." if len(match[0]) > len(kept) + 1 else kept


def _path(match: re.Match[str]) -> str:
    before, path = match[1], match[2]
    package = _PACKAGE.search(path)
    if package is not None:
        return f"{before}.../{next(part for part in package.groups() if part)}"
    if path.startswith(_SYSTEM) or _ENDPOINTS.search(path):
        return match[0]
    return f"{before}<path>"
