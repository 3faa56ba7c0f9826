"""HTTP/1.1 as a client of Ollama needs it: requests to bytes, bytes to responses. Pure, no I/O.

Written for streams of many small chunks: Ollama's server sends one HTTP chunk for each token. What is read in one
piece is taken apart in one loop and given on in one piece. Framing follows RFC 9112; what could be read in two ways
is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from ollama_async_mem.errors import ProtocolError, StreamTruncated

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_HEAD_BYTES", "Body", "ResponseHead", "body_of", "header_lines", "parse_head"]

MAX_HEAD_BYTES = 64 * 1024
MAX_CHUNK_LINE_BYTES = 4 * 1024
MAX_TRAILER_BYTES = 16 * 1024
_NO_BODY = frozenset({204, 304})
_HEX = frozenset(b"0123456789abcdefABCDEF")
_MOST_DIGITS = 16


class ResponseHead:
    """Status and headers of a response; header names are in lower case."""

    __slots__ = ("headers", "keep_alive", "status")

    def __init__(self, status: int, headers: list[tuple[str, str]], *, keep_alive: bool) -> None:
        self.status = status
        self.headers = headers
        self.keep_alive = keep_alive

    def get(self, name: str) -> str | None:
        """The value of a header, several joined by commas; None where it is absent."""
        values = [value for key, value in self.headers if key == name]
        return ", ".join(values) if values else None


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Write header lines, each with its end.

    Raises:
        ProtocolError: a name or value holds what would end its line.
    """
    lines = [f"{name}: {value}" for name, value in headers]
    if any(mark in line for line in lines for mark in "\r\n\0"):
        raise ProtocolError("a request header holds a line break")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1", errors="replace")


def parse_head(data: bytes) -> ResponseHead:
    """Read the head of a response, without the empty line that ends it.

    Raises:
        ProtocolError: it is not an HTTP/1 response.
    """
    first, *lines = data.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if version not in {"HTTP/1.1", "HTTP/1.0"} or not re.fullmatch("[1-9][0-9][0-9]", status):
        raise ProtocolError(f"the server does not speak HTTP/1.1: {first[:80]!r}")
    headers = [_header(line) for line in lines]
    connection = {t.strip().lower() for name, value in headers if name == "connection" for t in value.split(",")}
    keep_alive = "close" not in connection and (version == "HTTP/1.1" or "keep-alive" in connection)
    return ResponseHead(int(status), headers, keep_alive=keep_alive)


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip() or "\n" in line or "\r" in line:
        raise ProtocolError(f"the server sent a malformed header: {line[:80]!r}")
    return name.lower(), value.strip(" \t")


class Body(Protocol):
    """Takes what was read and gives the payload in it; `done` is set at its end."""

    done: bool
    rest: bytes
    """What was read beyond the end."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes in; returns the payload they hold, maybe none."""
        ...

    def end(self) -> None:
        """Say that the connection was closed; raises StreamTruncated unless that ends this body."""
        ...


def body_of(method: str, head: ResponseHead) -> Body:
    """Choose the framing of a response's body (RFC 9112, section 6.3).

    Raises:
        ProtocolError: the head says two different things.
    """
    encoding, length = head.get("transfer-encoding"), head.get("content-length")
    if method == "HEAD" or head.status in _NO_BODY:
        return LengthBody(0)
    if encoding is not None:
        if encoding.lower() != "chunked" or length is not None:
            raise ProtocolError(f"the server frames its answer in a way that is not read: {encoding[:80]!r}")
        return ChunkedBody()
    if length is None:
        head.keep_alive = False
        return UntilClose()
    if not (length.isascii() and length.isdigit()):
        raise ProtocolError(f"the server sent a malformed content-length: {length[:80]!r}")
    return LengthBody(int(length))


class LengthBody:
    """A body of a known length."""

    __slots__ = ("_left", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes in; returns those of the body."""
        if len(data) > self._left:
            data, self.rest = data[: self._left], data[self._left :]
        self._left -= len(data)
        self.done = self._left == 0
        return data

    def end(self) -> None:
        """Refuse the end: more was promised."""
        raise StreamTruncated(f"the connection was closed {self._left:,} bytes before the end of the answer")


class UntilClose:
    """A body that ends with its connection, as HTTP/1.0 has it."""

    __slots__ = ("done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes in; all are of the body."""
        return data

    def end(self) -> None:
        """Take the end of the connection for that of the body."""
        self.done = True


class ChunkedBody:
    """A body in chunks (RFC 9112, section 7.1); extensions are skipped, trailers are dropped."""

    __slots__ = ("_held", "_in_trailers", "_left", "_trailer_bytes", "done", "rest")

    def __init__(self) -> None:
        self._held = b""  # the beginning of a line whose end is not there yet
        self._left = 0  # bytes of the current chunk that are still to come, its line end included
        self._in_trailers = False
        self._trailer_bytes = 0
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes in; returns the payload of the chunks they hold."""
        if self._held:
            data, self._held = self._held + data, b""
        parts: list[bytes] = []
        position = self._rest_of_chunk(data, parts) if self._left else 0
        end = len(data)
        while position < end and not self._in_trailers:
            eol = data.find(b"\r\n", position)
            if eol < 0:
                self._hold(data[position:])
                break
            line = data[position:eol]
            size = _SIZES.get(line)
            if size is None:
                size = _chunk_size(line)
            position = eol + 2
            stop = position + size
            if size and stop + 2 <= end:  # all of it is here, as nearly always
                if not data.startswith(b"\r\n", stop):
                    raise ProtocolError("the server sent a chunk that is longer than it said")
                parts.append(data[position:stop])
                position = stop + 2
            elif size:
                self._left = size + 2
                position += self._rest_of_chunk(data[position:], parts)
            else:
                self._in_trailers = True
        if self._in_trailers and not self.done:
            self._trailers(data, position)
        return b"".join(parts)

    def _rest_of_chunk(self, data: bytes, parts: list[bytes]) -> int:
        """Take what `data` has of the current chunk and its line end; returns how much that was."""
        taken = min(self._left, len(data))
        payload = max(min(self._left - 2, taken), 0)
        parts.append(data[:payload])
        left = self._left - taken
        if data[payload:taken] != b"\r\n"[max(2 - self._left, 0) : max(2 - left, 0)]:
            raise ProtocolError("the server sent a chunk that is longer than it said")
        self._left = left
        return taken

    def _trailers(self, data: bytes, position: int) -> None:
        while (eol := data.find(b"\r\n", position)) >= 0:
            self._trailer_bytes += eol - position
            if eol == position:
                self.done = True
                self.rest = data[eol + 2 :]
                return
            position = eol + 2
        self._hold(data[position:])
        if self._trailer_bytes + len(self._held) > MAX_TRAILER_BYTES:
            raise ProtocolError("the server sent more trailers than are read")

    def _hold(self, line: bytes) -> None:
        if len(line) > MAX_CHUNK_LINE_BYTES and not self._in_trailers:
            raise ProtocolError(f"the server sent a malformed chunk size: {line[:40]!r}")
        self._held = line

    def end(self) -> None:
        """Refuse the end: more was promised."""
        raise StreamTruncated("the connection was closed in the middle of the answer")


# Sizes that have been read and checked before: a stream repeats a few dozen of them.
_SIZES: dict[bytes, int] = {}
_MOST_SIZES = 1024


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].rstrip(b" \t")
    if len(line) > MAX_CHUNK_LINE_BYTES or not 0 < len(digits) <= _MOST_DIGITS or not _HEX.issuperset(digits):
        raise ProtocolError(f"the server sent a malformed chunk size: {line[:40]!r}")
    size = int(digits, 16)
    if len(_SIZES) < _MOST_SIZES and line == digits:
        _SIZES[line] = size
    return size
