"""Tools from Python functions."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
import time
from typing import Annotated, Any, Literal

import anyio
import msgspec
import pytest

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.ollama.schema import ChatMessage, ChatResponse, ToolCall, ToolFunction
from ollama_async_mem.ollama.tools import run_tools, tool_schema


class Place(msgspec.Struct):
    """A place."""

    lat: float
    lon: float


def forecast(  # noqa: D417 - only some are described, as people do
    city: str,
    days: Annotated[int, msgspec.Meta(ge=1, le=7)] = 3,
    unit: Literal["c", "f"] = "c",
    near: Place | None = None,
    tags: list[str] = [],  # noqa: B006 - a default that JSON has too
) -> str:
    """Tell the weather of a city.

    More about it.

    Args:
        city: Which city.
        unit (str): In which unit.

    Returns:
        A text: not a parameter.
    """
    return f"{city} {days} {unit} {near}"


async def failing(reason: str) -> str:
    """Fail."""
    raise ValueError(reason)


def call(name: str, id_: str = "", **arguments: Any) -> ToolCall:
    """A call as a model asks for it."""
    return ToolCall(ToolFunction(name, arguments), id=id_)


def test_a_function_becomes_a_schema() -> None:
    """Types are kept whole, defaults are not required, descriptions come from the docstring."""
    described = tool_schema(forecast)["function"]
    parameters = described["parameters"]
    properties = parameters["properties"]
    assert (described["name"], described["description"]) == ("forecast", "Tell the weather of a city.")
    assert parameters["required"] == ["city"]
    assert properties["city"] == {"type": "string", "description": "Which city."}
    assert properties["days"] == {"type": "integer", "minimum": 1, "maximum": 7}
    assert properties["unit"] == {"enum": ["c", "f"], "description": "In which unit."}
    assert properties["tags"] == {"type": "array", "items": {"type": "string"}}
    assert {"$ref": "#/$defs/Place"} in properties["near"]["anyOf"]
    assert parameters["$defs"]["Place"]["required"] == ["lat", "lon"]


def test_the_schema_is_the_same_in_every_process() -> None:
    """The order of fields and unions does not depend on the hash seed."""
    code = (
        "import json\nfrom ollama_async_mem.ollama.tools import tool_schema\n"
        "def f(a: int | str | None, b: dict[str, float | bool]) -> str: ...\n"
        "print(json.dumps(tool_schema(f)))"
    )
    command = [sys.executable, "-c", code]
    runs = [
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True)  # noqa: S603
        for seed in "123"
    ]
    assert len({run.stdout for run in runs}) == 1
    assert json.loads(runs[0].stdout)["function"]["parameters"]["required"] == ["a", "b"]


@pytest.mark.parametrize("bad", [3, "forecast", Place])
def test_what_is_no_function_is_refused(bad: Any) -> None:
    """Only functions, and dicts as they are, are tools."""
    with pytest.raises(ConfigError, match="a tool is a function"):
        tool_schema(bad)


def test_what_has_no_schema_is_refused() -> None:
    """A parameter that JSON cannot hold is named by its function."""

    def f(x: complex) -> None:
        pass

    with pytest.raises(ConfigError, match="'f' cannot be described"):
        tool_schema(f)


async def test_calls_run_and_are_answered_in_order() -> None:
    """Arguments are converted, results become messages with the ids of their calls."""
    reply = ChatResponse(
        message=ChatMessage(
            tool_calls=[call("forecast", "c1", city="Rome", days="2", near={"lat": 1, "lon": 2}), call("total", a=1)]
        )
    )

    async def total(a: int, b: int = 4) -> dict[str, int]:
        return {"sum": a + b}

    messages = await run_tools(reply, [forecast, total])
    assert messages[0] == {
        "role": "tool",
        "tool_name": "forecast",
        "content": "Rome 2 c Place(lat=1.0, lon=2.0)",
        "tool_call_id": "c1",
    }
    assert messages[1] == {"role": "tool", "tool_name": "total", "content": '{"sum":5}'}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (call("failing", reason="no money"), "ValueError: no money"),
        (call("nothing"), "the tool 'nothing' is not available here; available are forecast, failing"),
        (call("forecast"), "missing required field `city`"),
        (call("forecast", city=3), "Expected `str`, got `int`"),
        (call("forecast", city="x", town="y"), "unknown field `town`"),
        (call("forecast", city="x", days=8), "<= 7"),
    ],
)
async def test_a_failing_call_is_told_to_the_model(asked: ToolCall, told: str) -> None:
    """An unknown tool, wrong arguments and an exception become messages, not crashes."""
    (message,) = await run_tools(ChatMessage(tool_calls=[asked]), [forecast, failing])
    assert message["content"].startswith("error: ")
    assert told in message["content"]


def test_an_annotation_that_is_not_there_is_named() -> None:
    """What is imported for the type checker only, or lies in a function, is said to be missing."""

    class Local:
        pass

    def f(x: Local) -> None:
        pass

    with pytest.raises(ConfigError, match="annotations of the tool 'f' cannot be read: name 'Local' is not defined"):
        tool_schema(f)


def test_a_parameter_without_a_name_is_refused() -> None:
    """Arguments come by name."""

    def f(x: int, /) -> None:
        pass

    with pytest.raises(ConfigError, match="tool 'f' cannot be called by name: 'x' is positional-only"):
        tool_schema(f)


async def test_wrong_tools_are_the_caller_s_mistake() -> None:
    """They are an error, not a message to the model."""
    with pytest.raises(ConfigError, match="a tool is a function"):
        await run_tools(ChatMessage(), [Place])


class Oven:
    """An oven."""

    async def __call__(self, degrees: int) -> str:
        """Heat it."""
        return f"{degrees} degrees"


@functools.wraps(failing)
def wrapped(*given: Any, **arguments: Any) -> Any:
    """Stand before a coroutine function."""
    return failing(*given, **arguments)


@pytest.mark.parametrize(
    ("tool", "asked", "told"),
    [
        (functools.partial(forecast, unit="f"), call("forecast", city="Rome"), "Rome 3 f None"),
        (functools.partial(forecast, "Rome"), call("forecast", days="2"), "Rome 2 c None"),
        (Oven(), call("Oven", degrees="200"), "200 degrees"),
        (wrapped, call("failing", reason="no money"), "error: ValueError: no money"),
        ({"type": "function", "function": {"name": "x"}}, call("x"), "error: the tool 'x' is not available here"),
    ],
)
async def test_all_that_a_chat_takes_is_run(tool: Any, asked: ToolCall, told: str) -> None:
    """Partials, objects that are called and coroutine functions within others; not what is only described."""
    if callable(tool):
        assert tool_schema(tool)["function"]["name"] == asked.function.name
    (message,) = await run_tools(ChatMessage(tool_calls=[asked]), [forecast, tool])
    assert message["content"].startswith(told)


async def test_cancelling_does_not_wait_for_a_thread() -> None:
    """A tool that hangs is left behind."""
    release, began = threading.Event(), time.monotonic()

    def hanging() -> None:
        release.wait(10)

    try:
        with anyio.move_on_after(0.1):
            await run_tools(ChatMessage(tool_calls=[call("hanging")]), [hanging])
        assert time.monotonic() - began < 5
    finally:
        release.set()


async def test_calls_run_at_the_same_time() -> None:
    """Blocking tools in threads and coroutines do not wait for each other."""

    def blocking() -> str:
        time.sleep(0.2)
        return "b"

    async def waiting() -> str:
        await anyio.sleep(0.2)
        return "w"

    began = time.monotonic()
    messages = await run_tools(ChatMessage(tool_calls=[call("blocking"), call("waiting")] * 2), [blocking, waiting])
    assert [m["content"] for m in messages] == ["b", "w", "b", "w"]
    assert time.monotonic() - began < 0.6
