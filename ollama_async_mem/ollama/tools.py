"""Python functions as tools: described to the model, and run when it asks for them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

import anyio
import anyio.to_thread
import msgspec

from ollama_async_mem.errors import ConfigError

from .schema import ChatMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .schema import ChatResponse, ToolCall

__all__ = ["run_tools", "tool_schema"]

_PARAMETER_LINE = re.compile(r"^\s+\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s+(.+)$")
_SKIPPED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Describe a function as a tool: its annotations as JSON schema, its docstring as descriptions.

    Parameters with a default are not required. Descriptions are read from an `Args:` section.

    Raises:
        ConfigError: it is no function, or an annotation has no JSON schema.
    """
    if not inspect.isroutine(function):
        raise ConfigError(f"a tool is a function or its JSON description, got {function!r}")
    fields = _fields(function)
    try:
        (schema,), definitions = msgspec.json.schema_components([_struct(function, fields)])
    except (TypeError, RuntimeError) as exc:
        raise ConfigError(f"the tool {function.__name__!r} cannot be described: {exc}") from exc
    parameters = definitions.pop(schema["$ref"].rpartition("/")[2])
    texts = _parameter_texts(function)
    for name, described in parameters["properties"].items():
        described.pop("default", None)
        if name in texts:
            described["description"] = texts[name]
    parameters.pop("title", None)
    if definitions:
        parameters["$defs"] = definitions
    summary = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
    return {
        "type": "function",
        "function": {"name": function.__name__, "description": summary, "parameters": parameters},
    }


def _fields(function: Callable[..., Any]) -> list[Any]:
    hints = get_type_hints(function, include_extras=True)
    fields: list[Any] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in _SKIPPED or name == "self":
            continue
        type_ = hints.get(name, Any)
        if parameter.default is inspect.Parameter.empty:
            fields.append((name, type_))
        else:
            fields.append((name, type_, msgspec.field(default_factory=lambda: None)))
    return fields


def _struct(function: Callable[..., Any], fields: list[Any]) -> type[msgspec.Struct]:
    return msgspec.defstruct(function.__name__, fields, kw_only=True, forbid_unknown_fields=True)


def _parameter_texts(function: Callable[..., Any]) -> dict[str, str]:
    """Read the descriptions in a docstring's `Args:` section, Google's way."""
    section = re.split(r"^\s*(?:Args|Arguments|Parameters):\s*$", function.__doc__ or "", flags=re.MULTILINE)
    texts: dict[str, str] = {}
    for line in section[1].splitlines() if len(section) > 1 else ():
        if found := _PARAMETER_LINE.match(line):
            texts[found[1]] = found[2].strip()
        elif line.strip().endswith(":"):
            break
    return texts


async def run_tools(
    reply: ChatResponse | ChatMessage, tools: Iterable[Callable[..., Any]] | Mapping[str, Callable[..., Any]]
) -> list[dict[str, Any]]:
    """Run the calls that a reply asks for, all at once, and return the messages that answer them, in order.

    Append the reply's message and then these, and ask again. Coroutine functions run on the event loop, others in
    worker threads. Arguments are checked and converted by the functions' annotations. A tool that does not exist, is
    called with wrong arguments or raises gives a message that tells the model so.
    """
    known = dict(tools) if isinstance(tools, Mapping) else {f.__name__: f for f in tools}
    message = reply if isinstance(reply, ChatMessage) else reply.message
    results: list[str] = [""] * len(message.tool_calls)

    async def run(position: int, call: ToolCall) -> None:
        results[position] = await _outcome(call, known)

    async with anyio.create_task_group() as tasks:
        for position, call in enumerate(message.tool_calls):
            tasks.start_soon(run, position, call)
    return [_message(call, result) for call, result in zip(message.tool_calls, results, strict=True)]


async def _outcome(call: ToolCall, known: Mapping[str, Callable[..., Any]]) -> str:
    name = call.function.name
    if name not in known:
        return f"error: there is no tool {name!r}; the tools are {', '.join(known) or 'none'}"
    function = known[name]
    try:
        arguments = _converted(function, call.function.arguments)
        if inspect.iscoroutinefunction(function):
            result = await function(**arguments)
        else:
            result = await anyio.to_thread.run_sync(lambda: function(**arguments))
    except Exception as exc:  # noqa: BLE001 - the model is told what its call led to
        return f"error: {type(exc).__name__}: {exc}"
    return result if isinstance(result, str) else _as_json(result)


def _converted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments against the annotations: "3" becomes 3, a dict a Struct."""
    given = msgspec.convert(dict(arguments), _struct(function, _fields(function)), strict=False)
    return {name: getattr(given, name) for name in arguments}


def _as_json(result: Any) -> str:
    try:
        return msgspec.json.encode(result).decode()
    except (TypeError, msgspec.MsgspecError):
        return str(result)


def _message(call: ToolCall, content: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "tool", "tool_name": call.function.name, "content": content}
    return {**message, "tool_call_id": call.id} if call.id else message
