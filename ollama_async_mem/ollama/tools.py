"""Python functions as tools: described to the model, and run when it asks for them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

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
        ConfigError: it is no function, a parameter is positional-only, or an annotation has no JSON schema or names
            what is not there at run time.
    """
    name = _name(function)
    try:
        (schema,), definitions = msgspec.json.schema_components([_struct(function)])
    except (TypeError, RuntimeError) as exc:
        raise ConfigError(f"the tool {name!r} cannot be described: {exc}") from exc
    parameters = definitions.pop(schema["$ref"].rpartition("/")[2])
    texts = _parameter_texts(function)
    for parameter, described in parameters["properties"].items():
        described.pop("default", None)
        if parameter in texts:
            described["description"] = texts[parameter]
    parameters.pop("title", None)
    if definitions:
        parameters["$defs"] = definitions
    summary = (inspect.getdoc(_inner(function)) or "").partition("\n\n")[0].replace("\n", " ")
    return {"type": "function", "function": {"name": name, "description": summary, "parameters": parameters}}


def _inner(function: Any) -> Any:
    """The function that has the annotations: within a partial, or the `__call__` of an object."""
    while isinstance(function, partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _name(function: Any) -> str:
    """Name a tool after its function, or after the class of an object that is called.

    Raises:
        ConfigError: it is no tool.
    """
    while isinstance(function, partial):
        function = function.func
    if inspect.isclass(function) or not callable(function):
        raise ConfigError(f"a tool is a function or its JSON description, got {function!r:.200}")
    return str(getattr(function, "__name__", type(function).__name__))


def _fields(function: Callable[..., Any]) -> list[Any]:
    hints, signature = _annotated(function)
    fields: list[Any] = []
    for name, parameter in signature.parameters.items():
        if parameter.kind in _SKIPPED or name == "self":
            continue
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise ConfigError(f"the tool {_name(function)!r} cannot be called by name: {name!r} is positional-only")
        type_ = hints.get(name, Any)
        if parameter.default is inspect.Parameter.empty:
            fields.append((name, type_))
        else:
            fields.append((name, type_, msgspec.field(default_factory=lambda: None)))
    return fields


def _annotated(function: Callable[..., Any]) -> tuple[dict[str, Any], inspect.Signature]:
    try:
        return get_type_hints(_inner(function), include_extras=True), inspect.signature(function)
    except (NameError, AttributeError, TypeError, ValueError, SyntaxError) as exc:
        raise ConfigError(
            f"the annotations of the tool {_name(function)!r} cannot be read: {exc}. What they name has to be there "
            "at run time, at the top of the module; or give a JSON description in place of the function"
        ) from exc


def _struct(function: Callable[..., Any]) -> type[msgspec.Struct]:
    return msgspec.defstruct(_name(function), _fields(function), kw_only=True, forbid_unknown_fields=True)


def _parameter_texts(function: Callable[..., Any]) -> dict[str, str]:
    """Read the descriptions in a docstring's `Args:` section, Google's way."""
    section = re.split(r"^\s*(?:Args|Arguments|Parameters):\s*$", _inner(function).__doc__ or "", flags=re.MULTILINE)
    texts: dict[str, str] = {}
    for line in section[1].splitlines() if len(section) > 1 else ():
        if found := _PARAMETER_LINE.match(line):
            texts[found[1]] = found[2].strip()
        elif line.strip().endswith(":"):
            break
    return texts


async def run_tools(
    reply: ChatResponse | ChatMessage,
    tools: Iterable[Mapping[str, Any] | Callable[..., Any]] | Mapping[str, Callable[..., Any]],
) -> list[dict[str, Any]]:
    """Run the calls that a reply asks for, all at once, and return the messages that answer them, in order.

    Append the reply's message and then these, and ask again. Coroutine functions run on the event loop, others in
    worker threads, which are left to themselves when this is cancelled. Arguments are checked and converted by the
    functions' annotations. A tool that does not exist or is only described, is called with wrong arguments or raises
    gives a message that tells the model so.

    Raises:
        ConfigError: one of `tools` cannot be a tool, as of `tool_schema`.
    """
    known = _runnable(tools)
    message = reply if isinstance(reply, ChatMessage) else reply.message
    results: list[str] = [""] * len(message.tool_calls)

    async def run(position: int, call: ToolCall) -> None:
        results[position] = await _outcome(call, known)

    async with anyio.create_task_group() as tasks:
        for position, call in enumerate(message.tool_calls):
            tasks.start_soon(run, position, call)
    return [_message(call, result) for call, result in zip(message.tool_calls, results, strict=True)]


class _Tool(NamedTuple):
    function: Callable[..., Any]
    arguments: type[msgspec.Struct]


def _runnable(tools: Any) -> dict[str, _Tool]:
    """Name what can be run; what is only described cannot."""
    if not isinstance(tools, Mapping):
        tools = {_name(tool): tool for tool in tools if not isinstance(tool, Mapping)}
    return {name: _Tool(function, _struct(function)) for name, function in tools.items()}


async def _outcome(call: ToolCall, known: Mapping[str, _Tool]) -> str:
    name = call.function.name
    if name not in known:
        return f"error: the tool {name!r} is not available here; available are {', '.join(known) or 'none'}"
    function = known[name].function
    try:
        arguments = _converted(known[name].arguments, call.function.arguments)
        if inspect.iscoroutinefunction(function):
            result = await function(**arguments)
        else:
            result = await anyio.to_thread.run_sync(lambda: function(**arguments), abandon_on_cancel=True)
            if inspect.isawaitable(result):  # it was a coroutine function within another
                result = await result
    except Exception as exc:  # noqa: BLE001 - the model is told what its call led to
        return f"error: {type(exc).__name__}: {exc}"
    return result if isinstance(result, str) else _as_json(result)


def _converted(type_: type[msgspec.Struct], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments against the annotations: "3" becomes 3, a dict a Struct."""
    given = msgspec.convert(dict(arguments), type_, strict=False)
    return {name: getattr(given, name) for name in arguments}


def _as_json(result: Any) -> str:
    try:
        return msgspec.json.encode(result).decode()
    except (TypeError, msgspec.MsgspecError):
        return str(result)


def _message(call: ToolCall, content: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "tool", "tool_name": call.function.name, "content": content}
    return {**message, "tool_call_id": call.id} if call.id else message
