"""What callers give to `add`, made into messages. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.records import Kind, Message, Scope, Turn, new_id

__all__ = [
    "MessageInput",
    "as_messages",
    "as_time",
    "as_turn",
    "clean",
    "require_kinds",
    "require_limit",
    "require_query",
    "require_scope",
    "require_tokens",
]

_MOST = 1_000
_KINDS = ("turn", "fact")
_SURROGATES = re.compile("[\ud800-\udfff]")
MessageInput: TypeAlias = str | Mapping[str, Any] | Message


def as_messages(messages: MessageInput | Sequence[MessageInput]) -> list[Message]:
    """Read a text, a message, or a list of either.

    Raises:
        ConfigError: there is nothing to store, or a message has no text; names its position.
    """
    single = isinstance(messages, str | Message | Mapping) or not isinstance(messages, Sequence)
    items = [messages] if single else list(messages)  # type: ignore[arg-type]
    if not items:
        raise ConfigError("there is no message to add")
    return [_as_message(item, "" if single else f" {position}") for position, item in enumerate(items, 1)]


def _as_message(item: Any, position: str) -> Message:
    if isinstance(item, str):
        item = Message(content=item)
    elif isinstance(item, Mapping):
        item = _from_mapping(item, position)
    if not isinstance(item, Message):
        raise ConfigError(f"message{position} is a {type(item).__name__}; give a text, a mapping or a Message")
    if not item.content.strip():
        raise ConfigError(f"message{position} has no text: blank messages are not stored")
    name = clean(item.name) if item.name else None
    return msgspec.structs.replace(item, role=clean(item.role), content=clean(item.content), name=name)


def _from_mapping(item: Mapping[str, Any], position: str) -> Message:
    content, role, name = item.get("content"), item.get("role", "user"), item.get("name")
    if not isinstance(content, str):
        raise ConfigError(f'message{position} needs its text as a string under "content"')
    if not isinstance(role, str) or not role:
        raise ConfigError(f'message{position}: "role" is a text such as "user", got {role!r}')
    if name is not None and not isinstance(name, str):
        raise ConfigError(f'message{position}: "name" is a text, got {name!r}')
    return Message(role=role, content=content, name=name or None, timestamp=as_time(item.get("timestamp")))


def as_time(value: datetime | str | float | None) -> datetime | None:
    """Read a time: a datetime, an ISO 8601 text, or seconds since 1970. Without a zone it is taken as UTC.

    Raises:
        ConfigError: it is none of these.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise ConfigError(f"{value!r} is not a time: give ISO 8601, such as 2026-05-01T18:30:00Z")
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise ConfigError(f"{value!r} is not a time: give ISO 8601, such as 2026-05-01T18:30:00Z") from exc
    if not isinstance(value, datetime):
        raise ConfigError(f"{value!r} is not a time: give ISO 8601, such as 2026-05-01T18:30:00Z")
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        aware.astimezone(UTC)
    except OverflowError as exc:
        raise ConfigError(f"{value} is out of range: times are from year 1 to 9999") from exc
    return aware


def clean(text: str) -> str:
    """Replace lone surrogates, which are no characters and which neither JSON nor files can hold, by U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def as_turn(message: Message, scope: Scope, *, now: datetime, at: datetime, metadata: dict[str, Any]) -> Turn:
    """Make the turn that stores a message; its own timestamp comes before `at`."""
    return Turn(
        id=new_id(),
        scope=scope,
        role=message.role,
        speaker=message.name,
        text=message.content,
        at=message.timestamp or at,
        created_at=now,
        metadata=metadata,
    )


def require_scope(user_id: str | None, agent_id: str | None, run_id: str | None) -> Scope:
    """Make a scope of which at least one id is set.

    Raises:
        ConfigError: none is, or one is blank.
    """
    scope = Scope(user_id, agent_id, run_id)
    if not scope:
        raise ConfigError("say whose memory it is: user_id=, agent_id= or run_id=")
    for name in Scope.__struct_fields__:
        value: object = getattr(scope, name)
        if value is not None and not (isinstance(value, str) and value.strip() and clean(value) == value):
            raise ConfigError(f"{name} is a text that is not blank and has no lone surrogates, got {value!r}")
    return scope


def require_query(query: object) -> str:
    """Check what is looked for.

    Raises:
        ConfigError: it is blank, or no text.
    """
    if not isinstance(query, str) or not query.strip():
        raise ConfigError(f"the query is a text that says what to look for, got {query!r}")
    return clean(query)


def require_limit(limit: object) -> int:
    """Check how many are wanted.

    Raises:
        ConfigError: it is out of range.
    """
    if not isinstance(limit, int) or not 1 <= limit <= _MOST:
        raise ConfigError(f"limit is from 1 to {_MOST}, got {limit!r}")
    return limit


def require_kinds(kinds: object) -> Sequence[Kind]:
    """Check which kinds of memories are wanted.

    Raises:
        ConfigError: they are not "turn" and "fact".
    """
    if not isinstance(kinds, list | tuple) or not kinds or any(kind not in _KINDS for kind in kinds):
        raise ConfigError(f"kinds is a list of {_KINDS}, got {kinds!r}")
    return kinds


def require_tokens(max_tokens: object) -> int:
    """Check a budget.

    Raises:
        ConfigError: it is not a number from 1 on.
    """
    if not isinstance(max_tokens, int) or max_tokens < 1:
        raise ConfigError(f"max_tokens is at least 1, got {max_tokens!r}")
    return max_tokens
