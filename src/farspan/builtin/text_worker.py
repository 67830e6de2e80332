"""`python -m farspan.builtin.text_worker`: the process in which the built-in server reads what clients send.

Started by `farspan.builtin.text_pool`; speaks to it over a socket. A message is a job's name with two files, the body
and an empty one for the reply; the answer is one byte. A job that takes too much processor time ends the process with
SIGXCPU. The reply file holds the length of a JSON header in 8 bytes,
the header, and the payload.
"""

from __future__ import annotations

import math
import mmap
import os
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from farspan.builtin.child_process import end_with_the_server, leave_signals_to_the_server
from farspan.builtin.server_tokenizer import ChatTokenizer
from farspan.builtin.text_jobs import TextJob, TextReply, TextWork
from farspan.errors import FarspanError
from farspan.models.template_deadline import TemplateTimeoutError

_BASE_BYTES = 2 * 2**30
_BYTES_PER_BODY_BYTE = 48  # a tokenizer keeps about 200 bytes a token of a text
_WRITE_BYTES = 2**30
_PROCESSOR_S_PER_MIB = 20.0
_START_PROCESSOR_S = 120.0  # reading the tokenizer and the template


def main() -> None:
    """Serve jobs until the server closes the socket."""
    descriptor, folder, vocab_size, max_model_len, limit, base_s = sys.argv[1:]
    end_with_the_server()
    leave_signals_to_the_server()
    most = _BASE_BYTES + _BYTES_PER_BODY_BYTE * int(limit)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # SIGXCPU would write one, with what clients sent
    allow_processor_time(_START_PROCESSOR_S)
    work = TextWork(ChatTokenizer(Path(folder)), int(vocab_size), int(max_model_len))
    with socket.socket(fileno=int(descriptor)) as connection:
        while True:
            message, files, _, _ = socket.recv_fds(connection, 64, 2)
            if not message or len(files) != 2:
                return
            body, reply = files
            try:
                allow_processor_time(float(base_s) + _PROCESSOR_S_PER_MIB * os.fstat(body).st_size / 2**20)
                _write(reply, *_answer(work, TextJob(message.decode()), body))
            finally:
                os.close(body)
                os.close(reply)
            connection.send(b"\n")


def allow_processor_time(seconds: float) -> None:
    """Let this process run for so long from now on, waiting not counted; then the kernel sends it SIGXCPU."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    until = math.ceil(time.process_time() + seconds)
    resource.setrlimit(
        resource.RLIMIT_CPU, (until if most == resource.RLIM_INFINITY else min(until, most), most)
    )


def _answer(work: TextWork, job: TextJob, body: int) -> tuple[dict[str, Any], memoryview]:
    """Return the header and the payload; an error becomes a header, whatever it was."""
    try:
        reply = _run(work, job, body)
    except FarspanError as error:
        return _error(400, "invalid_request_error", str(error))
    except MemoryError:
        return _error(413, "invalid_request_error", "the text takes more memory than it may")
    except TemplateTimeoutError as error:
        return _error(500, "internal_error", str(error))
    except BaseException as error:  # noqa: BLE001 a tokenizer in Rust panics with one that is not an Exception
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _error(500, "internal_error", f"the server failed on this request's text ({said})")
    payload = reply.payload
    if isinstance(payload, bytes):
        data = memoryview(payload)
    else:
        data = memoryview(np.ascontiguousarray(payload).view(np.uint8).data)
    return {"status": 200, "fields": reply.fields}, data


def _run(work: TextWork, job: TextJob, body: int) -> TextReply:
    size = os.fstat(body).st_size
    if not size:
        return work.run(job, memoryview(b""))
    with mmap.mmap(body, size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
        return work.run(job, view)


def _error(status: int, kind: str, message: str) -> tuple[dict[str, Any], memoryview]:
    return {"status": status, "type": kind, "message": message}, memoryview(b"")


def _write(reply: int, header: dict[str, Any], payload: memoryview) -> None:
    text = orjson.dumps(header)
    os.write(reply, len(text).to_bytes(8, "little") + text)
    for start in range(0, len(payload), _WRITE_BYTES):
        rest = payload[start : start + _WRITE_BYTES]
        while rest:
            rest = rest[os.write(reply, rest) :]


if __name__ == "__main__":
    main()
