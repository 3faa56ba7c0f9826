"""The pure parts of the client: names, formats, refusals, prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from ollama_async_mem.embedding import prefixes
from ollama_async_mem.errors import (
    ConfigError,
    ModelOutputError,
)
from ollama_async_mem.ollama.formats import json_schema, parse_answer
from ollama_async_mem.ollama.names import canonical, display


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
    ("model", "query"),
    [("nomic-embed-text:v1.5", "search_query: "), ("llama3.2", ""), ("bge-m3", ""), ("me/e5-large", "query: ")],
)
def test_models_get_the_prefixes_they_were_trained_with(model: str, query: str) -> None:
    """The family decides the prefix, an unknown family has none."""
    assert prefixes(model)[0] == query
