"""What callers give to `add`, made into messages and turns: texts, mappings of several shapes, and objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.memory.checks import as_time
from ollama_async_mem.memory.texts import clean
from ollama_async_mem.records import DateRange, Message, Scope, Turn, new_id

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["MessageInput", "are_long", "as_messages", "as_turns", "dates_in", "timed"]

MessageInput: TypeAlias = str | Mapping[str, Any] | Message
_INSTRUCTIONS = ("system", "developer")
_SAYING = ("content", "images", "tool_calls")
_FIELDS = ("role", "content", "name", "timestamp", "images", "tool_calls", "tool_name")
_DATED_CHARS = 20_000
"""How much of a text is read for dates: all but of documents."""
_QUICK_CHARS = 2_000


def as_messages(messages: MessageInput | Sequence[MessageInput]) -> list[Message]:
    """Read a text, a message, or a list of either, without the instructions of the application.

    A message is a text, a `Message`, a mapping as OpenAI or Ollama have it, or an object with `role` and `content`.
    Content may be a list of parts; tool calls without words become words.

    Raises:
        ConfigError: there is nothing to store, or a message has neither text nor images; names its position.
    """
    single = isinstance(messages, str | Message | Mapping) or not isinstance(messages, Sequence)
    items = [messages] if single else list(messages)  # type: ignore[arg-type]
    if not items:
        raise ConfigError("there is no message to add")
    read = [_as_message(item, "" if single else f" {position}") for position, item in enumerate(items, 1)]
    said = [message for message in read if message.role.lower() not in _INSTRUCTIONS]
    if not said:
        raise ConfigError('there are only "system" messages: instructions are not remembered')
    return said


def _as_message(item: Any, position: str) -> Message:
    message = _read(item, position)
    if not (message.content.strip() or message.images):
        raise ConfigError(f"message{position} has no text: blank messages are not stored")
    name = clean(message.name) if message.name else None
    return msgspec.structs.replace(
        message,
        role=clean(message.role),
        content=clean(message.content),
        name=name,
        timestamp=as_time(message.timestamp),
    )


def _read(item: Any, position: str) -> Message:
    if isinstance(item, str):
        return Message(content=item)
    if isinstance(item, Mapping):
        return _from_mapping(item, position)
    return item if isinstance(item, Message) else _from_object(item, position)


def _from_object(item: object, position: str) -> Message:
    """Read an object that looks like a message, such as those of our client and of the official one."""
    if not (hasattr(item, "role") and hasattr(item, "content")):
        raise ConfigError(f"message{position} is a {type(item).__name__}; give a text, a mapping or a Message")
    return _from_mapping({name: getattr(item, name, None) for name in _FIELDS}, position)


def _from_mapping(item: Mapping[str, Any], position: str) -> Message:
    role, name = item.get("role", "user"), item.get("name") or item.get("tool_name")
    if not isinstance(role, str) or not role:
        raise ConfigError(f'message{position}: "role" is a text such as "user", got {role!r}')
    if name is not None and not isinstance(name, str):
        raise ConfigError(f'message{position}: "name" is a text, got {name!r}')
    if not any(item.get(field) is not None for field in _SAYING):
        raise ConfigError(f'message{position} needs its text as a string under "content"')
    text, images = _content(item.get("content"), position)
    images += _images(item.get("images"), position)
    calls = "\n".join(_calls(item.get("tool_calls")))
    return Message(
        role=role,
        content=text if text.strip() else calls,
        name=name or None,
        timestamp=as_time(item.get("timestamp") or item.get("created_at")),
        images=tuple(images),
    )


def _content(content: Any, position: str) -> tuple[str, list[str | bytes]]:
    """The text of a message and its images: `content` is a text or, as OpenAI has it, a list of parts."""
    if isinstance(content, str | None):
        return content or "", []
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise ConfigError(f'message{position} needs its text as a string or a list of parts under "content"')
    texts = [str(part["text"]) for part in content if part.get("text")]
    return "\n".join(texts), [url for part in content if (url := _image(part))]


def _images(images: Any, position: str) -> list[str | bytes]:
    """What stands under "images", as Ollama has it."""
    if images is None:
        return []
    if not isinstance(images, list | tuple) or not all(isinstance(image, str | bytes) for image in images):
        raise ConfigError(f'message{position}: "images" is a list of bytes, base64 or data: URLs')
    return list(images)


def _image(part: Mapping[str, Any]) -> str:
    """The URL or base64 of a part that is an image, else ""."""
    image = part.get("image_url") or part.get("image")
    found = image.get("url") if isinstance(image, Mapping) else image
    return found if isinstance(found, str) else ""


def _calls(tool_calls: object) -> Iterable[str]:
    """Write tool calls as words, for an assistant that says nothing else."""
    for call in tool_calls if isinstance(tool_calls, Iterable) else ():
        function = _part(call, "function")
        arguments = _part(function, "arguments")
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments, enc_hook=repr).decode()
        yield f"calls {_part(function, 'name')}({arguments})"


def _part(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def timed(messages: Sequence[Message], at: datetime) -> list[Message]:
    """Give each message a time: its own, else that of the one before it, at first `at`."""
    said: list[Message] = []
    for message in messages:
        at = message.timestamp or at
        said.append(msgspec.structs.replace(message, timestamp=at))
    return said


def as_turns(
    messages: Sequence[Message],
    scope: Scope,
    *,
    now: datetime,
    metadata: dict[str, Any],
    expires_at: datetime | None = None,
) -> list[Turn]:
    """Make the turns that store messages with times."""
    return [_as_turn(message, scope, now=now, metadata=metadata, expires_at=expires_at) for message in messages]


def are_long(messages: Sequence[Message]) -> bool:
    """Whether reading the dates in messages takes so long that it belongs into a thread: some milliseconds."""
    return sum(min(len(message.content), _DATED_CHARS) for message in messages) > _QUICK_CHARS


def _as_turn(
    message: Message, scope: Scope, *, now: datetime, metadata: dict[str, Any], expires_at: datetime | None
) -> Turn:
    said_at = message.timestamp or now
    return Turn(
        id=new_id(),
        scope=scope,
        role=message.role,
        speaker=message.name,
        text=message.content,
        at=said_at,
        created_at=now,
        metadata=metadata,
        expires_at=expires_at,
        dates=dates_in(message.content, said_at),
    )


def dates_in(text: str, said_at: datetime) -> tuple[DateRange, ...]:
    """The days that a text names, seen from when it was said."""
    from ollama_async_mem.memory.dates import find_dates  # noqa: PLC0415 - its patterns take a while to compile

    return tuple(find_dates(text[:_DATED_CHARS], said_at))
