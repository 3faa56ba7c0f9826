"""A conversation as a chat model takes it: instructions, images and tool calls stay as they are. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.memory.texts import clean
from ollama_async_mem.memory.vision import REMOTE, as_bytes
from ollama_async_mem.records import Message

if TYPE_CHECKING:
    from ollama_async_mem.memory.messages import MessageInput

__all__ = ["as_prompt", "has_instructions", "with_memories"]

_KEPT = ("tool_name", "tool_call_id", "thinking")
_FIELDS = ("role", "content", "images", "tool_calls", *_KEPT)


def as_prompt(messages: MessageInput | Sequence[MessageInput]) -> list[dict[str, Any]]:
    """Write messages that `as_messages` can read as Ollama takes them, with images as base64.

    An image by URL is not fetched: the URL is noted in the text.

    Raises:
        ConfigError: an image or a tool call cannot be read.
    """
    if isinstance(messages, str | Message | Mapping) or not isinstance(messages, Sequence):
        return [_written(messages)]
    return [_written(message) for message in messages]


def has_instructions(prompt: Sequence[dict[str, Any]]) -> bool:
    """Tell whether a conversation begins with instructions."""
    return bool(prompt) and prompt[0]["role"] == "system"


def with_memories(prompt: Sequence[dict[str, Any]], block: str, *, instructions: str = "") -> list[dict[str, Any]]:
    """Put a block of memories behind the instructions: into the same message, as many models read only one.

    `instructions` are those of a conversation that does not begin with any.
    """
    if has_instructions(prompt):
        instructions, prompt = prompt[0]["content"], prompt[1:]
    return [{"role": "system", "content": f"{instructions}\n\n{block}" if instructions else block}, *prompt]


def _written(item: Any) -> dict[str, Any]:
    fields = _fields(item)
    role = str(fields.get("role") or "user")
    texts, images = _parts(fields.get("content"))
    images += fields.get("images") or ()
    texts += [f"[image: {image}]" for image in images if _is_remote(image)]
    encoded = [as_bytes(image) for image in images if not _is_remote(image)]
    calls = [_call(call) for call in fields.get("tool_calls") or ()]
    kept = {name: fields[name] for name in _KEPT if fields.get(name)}
    more = {name: value for name, value in (("images", encoded), ("tool_calls", calls)) if value}
    return {
        "role": "system" if role.lower() in ("system", "developer") else clean(role),
        "content": clean("\n".join(texts)),
        **more,
        **kept,
    }


def _fields(item: Any) -> Mapping[str, Any]:
    if isinstance(item, str):
        return {"content": item}
    return item if isinstance(item, Mapping) else {name: getattr(item, name, None) for name in _FIELDS}


def _parts(content: Any) -> tuple[list[str], list[Any]]:
    """The texts and the images of a content, which is a text or, as OpenAI has it, a list of parts."""
    if isinstance(content, str | None):
        return [content] if content else [], []
    texts = [str(part["text"]) for part in content if part.get("text")]
    images = [part.get("image_url") or part.get("image") for part in content]
    found = [image.get("url") if isinstance(image, Mapping) else image for image in images]
    return texts, [image for image in found if isinstance(image, str) and image]


def _is_remote(image: Any) -> bool:
    return isinstance(image, str) and image.startswith(REMOTE)


def _call(call: Any) -> dict[str, Any]:
    """A tool call; OpenAI has its arguments as JSON in a text, Ollama as an object."""
    function = _part(call, "function")
    arguments = _part(function, "arguments")
    try:
        read = msgspec.json.decode(arguments) if isinstance(arguments, str | bytes) else arguments
    except msgspec.DecodeError as exc:
        raise ConfigError(f"the arguments of a tool call are no JSON: {arguments!r:.80}") from exc
    return {"function": {"name": _part(function, "name"), "arguments": read or {}}}


def _part(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
