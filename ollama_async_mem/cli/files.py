"""Messages from files and standard input: JSON lines or plain text. Reading apart from understanding."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import msgspec

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.memory.messages import as_messages
from ollama_async_mem.records import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Parsed", "as_file", "parse_messages", "read_text"]


class Parsed(NamedTuple):
    """The messages of a file, and one line for each that was left out."""

    messages: list[Message]
    problems: list[str]


@contextmanager
def as_file(path: str) -> Iterator[str]:
    """A path under which what is meant can be read more than once: for "-" that of a copy, removed in the end.

    Raises:
        ConfigError: standard input cannot be read.
    """
    if path != "-":
        yield path
        return
    with TemporaryDirectory(prefix="ollama-async-mem-") as folder:  # only this user can look into it
        copy = Path(folder) / "standard-input"
        try:
            with copy.open("wb") as file:
                shutil.copyfileobj(_standard_input(), file)
        except OSError as exc:  # it is a folder, or the disk is full
            raise ConfigError(f"cannot copy standard input to {folder}: {exc.strerror or exc}") from exc
        yield str(copy)


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise ConfigError("there is no standard input: name a file")
    return sys.stdin.buffer


def read_text(path: str) -> str:
    """Read a file, or standard input for "-", as UTF-8.

    Raises:
        ConfigError: it cannot be read, or is not text.
    """
    try:
        data = _standard_input().read() if path == "-" else Path(path).expanduser().read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, RuntimeError, ValueError) as exc:  # RuntimeError is an unknown ~user, ValueError a NUL
        if isinstance(exc, UnicodeDecodeError):
            raise ConfigError(f"{path} is not UTF-8 text (byte {exc.start}): convert it first") from exc
        raise ConfigError(f"cannot read {path}: {getattr(exc, 'strerror', None) or exc}") from exc


def parse_messages(
    text: str, *, name: str, format: Literal["auto", "jsonl", "text"] = "auto", skip_bad: bool = False
) -> Parsed:
    """Read JSON lines, or plain text with one message a line; blank lines are passed over.

    "auto" takes a file that is named .jsonl, .ndjson or .json, or begins with a brace, for JSON lines.

    Raises:
        ConfigError: a line is not a message and `skip_bad` is not set, or there is no message at all.
    """
    read = _json_message if _is_json(text, name, format) else _text_message
    messages: list[Message] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            messages.append(read(line))
        except (ConfigError, msgspec.MsgspecError) as exc:
            problems.append(f"{name}, line {number}: {exc}")
    if problems and not skip_bad:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{problems[0]}{more}. Nothing was stored; --skip-bad leaves such lines out")
    if not messages:
        raise ConfigError(f"{name} holds no message" + (f": {problems[0]}" if problems else ""))
    return Parsed(messages, problems)


def _is_json(text: str, name: str, format: Literal["auto", "jsonl", "text"]) -> bool:
    if format != "auto":
        return format == "jsonl"
    return name.endswith((".jsonl", ".ndjson", ".json")) or text.lstrip().startswith("{")


def _json_message(line: str) -> Message:
    try:
        value: Any = msgspec.json.decode(line)
    except msgspec.DecodeError:
        value = _lenient(line)
    if not isinstance(value, dict):
        raise ConfigError('a message is an object like {"role": "user", "content": "..."}')
    return as_messages(value)[0]


def _lenient(line: str) -> Any:
    """Read what Python's own reader takes, such as half a surrogate pair; the better message is msgspec's."""
    try:
        return json.loads(line)
    except ValueError:
        return msgspec.json.decode(line)


def _text_message(line: str) -> Message:
    return Message(content=line.strip())
