"""Bytes in, typed chunks out. No I/O.

A line ends at the byte 0x0A and nowhere else: text may hold U+0085 and U+2028 unescaped. Whole lines go to
one reused msgspec decoder; chunks before a bad line are given out before it is reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from ollama_async_mem.errors import ProtocolError

from ._decode import UNREADABLE, decode_line

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_LINE_BYTES", "NDJSONDecoder"]

T = TypeVar("T")
MAX_LINE_BYTES = 16 * 1024 * 1024
"""Twice what Ollama's own client allows (api/client.go, maxBufferSize)."""


class NDJSONDecoder(Generic[T]):
    """Decodes a stream of JSON lines into `type_`, however the bytes are torn."""

    def __init__(self, type_: type[T], *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._decoder = msgspec.json.Decoder(type_)
        self._max = max_line_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._blank = 0

    def feed(self, data: bytes) -> Iterator[T]:
        """Take bytes in and yield the chunks that are complete.

        Raises:
            ProtocolError: a line is not JSON of this type, or longer than the limit; or nothing but blanks comes.
        """
        end = data.rfind(b"\n") + 1
        if end:
            block = b"".join((*self._parts, data[:end])) if self._parts else data[:end]
            self._parts.clear()
            self._size = 0
            yield from self._lines(block)
        if end < len(data):
            self._keep(data[end:] if end else data)

    def flush(self) -> Iterator[T]:
        """Yield the last chunk where the stream ended without a newline."""
        rest = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        yield from self._lines(rest)

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._max:
            raise ProtocolError(f"the server sent a line of more than {self._max:,} bytes")
        self._parts.append(data)

    def _lines(self, block: bytes) -> Iterator[T]:
        try:
            chunks = self._decoder.decode_lines(block)
        except UNREADABLE:
            for line in block.split(b"\n"):
                if line.strip():
                    yield decode_line(line, self._decoder)
        else:
            if not chunks:
                self._skip(block)
            yield from chunks

    def _skip(self, blank: bytes) -> None:
        """Pass over blank lines, which keep a connection alive; not for ever."""
        self._blank += len(blank)
        if self._blank > self._max:
            raise ProtocolError(f"the server sent more than {self._max:,} bytes of blank lines")
