"""What other programs export, read as additions for `Memory.add_many`. Recognised by looking. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ollama_async_mem.cli.files import parse_messages
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.memory.checks import as_time
from ollama_async_mem.memory.messages import as_messages
from ollama_async_mem.memory.texts import clean
from ollama_async_mem.records import Message

__all__ = ["Addition", "FileFormat", "Foreign", "is_own", "recognised", "without_bad"]

FileFormat: TypeAlias = Literal["auto", "own", "chat", "text", "chatgpt", "mem0"]
Addition: TypeAlias = dict[str, Any]
_OWN = b'"format":"ollama-async-mem"'
_TICK = timedelta(microseconds=1)
_SPEAKERS = ("user", "assistant")
_SAID = ("text", "multimodal_text")
_LINES: dict[FileFormat, Literal["jsonl", "text"]] = {"chat": "jsonl", "text": "text"}


class Foreign(NamedTuple):
    """What a file holds: its format, the arguments of each addition, and one line for each entry that is none."""

    format: FileFormat
    additions: list[Addition]
    problems: list[str]


def is_own(beginning: bytes) -> bool:
    """Tell whether a file that begins so was written by `export`."""
    return _OWN in beginning.partition(b"\n")[0].replace(b" ", b"")


def recognised(text: str, *, name: str, format: FileFormat, now: datetime) -> Foreign:
    """Read a file in the format that is named, or that it looks like. What has no date was said `now`.

    Every message is an addition of its own under a key that follows from it, so that the same file can be imported
    again, also when it has grown.

    Raises:
        ConfigError: it is not in that format.
    """
    value = None if format == "text" else _json(text)
    looks_like = _looks_like(value) if format == "auto" else format
    if looks_like == "mem0":
        return _read("mem0", _mem0_entries(value), _mem0, name)
    if looks_like == "chatgpt":
        return _read("chatgpt", _conversations(value), _conversation, name)
    return _chat(value, text, name=name, format=format, now=now)


def without_bad(found: Foreign, *, skip_bad: bool) -> list[Addition]:
    """Return the additions of a file.

    Raises:
        ConfigError: some of it could not be read and `skip_bad` is not set, or there is nothing to import.
    """
    if found.problems and not skip_bad:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise ConfigError(f"{found.problems[0]}{more}. Nothing was stored; --skip-bad leaves such entries out")
    if not found.additions:
        raise ConfigError(f"there is nothing to import in a file of the format {found.format}")
    return found.additions


def _json(text: str) -> Any:
    """The whole file as one JSON value, None where it is none."""
    try:
        return json.loads(text)  # not msgspec, which refuses half a surrogate pair
    except (ValueError, RecursionError):
        return None


def _looks_like(value: Any) -> FileFormat:
    first = next(iter(value), None) if isinstance(value, list) else value
    if not isinstance(first, Mapping):
        return "chat"
    if "mapping" in first:
        return "chatgpt"
    return "mem0" if "memory" in first or isinstance(first.get("results"), list) else "chat"


def _read(format: FileFormat, entries: Iterable[Any], read: Callable[[Any], Iterable[Addition]], name: str) -> Foreign:
    additions: list[Addition] = []
    problems: list[str] = []
    for number, entry in enumerate(entries, 1):
        try:
            additions += read(entry)
        except ConfigError as exc:
            problems.append(f"{name}, entry {number}: {exc}")
    return Foreign(format, additions, problems)


def _chat(value: Any, text: str, *, name: str, format: FileFormat, now: datetime) -> Foreign:
    """One conversation: a JSON list of messages, JSON lines, or plain text with one message a line."""
    if isinstance(value, list):
        found = _read("chat", value, lambda entry: [{"messages": message} for message in as_messages(entry)], name)
        messages, problems = [addition["messages"] for addition in found.additions], found.problems
    else:
        messages, problems = parse_messages(text, name=name, format=_LINES.get(format, "auto"), skip_bad=True)
    return Foreign("chat", list(_one_by_one(messages, now)), problems)


def _one_by_one(messages: Iterable[Message], now: datetime) -> Iterator[Addition]:
    """An addition for each message. Its key is a hash of it, and of how often it was there before."""
    seen: Counter[str] = Counter()
    for message, at in _in_order(messages, now):
        digest = sha256(msgspec.json.encode(message)).hexdigest()
        seen[digest] += 1
        yield {"messages": message, "timestamp": at, "key": f"import:{digest}:{seen[digest]}"}


def _in_order(messages: Iterable[Message], now: datetime) -> Iterator[tuple[Message, datetime]]:
    """Messages with their times: those of the same time, such as a date alone, get a microsecond more each."""
    last, same = None, 0
    for message in messages:
        at = message.timestamp or now
        last, same = at, same + 1 if at == last else 0
        at += same * _TICK
        yield (msgspec.structs.replace(message, timestamp=at) if message.timestamp else message), at


def _mem0_entries(value: Any) -> list[Any]:
    entries = value.get("results") if isinstance(value, Mapping) else value
    if not isinstance(entries, list):
        raise ConfigError('a dump of mem0 is what its get_all() gives: {"results": [{"memory": ...}]}, or that list')
    return entries


def _mem0(entry: Any) -> list[Addition]:
    """A memory of mem0, with its ids, its metadata and its date."""
    text = entry.get("memory") if isinstance(entry, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise ConfigError('an entry has its text under "memory"')
    role, metadata = entry.get("role"), entry.get("metadata")
    if not isinstance(metadata, dict | None):
        raise ConfigError('"metadata" is an object')
    message = Message(role=role if role in _SPEAKERS else "user", content=clean(text), name=_text_of(entry, "actor_id"))
    ids = {name: _text_of(entry, name) for name in ("user_id", "agent_id", "run_id")}
    return [
        {
            "messages": message,
            "timestamp": as_time(entry.get("created_at")),
            "metadata": metadata,
            "key": f"mem0:{_text_of(entry, 'id') or sha256(clean(text).encode()).hexdigest()}",
            **{name: id_ for name, id_ in ids.items() if id_},
        }
    ]


def _text_of(entry: Mapping[str, Any], name: str) -> str | None:
    value = entry.get(name)
    return clean(value) if isinstance(value, str) and value.strip() else None


def _conversations(value: Any) -> list[Any]:
    entries = [value] if isinstance(value, Mapping) else value
    if not isinstance(entries, list):
        raise ConfigError('an export of ChatGPT is a list of conversations, each with a "mapping" of its messages')
    return entries


def _conversation(entry: Any) -> Iterator[Addition]:
    """The messages of a conversation that both sides saw, on the branch that was shown last."""
    nodes = entry.get("mapping") if isinstance(entry, Mapping) else None
    if not isinstance(nodes, Mapping):
        raise ConfigError('a conversation has its messages under "mapping"')
    run_id = _text_of(entry, "conversation_id") or _text_of(entry, "id")
    title = _text_of(entry, "title")
    began = as_time(entry.get("create_time"))
    for node_id, node in _branch(nodes, entry.get("current_node")):
        if message := _said(node.get("message")):
            at = as_time(node["message"].get("create_time")) or began
            yield {
                "messages": message,
                "timestamp": at,
                "key": f"chatgpt:{_text_of(node['message'], 'id') or node_id}",
                **({"run_id": run_id} if run_id else {}),
                **({"metadata": {"title": title}} if title else {}),
            }
            began = at and at + _TICK


def _branch(nodes: Mapping[str, Any], leaf: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The nodes from the root to a leaf; without one that is there, all of them as they stand."""
    if not isinstance(leaf, str) or leaf not in nodes:
        return [(name, node) for name, node in nodes.items() if isinstance(node, Mapping)]
    path: dict[str, Mapping[str, Any]] = {}
    while isinstance(leaf, str) and leaf not in path and isinstance(node := nodes.get(leaf), Mapping):
        path[leaf] = node
        leaf = node.get("parent")
    return list(path.items())[::-1]


def _said(message: Any) -> Message | None:
    """A message that one side said to the other; None for what systems, tools and thoughts leave."""
    if not isinstance(message, Mapping):
        return None
    author, content = message.get("author"), message.get("content")
    if not isinstance(author, Mapping) or not isinstance(content, Mapping):
        return None
    is_said = author.get("role") in _SPEAKERS and content.get("content_type") in _SAID
    parts = content.get("parts")
    if not is_said or _is_aside(message) or not isinstance(parts, list):
        return None
    text = clean("\n".join(filter(None, map(_part, parts))))
    return Message(role=author["role"], content=text) if text.strip() else None


def _is_aside(message: Mapping[str, Any]) -> bool:
    """Tell whether a message is hidden, or was written to a tool."""
    about = message.get("metadata")
    is_hidden = isinstance(about, Mapping) and about.get("is_visually_hidden_from_conversation")
    return bool(is_hidden) or message.get("recipient", "all") != "all"


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else ""
