"""The NDJSON decoder: any tearing of any valid body gives the same chunks."""

from __future__ import annotations

import itertools
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem.errors import ProtocolError
from ollama_async_mem.ollama._ndjson import NDJSONDecoder
from ollama_async_mem.ollama.schema import ChatChunk


def decode_all(pieces: list[bytes]) -> list[ChatChunk]:
    """Feed pieces and flush."""
    decoder = NDJSONDecoder(ChatChunk)
    chunks = [chunk for piece in pieces for chunk in decoder.feed(piece)]
    return [*chunks, *decoder.flush()]


def body_of(texts: list[str], end: bytes = b"\n") -> bytes:
    """Write chunks as a server does."""
    return end.join(msgspec.json.encode({"message": {"role": "assistant", "content": t}}) for t in texts)


@given(st.lists(st.text()), st.lists(st.integers(0, 4000)), st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n\t\n"]))
def test_any_tearing_gives_the_same_chunks(texts: list[str], cuts: list[int], end: bytes) -> None:
    """Where the network tears the body, what ends its lines, and whether the last has an end changes nothing."""
    body = body_of(texts, end)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]
    assert [c.message.content for c in decode_all(pieces)] == texts


@pytest.mark.parametrize("text", ["a\x85b", "a\u2028b", "a\u2029b", "a\x0bb", "a\x0cb", "naïve 🦙"])
def test_only_a_newline_byte_ends_a_line(text: str) -> None:
    """Characters that Python takes for line ends stay part of the text."""
    raw = '{"message":{"content":"' + text.replace("\x0b", "\\u000b").replace("\x0c", "\\u000c") + '"}}\n'
    assert decode_all([raw.encode()])[0].message.content == text


def test_a_byte_order_mark_is_dropped() -> None:
    """A body that begins with a BOM is read, also when the mark is torn."""
    assert decode_all([b"\xef", b'\xbb\xbf{"done":true}\n'])[0].done


def test_nulls_fractions_and_unknown_fields_are_tolerated() -> None:
    """What other servers send in place of absent fields does not stop the stream."""
    (chunk,) = decode_all([b'{"message":null,"done":null,"total_duration":1.5,"eval_count":3.0,"new":{"x":1}}\n'])
    assert (chunk.message.content, chunk.done, chunk.total_duration, chunk.eval_count) == ("", False, 1, 3)


def test_broken_utf8_costs_one_character() -> None:
    """A line that is not UTF-8 is read with replacement characters."""
    assert decode_all([b'{"message":{"content":"a\xffb"}}\n'])[0].message.content == "a\ufffdb"


def test_good_chunks_come_before_a_bad_line_is_reported() -> None:
    """The chunks before a bad line are delivered first."""
    chunks = NDJSONDecoder(ChatChunk).feed(b'{"done":true}\n<html>\n{}\n')
    assert next(chunks).done
    with pytest.raises(ProtocolError, match="<html>"):
        next(chunks)


@given(st.binary(max_size=300))
def test_random_bytes_give_chunks_or_a_typed_error(data: bytes) -> None:
    """Whatever comes, nothing but a ProtocolError leaves the decoder."""
    try:
        chunks = decode_all([data])
    except ProtocolError as exc:
        assert str(exc)
    else:
        assert all(isinstance(chunk, ChatChunk) for chunk in chunks)


def test_a_line_without_end_is_refused_early() -> None:
    """A line longer than the limit is refused while it comes, not collected."""
    decoder = NDJSONDecoder(ChatChunk, max_line_bytes=1000)
    for _ in range(10):
        assert list(decoder.feed(b"x" * 100)) == []
    with pytest.raises(ProtocolError, match="more than 1,000 bytes"):
        list(decoder.feed(b"x"))


def test_a_huge_line_takes_linear_time() -> None:
    """A line of 8 MB in pieces of 512 bytes is joined once."""
    body = body_of(["x" * 8_000_000]) + b"\n"
    began = time.process_time()
    (chunk,) = decode_all([body[i : i + 512] for i in range(0, len(body), 512)])
    assert len(chunk.message.content) == 8_000_000
    assert time.process_time() - began < 2
