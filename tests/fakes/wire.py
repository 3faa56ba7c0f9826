"""HTTP/1.1 as Go's server writes it: requests out of a stream of bytes, answers into steps to send.

Knows nothing of connections' lifetimes or of Ollama's endpoints.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from .script import Pause, Raw, Reply, Request, Step, Stream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator, Mapping

LAST_CHUNK = b"0\r\n\r\n"

# encoding/json escapes these inside strings, which is the only place where they can stand in a document.
GO_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def go_json(value: Any) -> bytes:
    """The JSON text that Go's encoder writes, without the newline."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(GO_ESCAPES).encode()


def head(status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """A status line and headers, with the empty line behind them."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "status code " + str(status)  # what Go writes for a status it does not know
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def stream_head(status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """The head of an NDJSON answer in chunks."""
    defaults = {"Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"}
    return head(status, {**defaults, **(headers or {})})


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def line_chunk(line: Any) -> bytes:
    """One HTTP chunk with one NDJSON line; `bytes` are taken as they are."""
    return chunk(line if isinstance(line, bytes) else go_json(line) + b"\n")


def steps_of(answer: Reply | Stream | Raw, *, head_only: bool = False) -> Iterable[Step]:
    """What to send for an answer; `head_only` as for a HEAD request."""
    if isinstance(answer, Raw):
        return answer.replay()
    if isinstance(answer, Stream):
        return _stream_steps(answer)
    return _reply_steps(answer, head_only=head_only)


def _reply_steps(reply: Reply, *, head_only: bool) -> Iterator[Step]:
    if reply.delay_s:
        yield Pause(reply.delay_s)
    if reply.body is None:
        kind, body = "application/json; charset=utf-8", go_json(reply.json)
    else:
        kind = "text/plain; charset=utf-8"
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
    defaults = {"Content-Type": kind, "Content-Length": str(len(body))}
    yield head(reply.status, {**defaults, **reply.headers}) + (b"" if head_only else body)


def _stream_steps(stream: Stream) -> Iterator[Step]:
    if stream.delay_s:
        yield Pause(stream.delay_s)
    opening = stream_head(stream.status, stream.headers)
    for number, line in enumerate(stream.lines):
        if number and stream.interval_s:
            yield Pause(stream.interval_s)
        yield opening + line_chunk(line)
        opening = b""
    yield opening + LAST_CHUNK


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request with its whole body.

    Raises `asyncio.IncompleteReadError` when the client closes before, `ValueError` for what is not HTTP.
    """
    block = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = block.rstrip("\r\n").split("\r\n")
    method, target, _version = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return Request(method, target, headers, await _read_body(reader, headers))


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _read_chunks(reader)
    return await reader.readexactly(int(headers.get("content-length", "0")))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    while (await reader.readuntil(b"\r\n")) != b"\r\n":
        pass  # trailers
    return b"".join(parts)
