"""HTTP/1.1 framing without a socket: what is read, in any split, and what is refused."""

from __future__ import annotations

import itertools
import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_async_mem.errors import OllamaError, ProtocolError, StreamTruncated
from ollama_async_mem.ollama import _http11
from ollama_async_mem.ollama._http11 import HeadReader, ResponseHead, body_of, header_lines, parse_head, request_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollama_async_mem.ollama._http11 import Body

OK = "HTTP/1.1 200 OK"
CHUNKED = f"{OK}\r\nTransfer-Encoding: chunked"


def head_of(*lines: str) -> ResponseHead:
    """A head of these lines."""
    return parse_head("\r\n".join(lines).encode("latin-1"))


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Data cut at these places; no piece is empty."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def payload_of(body: Body, pieces: list[bytes]) -> bytes:
    """All that a body gives; what comes behind its end is collected in `rest`, as the reader's caller would."""
    given_out = b""
    for piece in pieces:
        if body.done:
            body.rest += piece
        else:
            given_out += body.feed(piece)
            if body.broken:
                raise body.broken
    return given_out


def chunked(parts: Iterable[tuple[bytes, str, str]], trailers: str = "") -> bytes:
    """Chunks of data, each with a format for its size and an extension."""
    lines = [size.format(len(data)).encode() + ext.encode() + b"\r\n" + data + b"\r\n" for data, size, ext in parts]
    return b"".join(lines) + b"0\r\n" + trailers.encode() + b"\r\n"


cuts = st.lists(st.integers(0, 1 << 30), max_size=12)
chunk_parts = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=40)
        | st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"0", b"5"]), min_size=1).map(b"".join),
        st.sampled_from(["{:x}", "{:X}", "00{:x}", "{:x} "]),
        st.sampled_from(["", ";a", ";a=b", '; a="b;c"', " ;x=1"]),
    ),
    max_size=6,
)


@given(chunk_parts, st.sampled_from(["", "X-Sum: 1\r\n", "A: b\r\nC: d\r\n"]), st.binary(max_size=9), cuts)
def test_any_split_of_a_chunked_body_gives_its_payload(
    parts: list[tuple[bytes, str, str]], trailers: str, beyond: bytes, where: list[int]
) -> None:
    """Sizes in any notation, extensions and trailers are read over, wherever the reads end."""
    for _ in range(2):  # the second time, the sizes are known
        body = body_of("POST", head_of(*CHUNKED.split("\r\n")))
        payload = payload_of(body, pieces_of(chunked(parts, trailers) + beyond, where))
        assert payload == b"".join(data for data, _, _ in parts)
        assert body.done
        assert body.rest == beyond


@given(st.binary(max_size=60), st.binary(max_size=9), cuts)
def test_any_split_of_a_body_with_a_length_gives_its_payload(data: bytes, beyond: bytes, where: list[int]) -> None:
    """As many bytes as promised, and the rest apart."""
    body = body_of("GET", head_of(OK, f"Content-Length: {len(data)}"))
    assert payload_of(body, pieces_of(data + beyond, where)) == data
    assert body.done
    assert body.rest == beyond


@given(chunk_parts.filter(bool), cuts, st.data())
def test_a_body_that_ends_early_is_truncated(
    parts: list[tuple[bytes, str, str]], where: list[int], data: st.DataObject
) -> None:
    """Wherever a chunked body is cut off, its end is an error."""
    whole = chunked(parts)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    body = body_of("GET", head_of(*CHUNKED.split("\r\n")))
    payload_of(body, pieces_of(cut, where))
    with pytest.raises(StreamTruncated):
        body.end()


@given(st.binary(max_size=300), cuts)
@example(b"5\r\nhello\r\n5\r\nhelloXX", [])
def test_random_bytes_in_a_chunked_body_are_read_or_refused(data: bytes, where: list[int]) -> None:
    """Nothing but our own errors, whatever comes."""
    body = body_of("GET", head_of(*CHUNKED.split("\r\n")))
    try:
        payload = payload_of(body, pieces_of(data, where))
        if not body.done:
            body.end()
    except OllamaError as exc:
        assert str(exc)
    else:
        assert len(payload) < len(data)  # framing always costs something


HTTP_LIKE = st.lists(
    st.sampled_from(["HTTP/1.1 ", "200", " OK", "\r\n", "\n", "\r", ":", " ", "a: b", "Content-Length: 5", "\0", "é"])
    | st.text(string.printable, max_size=5),
    max_size=30,
).map(lambda words: "".join(words).encode("latin-1", errors="replace"))


@given(
    HTTP_LIKE | st.binary(max_size=200) | HTTP_LIKE.map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest + b"\r\n\r\n"), cuts
)
def test_random_bytes_for_a_head_are_read_or_refused(data: bytes, where: list[int]) -> None:
    """A head, more to come, or a ProtocolError."""
    reader = HeadReader()
    try:
        for piece in pieces_of(data, where):
            if head := reader.feed(piece):
                assert 200 <= head.status <= 999
                body_of("GET", head)
                return
    except ProtocolError:
        pass


@given(cuts)
def test_any_split_of_heads_gives_the_final_one(where: list[int]) -> None:
    """Heads of 1xx come before it and are skipped; what follows is kept."""
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 \r\nA:b\r\n\r\nbody"
    reader = HeadReader()
    found, left = None, b""
    for piece in pieces_of(data, where):
        if found:
            left += piece
        else:
            found = reader.feed(piece)
    assert found
    assert (found.status, found.headers) == (201, [("a", "b")])
    assert reader.rest + left == b"body"


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x01\x00\x02\x02",  # TLS tells a plain client off
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"<html>",
        b"\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nA: b\n\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.12 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA(b): c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 257 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_head_is_refused_at_once(data: bytes) -> None:
    """Nothing of this could become a head that is read in one way only, so nobody waits for its end."""
    with pytest.raises(ProtocolError):
        HeadReader().feed(data)


def test_a_head_is_read_leniently_where_that_is_safe() -> None:
    """No reason phrase, spaces around values, empty values, and bytes beyond ASCII are all fine."""
    head = head_of("HTTP/1.1 200", "A:  b\t", "Empty:", "Name: caf\xe9", "a: c")
    assert head.headers == [("a", "b"), ("empty", ""), ("name", "caf\xe9"), ("a", "c")]
    assert head.get("a") == "b, c"
    assert head.get("none") is None


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ((OK,), True),
        ((OK, "Connection: close"), False),
        ((OK, "Connection: Keep-Alive, Close"), False),
        ((OK, "Connection: x", "Connection: CLOSE"), False),
        (("HTTP/1.0 200 OK",), False),
        (("HTTP/1.0 200 OK", "Connection: keep-alive"), True),
    ],
)
def test_keep_alive(lines: tuple[str, ...], kept: bool) -> None:  # noqa: FBT001 - an expected value
    """HTTP/1.1 keeps a connection unless told, HTTP/1.0 only where told."""
    assert head_of(*lines).keep_alive is kept


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Content-Length: -5"],
        ["Content-Length: +5"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5_0"],
        ["Content-Length: \xb2"],
        ["Content-Length:"],
        ["Content-Length: " + "9" * 5000],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding:"],
    ],
)
def test_ambiguous_framing_is_refused(headers: list[str]) -> None:
    """Whatever two readers could frame differently."""
    with pytest.raises(ProtocolError):
        body_of("GET", head_of(OK, *headers))


def test_an_old_server_does_not_send_chunks() -> None:
    """HTTP/1.0 has no transfer encodings."""
    with pytest.raises(ProtocolError):
        body_of("GET", head_of("HTTP/1.0 200 OK", "Transfer-Encoding: chunked"))


def test_a_length_may_be_repeated() -> None:
    """The same length twice says one thing."""
    body = body_of("GET", head_of(OK, "Content-Length: 3", "Content-Length: 3"))
    assert body.feed(b"abc") == b"abc"
    assert body.done


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_answers_without_a_body(method: str, status: int) -> None:
    """Whatever their headers announce."""
    head = head_of(f"HTTP/1.1 {status} x", "Content-Length: 5", "Transfer-Encoding: chunked")
    body = body_of(method, head)
    assert body.done
    assert body.feed(b"next") == b""
    assert body.rest == b"next"


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    """As HTTP/1.0 has it; the connection is not kept."""
    head = head_of(OK)
    body = body_of("GET", head)
    assert body.feed(b"abc") == b"abc"
    body.end()
    assert body.done
    assert not head.keep_alive


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"-5\r\n",
        b"+5\r\n",
        b"0x5\r\n",
        b" 5\r\n",
        b"5_0\r\n",
        b"\r\n",
        b";ext\r\n",
        b"fffffffffffffffff\r\n",
        b"5\nhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"5\r;a\r\nhello\r\n",
        b"5;" + b"x" * 5000,
        b"5;" + b"x" * 5000 + b"\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n\n",
        b"0\r\n" + b"a: b\r\n" * 4000,
        b"0\r\n" + b"a" * 20_000,
    ],
)
def test_malformed_chunks_are_refused(data: bytes) -> None:
    """Sizes, line ends, extensions and trailers that are wrong or endless, in one piece and in bits."""
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        body = body_of("GET", head_of(*CHUNKED.split("\r\n")))
        with pytest.raises(ProtocolError):
            payload_of(body, pieces)


def test_good_chunks_come_before_the_complaint() -> None:
    """What is in order is given, also when what follows in the same read is not."""
    body = body_of("GET", head_of(*CHUNKED.split("\r\n")))
    assert body.feed(b"2\r\nok\r\nnonsense\r\n") == b"ok"
    assert body.broken
    with pytest.raises(ProtocolError, match="chunk size"):
        body.end()


def test_a_flood_of_sizes_does_not_fill_the_memory() -> None:
    """The sizes that are remembered are few."""
    body = body_of("GET", head_of(*CHUNKED.split("\r\n")))
    for size in range(1, 3000):
        body.feed(b"%x\r\n%b\r\n" % (size, b"x" * size))
    assert len(_http11._SIZES) <= 1024


@pytest.mark.parametrize("pair", [("a", "b\r\nc: d"), ("a\r\nb", "c"), ("a b", "c"), ("a", "\0"), ("", "x")])
def test_a_request_cannot_be_smuggled_through_a_header(pair: tuple[str, str]) -> None:
    """Names and values that would end their line are refused."""
    with pytest.raises(ProtocolError):
        header_lines([pair])


@pytest.mark.parametrize("target", ["/a b", "/a\r\nb", "/caf\xe9", "/\0"])
def test_a_request_cannot_be_smuggled_through_its_target(target: str) -> None:
    """Nor may a target hold what would end its line."""
    with pytest.raises(ProtocolError):
        request_line("GET", target)
