"""The pure parts of the proxy: what is asked, what was answered, and chunks that are passed on at a glance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from fakes import LAST_CHUNK, chunk, go_json
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem.ollama._http11 import ChunkedBody
from ollama_async_mem.server.proxy.answers import answer_of
from ollama_async_mem.server.proxy.asked import READERS
from ollama_async_mem.server.proxy.target import target_of
from ollama_async_mem.server.shortcut import Shortcut

from .proxying import chat_lines, event_stream

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CHAT, GENERATE = READERS["/api/chat"], READERS["/api/generate"]


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5), st.integers(0, 400), st.booleans())
def test_a_glance_sees_what_reading_would(payloads: list[bytes], cut: int, is_last: bool) -> None:  # noqa: FBT001 - drawn
    """The same payload or nothing, and it changes nothing: what follows is read as ever."""
    data = (b"".join(map(chunk, payloads)) + (LAST_CHUNK if is_last else b""))[: cut or None]
    read = ChunkedBody().feed(data)  # from here on the sizes of these chunks are known
    body = ChunkedBody()
    seen = body.glance(data)
    assert seen in {b"", read}
    assert body.feed(data) == read
    whole = b"".join(payloads)
    if data == b"".join(map(chunk, payloads)) and b"\r" not in whole and b"\n" not in whole:
        assert seen == whole


def test_a_glance_is_not_for_the_middle_of_a_chunk() -> None:
    """What looks like a chunk may be the inside of one."""
    body = ChunkedBody()
    body.feed(b"20\r\n")
    assert body.glance(b"3\r\nabc\r\n") == b""


@given(TEXTS.filter(str.strip), st.dictionaries(TEXTS, VALUES, max_size=4), TEXTS, st.booleans())
def test_a_request_keeps_all_but_the_instructions(
    question: str,
    fields: dict[str, Any],
    block: str,
    has_system: bool,  # noqa: FBT001 - drawn
) -> None:
    """Whatever else is in it."""
    told = [{"role": "system", "content": "Be brief."}] if has_system else []
    messages = [*told, {"role": "user", "content": question, "x": fields}, {"role": "assistant", "content": "So"}]
    extra = {name: value for name, value in fields.items() if name not in {"format", "response_format"}}
    body = {**extra, "model": "m", "messages": messages}
    asked = CHAT(msgspec.json.encode(body))
    assert asked is not None
    assert (asked.question, asked.has_system) == (question, has_system)
    written = msgspec.json.decode(asked.write(block))
    first = f"Be brief.\n\n{block}" if has_system else block
    assert written["messages"][0] == {"role": "system", "content": first}
    assert written["messages"][1:] == messages[len(told) :]
    assert {**written, "messages": messages} == body


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_left(body: bytes) -> None:
    """Nothing raises."""
    for read in READERS.values():
        assert read(body) is None
    for kind in ("application/json", "application/x-ndjson", "text/event-stream"):
        answer_of(kind, body)


@pytest.mark.parametrize(
    ("fields", "is_free"),
    [
        ({}, True),
        ({"format": ""}, True),
        ({"format": None}, True),
        ({"format": "json"}, False),
        ({"format": {}}, False),
    ],
)
def test_a_format_is_for_programs(fields: dict[str, Any], is_free: bool) -> None:  # noqa: FBT001 - a parameter
    """As Ollama reads it."""
    asked = GENERATE(go_json({"model": "m", "prompt": "x", **fields}))
    assert asked is not None
    assert asked.is_free is is_free


@given(st.lists(TEXTS.filter(lambda text: "\r" not in text), max_size=5))
def test_the_text_of_a_whole_answer(texts: list[str]) -> None:
    """It is what all pieces say together, in each of the shapes."""
    said = "".join(texts).strip() or None
    assert answer_of("application/x-ndjson", chat_lines(*texts)) == said
    assert answer_of("text/event-stream; charset=utf-8", event_stream(*({"content": text} for text in texts))) == said
    one = go_json({"model": "m", "response": "".join(texts), "done": True})
    assert answer_of("application/json; charset=utf-8", one) == said


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        (b"/api/chat", b"", ("/api/chat", b"/api/chat", None)),
        (b"/u/alice/api/chat", b"a=1", ("/api/chat", b"/api/chat?a=1", "alice")),
        (b"/u/a%2Fb%20c/v1/x%20y", b"", ("/v1/x y", b"/v1/x%20y", "a/b c")),
        (b"/u/alice", b"", ("/", b"/", "alice")),
        (b"/u//api/tags", b"", ("/api/tags", b"/api/tags", None)),
        (b"/uu/alice", b"", ("/uu/alice", b"/uu/alice", None)),
    ],
)
def test_the_user_on_a_path(path: bytes, query: bytes, expected: tuple[str, bytes, str | None]) -> None:
    """It is taken off, and the bytes behind it stay as they were."""
    target = target_of({"method": "POST", "raw_path": path, "query_string": query})
    assert (target.path, target.raw, target.user_id) == expected


def test_a_shortcut_is_closed_until_the_guard_says_what_holds_and_while_nobody_reads() -> None:
    """What is refused is not written; what is written is a chunk."""
    written: list[bytes] = []
    transport = cast("Any", SimpleNamespace(write=written.append))
    shortcut = Shortcut(transport)
    assert not shortcut.write(b"before the guard")
    shortcut.holds = lambda: True
    assert shortcut.write(b"one")
    shortcut.is_open = False
    assert not shortcut.write(b"while nobody reads")
    shortcut.is_open = True
    assert shortcut.write(b"x" * 300)
    assert b"".join(written) == chunk(b"one") + chunk(b"x" * 300)
