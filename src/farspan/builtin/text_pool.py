"""Reads what clients send in processes of its own, so that the server answers others meanwhile, whatever it is.

A text of 60 MB is tokenized for a minute, a checkpoint's chat template may never end, and a tokenizer's pattern may
take forever on a text made for it: none of that may hold up the event loop, or a shutdown.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import socket
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from farspan.builtin.bodies import ReceivedBody
from farspan.builtin.child_process import start_process
from farspan.builtin.text_jobs import TextJob
from farspan.errors import FarspanError

_WORKERS = 3
_LIGHT_BYTES = 256 * 1024
_RETIRED_AFTER_BYTES = 8 * 2**20  # a process keeps the memory that a large text took
_PROCESSOR_S = 20.0  # and as much again for each MiB, see text_worker
# On the wall clock, in case a process waits for something that never comes.
_BASE_S = 600.0
_S_PER_MIB = 300.0
_END_S = 5.0
_OUT_OF_MEMORY = 413  # of the worker


class TextFailedError(FarspanError):
    """A request's text could not be read; `status` is the HTTP status that says so."""

    def __init__(self, status: int, kind: str, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.status = status
        self.kind = kind


class ReadText:
    """What came of a body: the request's parameters, and its token ids or the finished answer.

    Attributes:
        fields: The parameters, without the text.
    """

    def __init__(self, fields: dict[str, Any], content: mmap.mmap, start: int) -> None:
        self.fields = fields
        self._content = content
        self._start = start

    def token_ids(self) -> NDArray[np.int32]:
        """Return the token ids, int32 [tokens]."""
        return np.frombuffer(self._content, np.uint8, offset=self._start).copy().view(np.int32)

    def pieces(self, size: int = 2**18) -> list[memoryview]:
        """Return the answer in pieces that are each soon sent."""
        view = memoryview(self._content)[self._start :]
        return [view[at : at + size] for at in range(0, len(view), size)]


class TextPool:
    """A few processes that read bodies. At most all but one of them are busy with large bodies and templates.

    Args:
        folder: The checkpoint, for its tokenizer and chat template.
        vocab_size: Token ids are below it.
        max_model_len: Longest prompt plus output, in tokens.
        limit: The most bytes of a body.
        processor_s: Processor time that a small body may take.
    """

    def __init__(
        self,
        folder: Path,
        vocab_size: int,
        max_model_len: int,
        limit: int,
        *,
        processor_s: float = _PROCESSOR_S,
    ) -> None:
        self._arguments = (str(folder), *map(str, (vocab_size, max_model_len, limit, processor_s)))
        self._idle: list[_TextWorker] = []
        self._all: list[_TextWorker] = []
        self._free = asyncio.Semaphore(_WORKERS)
        self._free_for_heavy = asyncio.Semaphore(_WORKERS - 1)
        self._closed = False

    def start(self) -> None:
        """Start the first process, so that the first request need not wait for it."""
        worker = _TextWorker(self._arguments)
        self._all.append(worker)
        self._idle.append(worker)

    def close(self) -> None:
        """End all processes at once, whatever they do."""
        self._closed = True
        for worker in self._all:
            worker.kill()
        for worker in self._all:
            worker.process.wait()
        self._all.clear()
        self._idle.clear()

    async def run(self, job: TextJob, body: ReceivedBody) -> ReadText:
        """Do a job on a body. When this is cancelled the process that does it is ended.

        Raises:
            TextFailedError: The body is not what its route takes, or could not be read.
        """
        async with AsyncExitStack() as stack:
            # Templates come with the checkpoint and may never end: short texts go on beside them.
            if job is TextJob.CHAT or body.size > _LIGHT_BYTES:
                await stack.enter_async_context(self._free_for_heavy)
            await stack.enter_async_context(self._free)
            if self._closed:
                raise TextFailedError(503, "server_error", "the server is stopping")
            worker = self._idle.pop() if self._idle else await self._new()
            try:
                async with asyncio.timeout(_BASE_S + _S_PER_MIB * body.size / 2**20):
                    reply = await worker.ask(job, body)
            except TimeoutError:
                self._end(worker)
                raise _too_long() from None
            except BaseException:
                self._end(worker)
                raise
            header, content = _open_reply(reply)
            # A text that is refused is no fault of the process, which goes on; it takes a second to start one.
            if body.size > _RETIRED_AFTER_BYTES or header["status"] == _OUT_OF_MEMORY:
                self._end(worker)
            else:
                self._idle.append(worker)
            if header["status"] != 200:
                raise TextFailedError(header["status"], header["type"], header["message"])
            return ReadText(header["fields"], reply, content)

    def _end(self, worker: _TextWorker) -> None:
        """End a process; the memory it had may take a while to be taken down, which is waited for in a thread."""
        worker.kill()
        if worker in self._all:  # else the server ends, and waits itself
            self._all.remove(worker)
        asyncio.get_running_loop().run_in_executor(None, worker.process.wait)

    async def _new(self) -> _TextWorker:
        """Start a process, in a thread: on a busy machine it is a while until the kernel has it run."""
        starting = asyncio.ensure_future(asyncio.to_thread(_TextWorker, self._arguments))
        try:
            worker = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(lambda started: self._end(started.result()))
            raise
        if self._closed:
            self._end(worker)
            raise TextFailedError(503, "server_error", "the server is stopping")
        self._all.append(worker)
        return worker


class _TextWorker:
    """One process and the socket to it."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self._socket, self.process = start_process(
            "farspan.builtin.text_worker", socket.SOCK_SEQPACKET, arguments
        )
        self._socket.setblocking(False)

    async def ask(self, job: TextJob, body: ReceivedBody) -> mmap.mmap:
        """Return the reply file's content.

        Raises:
            TextFailedError: The process died.
        """
        reply = os.memfd_create("farspan-reply", os.MFD_CLOEXEC)
        try:
            try:
                socket.send_fds(self._socket, [job.encode()], [body.fd, reply])
                answer = await asyncio.get_running_loop().sock_recv(self._socket, 1)
            except OSError:
                answer = b""
            if not answer:
                if await self._ended_by() == signal.SIGXCPU:
                    raise _too_long()
                raise TextFailedError(
                    500, "internal_error", "the process that read the text died", "look at the server's log"
                )
            return mmap.mmap(reply, 0, prot=mmap.PROT_READ)
        finally:
            os.close(reply)

    async def _ended_by(self) -> int:
        """Return the signal that ended the process, 0 for none."""
        try:
            return -await asyncio.to_thread(self.process.wait, _END_S)
        except subprocess.TimeoutExpired:
            return 0

    def kill(self) -> None:
        self.process.kill()
        self._socket.close()


def _too_long() -> TextFailedError:
    return TextFailedError(500, "internal_error", "the text took too long to read")


def _open_reply(reply: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Return a reply's header, and where its payload begins."""
    length = int.from_bytes(reply[:8], "little")
    return orjson.loads(reply[8 : 8 + length]), 8 + length
