"""A JSON file with its long strings cut short, for a streaming parser.

Such a parser goes back to the start of a string for every piece it reads of it: one prompt of 40 MB takes minutes.
Nothing of a prompt is needed here, and its bytes need no parser to be skipped.
"""

from __future__ import annotations

import re
from typing import BinaryIO

LONGEST = 16 * 2**10
_CHUNK = 2**20
# What a string holds: anything but a quote or a backslash, and escapes of two characters.
_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_HALF_ESCAPE = re.compile(rb"\\u[0-9a-fA-F]{0,3}\Z")


class ShortStrings:
    """Reads a JSON file; of every string in it the first `LONGEST` bytes, whole characters and whole escapes.

    Args:
        file: The file, open for reading bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ready = bytearray()
        self._rest = b""  # a backslash whose other half is still to come
        self._inside = False
        self._kept = (
            bytearray()
        )  # of the string that is being read, at most a byte more than may be passed on

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, fewer only at the end."""
        while size < 0 or len(self._ready) < size:
            chunk = self._file.read(_CHUNK)
            if not chunk:
                self._end_string()
                self._ready += self._rest
                self._rest = b""
                break
            self._take(self._rest + chunk)
        wanted = len(self._ready) if size < 0 else size
        data = bytes(self._ready[:wanted])
        del self._ready[:wanted]
        return data

    def _take(self, data: bytes) -> None:
        self._rest = b""
        at = 0
        while at < len(data):
            if not self._inside:
                quote = data.find(b'"', at)
                end = len(data) if quote < 0 else quote + 1
                self._ready += data[at:end]
                at, self._inside = end, quote >= 0
                continue
            match = _INSIDE.match(data, at)
            end = at if match is None else match.end()
            self._kept += data[at : min(end, at + LONGEST + 1 - len(self._kept))]
            if data[end : end + 1] == b'"':
                self._end_string()
                self._ready += b'"'
                self._inside = False
                end += 1
            elif end < len(data):
                self._rest = data[end:]
                return
            at = end

    def _end_string(self) -> None:
        """Pass on what was kept of a string, without the halves of a character or an escape."""
        kept = bytes(self._kept)
        if len(kept) > LONGEST:
            match = _INSIDE.match(kept[:LONGEST])
            whole = b"" if match is None else match[0]
            kept = _HALF_ESCAPE.sub(b"", whole).decode("utf-8", "ignore").encode()
        self._ready += kept
        self._kept.clear()
