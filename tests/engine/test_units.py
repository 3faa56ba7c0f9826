"""The engine's pure parts: names, durations, options, headers, lines."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem.engine import names
from ollama_async_mem.engine.catalogue import CATALOGUE, EMBEDDER, Catalogue
from ollama_async_mem.engine.durations import keep_alive_seconds, rfc3339, rfc3339_at
from ollama_async_mem.engine.faults import ApiError
from ollama_async_mem.engine.generation import Job, _Run, collect, smaller
from ollama_async_mem.engine.gguf import BadGguf, read_gguf
from ollama_async_mem.engine.llama import _events
from ollama_async_mem.engine.options import Options, parse_options, response_format, sampling, wants_thinking
from ollama_async_mem.engine.prepare import chat_job
from ollama_async_mem.engine.shapes import ChatShape
from ollama_async_mem.engine.wire import ChatRequest, decode
from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("smollm2:135m", "smollm2:135m"),
        (" smollm2 ", "smollm2:latest"),
        ("library/smollm2", "smollm2:latest"),
        ("registry.ollama.ai/library/smollm2:135M", "smollm2:135M"),
        ("me/own:q4", "me/own:q4"),
        ("hf.co/org/repo:Q4", "hf.co/org/repo:Q4"),
        ("", None),
        ("a b", None),
        ("a/b/c/d", None),
        ("../etc/passwd", None),
        ("a:", None),
    ],
)
def test_names_are_shown_as_ollama_shows_them(given_name: str, expected: str | None) -> None:
    """Defaults are dropped, the tag is always there, and what is no name gives None."""
    assert names.canonical(given_name) == expected


def test_names_are_compared_without_case_and_with_defaults() -> None:
    """Two spellings of one model are the same; two wrong names are not."""
    assert names.same("Library/SmolLM2:135M", "smollm2:135m")
    assert not names.same("", "")
    assert names.full_name("smollm2:135m") == "registry.ollama.ai/library/smollm2:135m"
    assert names.full_name("me/own:q4") == "registry.ollama.ai/me/own:q4"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), (0, 0), (1.5, 1.5), (-1, math.inf), ("5m", 300), ("1h30m", 5400), ("-1s", math.inf), ("0", 0)],
)
def test_keep_alive_is_seconds_or_a_go_duration(value: object, seconds: float | None) -> None:
    """Numbers are seconds, texts are Go's durations, negative is for ever."""
    assert keep_alive_seconds(value) == seconds


@pytest.mark.parametrize("value", ["300", "-1", "", "5 minutes", "5x", True, [], "m"])
def test_a_wrong_keep_alive_is_refused(value: object) -> None:
    """A text without a unit, and other types, raise ValueError with Go's words."""
    with pytest.raises(ValueError, match=r"time: |Unsupported type"):
        keep_alive_seconds(value)


def test_times_have_nine_digits_and_no_trailing_zeros() -> None:
    """RFC 3339 with nanoseconds, zeros trimmed; for ever is a far year."""
    assert rfc3339(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.12Z"
    assert rfc3339(1_700_000_000_000_000_000) == "2023-11-14T22:13:20Z"
    assert rfc3339_at(math.inf).startswith("2318")


def test_options_have_ollamas_defaults() -> None:
    """Absent, null and unknown options leave the defaults; numbers are converted."""
    assert parse_options(None) == Options()
    parsed = parse_options({"num_ctx": 2048.0, "mirostat": 1, "seed": None, "temperature": 0, "stop": ["x"]})
    assert parsed == Options(num_ctx=2048, temperature=0.0, stop=("x",))
    assert sampling(parsed)["top_p"] == 0.9


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("num_ctx", "big", 'option "num_ctx" must be of type integer'),
        ("seed", True, 'option "seed" must be of type integer'),
        ("temperature", "hot", 'option "temperature" must be of type float32'),
        ("stop", "x", 'option "stop" must be of type array'),
        ("stop", [1], 'option "stop" must be of an array of strings'),
    ],
)
def test_a_wrong_option_is_a_500_with_ollamas_text(option: str, value: object, text: str) -> None:
    """The status and text are Ollama's."""
    with pytest.raises(ApiError) as caught:
        parse_options({option: value})
    assert (caught.value.status, caught.value.message) == (500, text)


def test_format_is_json_or_a_schema() -> None:
    """Other formats are a 500 with Ollama's text."""
    assert response_format("") is None
    assert response_format("json") == {"type": "json_object"}
    assert response_format({"type": "object"}) == {
        "type": "json_schema",
        "json_schema": {"schema": {"type": "object"}},
    }
    with pytest.raises(ApiError, match=r'invalid format: "yaml"; expected "json" or a valid JSON Schema object'):
        response_format("yaml")


def test_think_is_a_boolean_or_a_level() -> None:
    """Other values are a 400."""
    assert wants_thinking(None) is None
    assert wants_thinking("high") is True
    with pytest.raises(ApiError, match="invalid think value"):
        wants_thinking("banana")


@given(st.binary(max_size=200))
def test_a_request_body_is_decoded_or_refused(body: bytes) -> None:
    """No body makes the decoder raise anything but a 400."""
    try:
        assert isinstance(decode(body, ChatRequest), ChatRequest)
    except ApiError as exc:
        assert exc.status == 400


def test_a_deeply_nested_body_is_refused() -> None:
    """Nesting that would exhaust the stack is a 400."""
    with pytest.raises(ApiError):
        decode(b'{"format":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ChatRequest)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"GGUF",
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1),
        b"GGUF" + struct.pack("<IQQ", 99, 1, 1),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"\xff" + struct.pack("<I", 8),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77),
    ],
)
def test_a_damaged_gguf_file_is_named(content: bytes, tmp_path: Path) -> None:
    """Whatever is wrong with a header is BadGguf, and a ConfigError with the path for --gguf."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(BadGguf, match=r"bad\.gguf"):
        read_gguf(path)
    with pytest.raises(ConfigError, match=r"--gguf .*bad\.gguf"):
        Catalogue(tmp_path, [path])


@given(st.binary(max_size=300))
def test_no_header_makes_the_reader_crash(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Random bytes after the magic are BadGguf."""
    path = tmp_path_factory.mktemp("gguf") / "random.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + content)
    with pytest.raises(BadGguf):
        read_gguf(path)


def test_a_file_of_the_wrong_size_is_not_installed(tmp_path: Path) -> None:
    """Only the built-in embedder is there when the model's file is not whole."""
    catalogue = Catalogue(tmp_path)
    catalogue.file_of(CATALOGUE[0]).write_bytes(b"GGUF")
    assert catalogue.installed() == [EMBEDDER]
    assert catalogue.find("WordLlama") is EMBEDDER
    assert catalogue.find("smollm2:135m") is None


def test_the_models_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OLLAMA_ASYNC_MEM_MODELS names it, an argument wins."""
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_MODELS", str(tmp_path / "env"))
    assert Catalogue().models_dir == tmp_path / "env"
    assert Catalogue(tmp_path / "argument").models_dir == tmp_path / "argument"


def test_users_files_get_names_and_collisions_are_refused(model_file: Path, tmp_path: Path) -> None:
    """The stem is the name; a second file of that name is a ConfigError; removing keeps the file."""
    path = tmp_path / "My model (v2).gguf"
    path.symlink_to(model_file)
    catalogue = Catalogue(tmp_path, [path])
    model = catalogue.find("my-model-v2")
    assert model is not None
    assert (model.name, model.info.parameter_count) == ("My-model-v2:latest", 134_515_008)
    with pytest.raises(ConfigError, match="another model with the name"):
        Catalogue(tmp_path, [path, path])
    catalogue.remove(model)
    assert model_file.exists()
    assert catalogue.find("my-model-v2") is None


def test_the_system_prompt_of_the_catalogue_is_used_when_the_chat_has_none(model_file: Path) -> None:
    """As a Modelfile's SYSTEM: put before a chat without a system message, not before one that has it."""
    catalogue = Catalogue(model_file.parent)

    def roles(*messages: dict[str, str]) -> list[str]:
        body = {"model": "smollm2:135m", "messages": list(messages)}
        request = decode(json.dumps(body).encode(), ChatRequest)
        return [message["role"] for message in chat_job(catalogue, request).body["messages"]]

    assert roles({"role": "User", "content": "hi"}) == ["system", "user"]
    assert roles({"role": "system", "content": "x"}, {"role": "user", "content": "hi"}) == ["system", "user"]


def test_a_chat_that_is_too_long_loses_its_oldest_turn_first() -> None:
    """System messages and the newest turn stay."""
    turns = [{"role": role, "content": str(n)} for n, role in enumerate(["system", "user", "assistant", "user"])]
    body = smaller({"messages": turns})
    assert body is not None
    assert [turn["content"] for turn in body["messages"]] == ["0", "2", "3"]
    assert smaller({"messages": [turns[0], turns[3]]}) is None


def test_tool_calls_are_put_together_from_pieces() -> None:
    """Arguments streamed as text become an object in Ollama's shape."""
    run = _Run()
    pieces: list[dict[str, Any]] = [
        {"index": 0, "id": "call_1", "function": {"name": "add", "arguments": '{"a":'}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]
    for piece in pieces:
        run.note({"choices": [{"delta": {"tool_calls": [piece]}, "finish_reason": None}]})
    assert run.tool_calls() == [{"id": "call_1", "function": {"index": 0, "name": "add", "arguments": {"a": 1}}}]


async def test_lines_are_joined_for_an_answer_in_one_piece() -> None:
    """Texts and thinking are joined, the figures come from the last line."""
    shape = ChatShape()

    async def answer() -> Any:
        yield {**shape.thinking("hm"), "done": False}
        yield {**shape.text("a"), "done": False}
        yield {**shape.text("b"), "done": True, "eval_count": 2}

    whole = await collect(answer(), shape)
    assert whole == {
        "message": {"role": "assistant", "content": "ab", "thinking": "hm"},
        "done": True,
        "eval_count": 2,
    }


async def test_events_are_split_at_line_feeds_only() -> None:
    """Other separators of Unicode belong to the text, and a piece may end anywhere."""
    text = "a\u2028b\u0085c\rd"
    sent = b'data: {"content":"' + text.replace("\r", "\\r").encode() + b'"}\n\ndata: [DONE]\n\n'
    for size in (1, 7, 1000):
        response = httpx.Response(200, stream=_Pieces(sent, size))
        assert [event async for event in _events(response)] == [{"content": text}]


class _Pieces(httpx.AsyncByteStream):
    """A body in pieces of one size."""

    def __init__(self, body: bytes, size: int) -> None:
        self._pieces = [body[at : at + size] for at in range(0, len(body), size)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def test_a_job_is_immutable() -> None:
    """A prepared request cannot be changed while it waits."""
    assert Job.__struct_config__.frozen
