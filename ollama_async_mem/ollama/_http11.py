"""HTTP/1.1 as a client of Ollama needs it: requests to bytes, bytes to responses. Pure, no I/O.

Written for streams of many small chunks: Ollama's server sends one HTTP chunk for each token. What is read in one
piece is taken apart in one loop and given on in one piece. Framing follows RFC 9112; what could be read in two ways
is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from ollama_async_mem.errors import ProtocolError, StreamTruncated

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Body", "ChunkedBody", "HeadReader", "ResponseHead", "body_of", "header_lines", "parse_head", "request_line"]

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
MAX_INTERIM_HEADS = 16
MAX_CHUNK_LINE_BYTES = 4 * 1024
MAX_TRAILER_BYTES = 16 * 1024
_INTERIM = range(100, 200)
_SWITCHING_PROTOCOLS = 101
_NO_BODY = frozenset({204, 304})
_HEX = frozenset(b"0123456789abcdefABCDEF")
_MOST_DIGITS = 16
_VERSION = b"HTTP/1."
_STATUS_LINE = re.compile("HTTP/1\\.([01]) ([1-9][0-9][0-9])(?: [^\r\n\0]*)?")
_NAME = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE_MARKS = re.compile("[\r\n\0]")


class ResponseHead:
    """Status and headers of a response; header names are in lower case."""

    __slots__ = ("_joined", "headers", "keep_alive", "minor_version", "status")

    def __init__(self, status: int, headers: list[tuple[str, str]], minor_version: int) -> None:
        self.status = status
        self.headers = headers
        self.minor_version = minor_version
        self._joined: dict[str, str] = {}
        for name, value in headers:
            self._joined[name] = f"{self._joined[name]}, {value}" if name in self._joined else value
        self.keep_alive = self._keeps_alive()

    def _keeps_alive(self) -> bool:
        connection = self._joined.get("connection")
        if connection is None:
            return self.minor_version > 0
        tokens = {token.strip().lower() for token in connection.split(",")}
        return "close" not in tokens and (self.minor_version > 0 or "keep-alive" in tokens)

    def get(self, name: str) -> str | None:
        """The value of a header, several joined by commas; None where it is absent."""
        return self._joined.get(name)


def request_line(method: str, target: str) -> bytes:
    """Write the first line of a request.

    Raises:
        ProtocolError: the target holds what would end it.
    """
    if not target.isascii() or not target.isprintable() or " " in target:
        raise ProtocolError(f"a request target holds what does not belong there: {target[:80]!r}")
    return f"{method} {target} HTTP/1.1\r\n".encode()


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Write header lines, each with its end.

    Raises:
        ProtocolError: a name or value holds what would end its line.
    """
    lines = []
    for name, value in headers:
        if not _NAME.fullmatch(name) or _LINE_MARKS.search(value):
            raise ProtocolError(f"a request header holds what does not belong there: {name[:80]!r}")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1", errors="replace")


def parse_head(data: bytes) -> ResponseHead:
    """Read the head of a response, without the empty line that ends it.

    Raises:
        ProtocolError: it is not an HTTP/1 response.
    """
    first, *lines = data.decode("latin-1").split("\r\n")
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is None:
        raise _not_http(data)
    if len(lines) > MAX_HEADERS:
        raise ProtocolError(f"the server sent more than {MAX_HEADERS} headers")
    return ResponseHead(int(status_line[2]), [_header(line) for line in lines], int(status_line[1]))


@lru_cache(maxsize=64)  # most lines of an answer are those of the answer before
def _header(line: str) -> tuple[str, str]:
    """Take a header line apart; a folded one (RFC 9112, section 5.2) has no name of its own."""
    name, colon, value = line.partition(":")
    if not colon or not _NAME.fullmatch(name) or _LINE_MARKS.search(value):
        raise ProtocolError(f"the server sent a malformed header: {line[:80]!r}")
    return name.lower(), value.strip(" \t")


def _not_http(data: bytes) -> ProtocolError:
    return ProtocolError(f"the server does not speak HTTP/1.1: {data[:80]!r}")


class HeadReader:
    """Finds the final head in what a server sends; 1xx heads before it are skipped."""

    __slots__ = ("_data", "_interim", "rest")

    def __init__(self) -> None:
        self._data = b""
        self._interim = 0
        self.rest = b""
        """What was read beyond the end of the head."""

    @property
    def begun(self) -> bool:
        """Whether anything of an answer has come."""
        return bool(self._data or self._interim)

    def feed(self, data: bytes) -> ResponseHead | None:
        """Take bytes in; returns the final head once it is whole.

        Raises:
            ProtocolError: that is not HTTP, or more than a head may hold.
        """
        searched = max(len(self._data) - 3, 0)
        self._data = data = self._data + data if self._data else data
        while (end := data.find(b"\r\n\r\n", searched)) >= 0:
            if end > MAX_HEAD_BYTES:
                break
            head, data, searched = parse_head(data[:end]), data[end + 4 :], 0
            if head.status not in _INTERIM:
                self.rest = data
                return head
            self._skip(head)
            self._data = data
        self._check_beginning(data)
        return None

    def _skip(self, head: ResponseHead) -> None:
        self._interim += 1
        if head.status == _SWITCHING_PROTOCOLS or self._interim > MAX_INTERIM_HEADS:
            raise ProtocolError(f"the server sent status {head.status}, which nobody asked for")

    @staticmethod
    def _check_beginning(data: bytes) -> None:
        """Refuse at once what can no longer become a head, rather than to wait for its end."""
        if len(data) > MAX_HEAD_BYTES:
            raise ProtocolError(f"the server sent a head of more than {MAX_HEAD_BYTES:,} bytes")
        if data[: len(_VERSION)] != _VERSION[: len(data)] or data.count(b"\n") != data.count(b"\r\n"):
            raise _not_http(data)


class Body(Protocol):
    """Takes what was read and gives the payload in it; `done` is set at its end."""

    done: bool
    rest: bytes
    """What was read beyond the end."""
    broken: ProtocolError | None
    """Why nothing more can be read; what came before it was given."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes in, at least one; returns the payload they hold, maybe none."""
        ...

    def end(self) -> None:
        """Say that the connection was closed; raises StreamTruncated unless that ends this body."""
        ...


def body_of(method: str, head: ResponseHead) -> Body:
    """Choose the framing of a response's body (RFC 9112, section 6.3).

    Raises:
        ProtocolError: the head says two different things.
    """
    if method == "HEAD" or head.status in _NO_BODY:
        return LengthBody(0)
    encoding, length = head.get("transfer-encoding"), head.get("content-length")
    if encoding is not None:
        # Both at once, and any encoding of an HTTP/1.0 server, is how responses are smuggled (RFC 9112, section 11.2)
        if encoding.lower() != "chunked" or length is not None or not head.minor_version:
            raise ProtocolError(f"the server frames its answer in a way that is not read: {encoding[:80]!r}")
        return ChunkedBody()
    if length is None:
        head.keep_alive = False
        return UntilClose()
    return LengthBody(_length(length))


def _length(value: str) -> int:
    """Read a Content-Length; a list of equal values is one of them (RFC 9110, section 8.6)."""
    if value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS:
        return int(value)
    values = {part.strip(" \t") for part in value.split(",")}
    length = values.pop()
    if values or not (length.isascii() and length.isdigit()) or len(length) > _MOST_DIGITS:
        raise ProtocolError(f"the server sent a malformed content-length: {value[:80]!r}")
    return int(length)


class LengthBody:
    """A body of a known length."""

    __slots__ = ("_left", "broken", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.broken: ProtocolError | None = None
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

    __slots__ = ("broken", "done", "rest")

    def __init__(self) -> None:
        self.broken: ProtocolError | None = None
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

    __slots__ = ("_held", "_in_trailers", "_left", "_trailer_bytes", "broken", "done", "rest")

    def __init__(self) -> None:
        self._held = b""  # the beginning of a line whose end is not there yet
        self._left = 0  # bytes of the current chunk that are still to come, its line end included
        self._in_trailers = False
        self._trailer_bytes = 0
        self.broken: ProtocolError | None = None
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes in; returns the payload of the chunks they hold.

        Raises:
            ProtocolError: that is not a chunk. The good ones before it are given first.
        """
        parts: list[bytes] = []
        try:
            self._take(self._held + data if self._held else data, parts)
        except ProtocolError as exc:
            self.broken = exc
            if not parts:
                raise
        return b"".join(parts)

    def glance(self, data: bytes) -> bytes:
        """Return the payload of what is whole chunks and nothing else, of which `feed` is then not told; else b""."""
        if self._left or self._held or self._in_trailers:
            return b""
        eol = data.find(b"\r\n")
        if _SIZES.get(data[:eol]) == len(data) - eol - 4 and data.endswith(b"\r\n"):  # a single one, as mostly
            return data[eol + 2 : -2]
        parts: list[bytes] = []
        return b"".join(parts) if _whole_chunks(data, parts) == len(data) else b""

    def _take(self, data: bytes, parts: list[bytes]) -> None:
        self._held = b""
        position = self._rest_of_chunk(data, parts) if self._left else 0
        if not self._left and not self._in_trailers:
            position += _whole_chunks(data[position:] if position else data, parts)
        end = len(data)
        while position < end and not self._in_trailers:
            eol = data.find(b"\r\n", position)
            if eol < 0:
                self._hold(data[position:])
                return
            line = data[position:eol]
            size = _SIZES.get(line)
            if size is None:
                size = _chunk_size(line)
            position = eol + 2
            stop = position + size
            if size and stop + 2 <= end:  # all of it is here, as nearly always
                if not data.startswith(b"\r\n", stop):
                    raise _too_long()
                parts.append(data[position:stop])
                position = stop + 2
            elif size:
                self._left = size + 2
                position += self._rest_of_chunk(data[position:], parts)
            else:
                self._in_trailers = True
        if self._in_trailers and not self.done:
            self._trailers(data, position)

    def _rest_of_chunk(self, data: bytes, parts: list[bytes]) -> int:
        """Take what `data` has of the current chunk and its line end; returns how much that was."""
        taken = min(self._left, len(data))
        payload = max(min(self._left - 2, taken), 0)
        if payload:
            parts.append(data[:payload])
        left = self._left - taken
        if data[payload:taken] != b"\r\n"[max(2 - self._left, 0) : max(2 - left, 0)]:
            raise _too_long()
        self._left = left
        return taken

    def _trailers(self, data: bytes, position: int) -> None:
        while (eol := data.find(b"\r\n", position)) >= 0:
            self._trailer_bytes += eol + 2 - position
            if eol == position:
                self.done = True
                self.rest = data[eol + 2 :]
                return
            position = eol + 2
        self._held = data[position:]
        if self._trailer_bytes + len(self._held) > MAX_TRAILER_BYTES:
            raise ProtocolError("the server sent more trailers than are read")

    def _hold(self, line: bytes) -> None:
        """Keep the beginning of a chunk's first line."""
        if len(line) > MAX_CHUNK_LINE_BYTES or line[0] not in _HEX:
            raise _malformed_size(line)
        self._held = line

    def end(self) -> None:
        """Refuse the end: more was promised."""
        raise self.broken or StreamTruncated("the connection was closed in the middle of the answer")


def _whole_chunks(data: bytes, parts: list[bytes]) -> int:
    """Take the chunks at the beginning of `data` at one stroke; returns how many bytes they were, 0 if that fails.

    Cut at each line end, sizes and payloads take turns. Where each payload is as long as its size says, reading one
    chunk after the other would find the same; where not (a line end within a payload, the last chunk), it has to.
    """
    lines = data.split(b"\r\n")
    open_line = lines.pop()
    payloads = lines[1::2]
    if b"" in payloads or [_SIZES.get(line) for line in lines[: 2 * len(payloads) : 2]] != list(map(len, payloads)):
        return 0
    parts += payloads
    open_size = len(lines[-1]) + 2 if len(lines) % 2 else 0
    return len(data) - len(open_line) - open_size


def _too_long() -> ProtocolError:
    return ProtocolError("the server sent a chunk that is longer than it said")


def _malformed_size(line: bytes) -> ProtocolError:
    return ProtocolError(f"the server sent a malformed chunk size: {line[:40]!r}")


# Sizes that have been read and checked before: a stream repeats a few dozen of them.
_SIZES: dict[bytes, int] = {}
_MOST_SIZES = 1024


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].rstrip(b" \t")
    if len(line) > MAX_CHUNK_LINE_BYTES or not 0 < len(digits) <= _MOST_DIGITS or not _HEX.issuperset(digits):
        raise _malformed_size(line)
    if b"\n" in line or b"\r" in line:  # some take it for the line's end
        raise _malformed_size(line)
    size = int(digits, 16)
    if len(_SIZES) < _MOST_SIZES and line == digits:
        _SIZES[line] = size
    return size
