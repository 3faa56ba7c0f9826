"""The pure parts of the client: hosts, names, formats, refusals, prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from ollama_async_mem.embedding import prefixes
from ollama_async_mem.errors import (
    AuthenticationFailed,
    ConfigError,
    ModelNotFound,
    ModelOutputError,
    ServerBusy,
    StatusError,
)
from ollama_async_mem.ollama._http import status_error
from ollama_async_mem.ollama.formats import json_schema, parse_answer
from ollama_async_mem.ollama.hosts import Host, parse_host
from ollama_async_mem.ollama.names import canonical, display


@pytest.mark.parametrize(
    ("value", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        (" 'example.com' ", "http://example.com:11434"),
        ("example.com:56789", "http://example.com:56789"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:8443/ollama/", "https://example.com:8443/ollama"),
        ("ollama.com", "https://ollama.com:443"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("::", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:80", "http://[::1]:80"),
        ("http://[fe80::1%25eth0]:99", "http://[fe80::1%25eth0]:99"),
        (":8080", "http://127.0.0.1:8080"),
    ],
)
def test_hosts_are_read_as_the_server_reads_them(value: str | None, url: str) -> None:
    """OLLAMA_HOST means to the client what it means to the server."""
    assert parse_host(value).url == url


@pytest.mark.parametrize("value", ["ftp://x", "x:port", "x:0", "x:70000", "http://x:-1"])
def test_a_bad_host_is_a_clear_error(value: str) -> None:
    """A scheme or port that cannot be is refused with the value in the text."""
    with pytest.raises(ConfigError, match="host"):
        parse_host(value)


def test_credentials_are_kept_apart_and_out_of_sight() -> None:
    """User and password are taken out of the URL and not shown."""
    host = parse_host("https://me:p%40ss@example.com")
    assert host == Host("https://example.com:443", "me", "p@ss")
    assert "p@ss" not in repr(host)


@pytest.mark.parametrize(("url", "loopback"), [("localhost", True), ("::1", True), ("10.0.0.1", False), ("a.b", False)])
def test_loopback_is_recognised(url: str, loopback: bool) -> None:  # noqa: FBT001
    """Only this machine is loopback."""
    assert parse_host(url).is_loopback is loopback


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("llama3.2", "LLAMA3.2:latest", True),
        ("registry.ollama.ai/library/x", "x", True),
        ("library/x:1b", "x:1B", True),
        ("x:1b", "x", False),
        ("hf.co/org/repo:Q4_K_M", "org/repo:Q4_K_M", False),
    ],
)
def test_names_are_compared_as_the_server_does(a: str, b: str, same: bool) -> None:  # noqa: FBT001
    """Defaults and case make no difference, tags and owners do."""
    assert (canonical(a) == canonical(b)) is same


@pytest.mark.parametrize(
    ("name", "shown"), [("x", "x:latest"), ("me/X:q4", "me/x:q4"), ("hf.co/o/r", "hf.co/o/r:latest")]
)
def test_names_are_shown_as_ollama_lists_them(name: str, shown: str) -> None:
    """The default owner is left out, the tag is not."""
    assert display(name) == shown


class Person(msgspec.Struct):
    """A person."""

    name: str
    age: int


@dataclass
class City:
    """A city."""

    name: str


class Pair(TypedDict):
    """Two people."""

    one: Person
    two: Person


class Duck:
    """Looks like a pydantic model."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return {"type": "object"}

    @classmethod
    def model_validate_json(cls, text: str) -> str:
        return f"validated {text}"


class Tree(msgspec.Struct):
    """Refers to itself."""

    children: list[Tree]


def test_formats_become_schemas() -> None:
    """Structs, dataclasses, typed dicts, pydantic models, dicts and "json" are all formats."""
    schema = json_schema(Person)
    assert schema["type"] == "object"
    assert set(schema["properties"]) == {"name", "age"}
    assert json_schema(City)["properties"]["name"] == {"type": "string"}
    assert "Person" in json_schema(Pair)["$defs"]
    assert json_schema(Tree)["$ref"] == "#/$defs/Tree"
    assert json_schema(Duck) == json_schema({"type": "object"}) == {"type": "object"}
    assert json_schema("json") == "json"
    assert json_schema(None) is None


@pytest.mark.parametrize("bad", ["yaml", 7, object()])
def test_other_formats_are_refused(bad: object) -> None:
    """What is no format is refused before any request."""
    with pytest.raises(ConfigError, match="format="):
        json_schema(bad)


def test_answers_become_objects() -> None:
    """The text of an answer becomes what the format describes."""
    assert parse_answer(Person, '{"name":"Ann","age":5}') == Person("Ann", 5)
    assert parse_answer(Duck, "{}") == "validated {}"
    assert parse_answer("json", "[1]") == parse_answer({"type": "array"}, "[1]") == [1]
    assert parse_answer(None, "not json") is None


@pytest.mark.parametrize("text", ["", "{", '{"name":"Ann"}', '{"name":"Ann","age":"old"}'])
def test_a_misfit_answer_keeps_its_text(text: str) -> None:
    """An answer that does not fit is an error that holds the answer."""
    with pytest.raises(ModelOutputError) as caught:
        parse_answer(Person, text)
    assert caught.value.output == text


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, b'{"error":"model \'x\' not found"}', ModelNotFound, "model 'x' not found"),
        (404, b"404 page not found", StatusError, "404 page not found"),
        (503, b'{"error":"server busy, please try again."}', ServerBusy, "server busy"),
        (502, b"<html>Bad Gateway</html>", ServerBusy, "Bad Gateway"),
        (401, b'{"error":"unauthorized","signin_url":"https://x"}', AuthenticationFailed, "unauthorized"),
        (403, b"", AuthenticationFailed, "status 403"),
        (400, b'{"error":{"message":"bad input","type":"x"}}', StatusError, "bad input"),
        (500, b'"text"', StatusError, "text"),
        (500, b"[]", StatusError, "[]"),
        (500, b"\xff\xfe", StatusError, "\ufffd"),
    ],
)
def test_refusals_become_errors_of_their_kind(status: int, body: bytes, kind: type, text: str) -> None:
    """The status and the words of a refusal decide its class; the words are kept."""
    error = status_error(status, body, "7", "http://x")
    assert type(error) is kind
    assert text in str(error)
    assert (error.status, error.retry_after_s) == (status, 7.0)


@pytest.mark.parametrize(
    ("model", "query"),
    [("nomic-embed-text:v1.5", "search_query: "), ("llama3.2", ""), ("bge-m3", ""), ("me/e5-large", "query: ")],
)
def test_models_get_the_prefixes_they_were_trained_with(model: str, query: str) -> None:
    """The family decides the prefix, an unknown family has none."""
    assert prefixes(model)[0] == query
