"""The format of exported memories: JSON lines, each on its own. Pure.

A header, the memories with facts after their turns, the unfinished jobs, and an end that counts what came before it.
"""

from __future__ import annotations

import json
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from msgspec.structs import asdict, replace

from ollama_async_mem.counts import Counts  # noqa: TC001 - msgspec resolves annotations at run time
from ollama_async_mem.errors import ConfigError, SchemaTooNew
from ollama_async_mem.records import EmbeddingSpace, StoredJob, StoredMemory

if TYPE_CHECKING:
    from ollama_async_mem.records import MemoryRecord

__all__ = ["End", "Header", "Item", "kind_of", "read_header", "read_line", "write_line"]

FORMAT, VERSION = "ollama-async-mem", 1
_MINUTE = timedelta(minutes=1)

Item: TypeAlias = StoredMemory | StoredJob


class _Version(msgspec.Struct, kw_only=True):
    """What the first line of every version has."""

    format: str
    version: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: whose vectors follow, None where there are none, and about how many memories."""

    format: str = FORMAT
    version: int = VERSION
    space: EmbeddingSpace | None
    counts: Counts


class _MemoryLine(StoredMemory, frozen=True, kw_only=True, tag_field="line", tag="memory"):
    """A memory; its vector is written in base64."""


class _JobLine(StoredJob, frozen=True, kw_only=True, tag_field="line", tag="job"):
    """A job."""


class End(msgspec.Struct, frozen=True, kw_only=True, tag_field="line", tag="end"):
    """The last line: how many lines of each kind there were."""

    turns: int
    facts: int
    jobs: int


_Line: TypeAlias = _MemoryLine | _JobLine | End


def kind_of(item: Item) -> str:
    """What an item counts as: turn, fact or job."""
    return "job" if isinstance(item, StoredJob) else item.memory.kind


def write_line(line: Header | Item | End) -> bytes:
    """Return a line with its end."""
    if isinstance(line, StoredMemory):
        line = _MemoryLine(memory=_on_the_minute(line.memory), vector=line.vector, events=line.events)
    elif isinstance(line, StoredJob):
        line = _JobLine(**asdict(line))
    try:
        return msgspec.json.encode(line) + b"\n"
    except UnicodeEncodeError:  # an id with half a surrogate pair, which JSON can spell and UTF-8 cannot
        return json.dumps(msgspec.to_builtins(line)).encode() + b"\n"


def _on_the_minute(memory: MemoryRecord) -> MemoryRecord:
    """The same instant on a clock that is whole minutes off UTC, as those of JSON are."""
    offset = memory.at.utcoffset() or timedelta()
    if not offset % _MINUTE:
        return memory
    return replace(memory, at=memory.at.astimezone(timezone(offset // _MINUTE * _MINUTE)))


def read_header(line: bytes) -> Header:
    """Read the first line.

    Raises:
        ConfigError: it is not the header of an export.
        SchemaTooNew: it is that of a newer version.
    """
    try:
        version = msgspec.json.decode(line, type=_Version)
        if version.format == FORMAT and version.version > VERSION:
            raise SchemaTooNew(
                f"the lines have version {version.version}, this version reads {VERSION}: upgrade ollama-async-mem"
            )
        header = msgspec.json.decode(line, type=Header)
    except msgspec.MsgspecError as exc:
        raise ConfigError(f"the first line is not the header of exported memories: {exc}") from exc
    if (header.format, header.version) != (FORMAT, VERSION):
        raise ConfigError(
            f"the first line names the format {header.format!r:.80} {header.version}, not {FORMAT} {VERSION}"
        )
    return header


def read_line(number: int, line: bytes, *, dimension: int | None) -> Item | End:
    """Read a line after the first. Memories must have vectors of a dimension, or with None may have any or none.

    Raises:
        ConfigError: it is not a line of an export; the message names it by its number.
    """
    try:
        item: _Line = _decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ConfigError(f"line {number}: {exc}") from exc
    if isinstance(item, _MemoryLine) and (flaw := _flaw(item, dimension)):
        raise ConfigError(f"line {number}: {flaw}")
    return item


_decoder = msgspec.json.Decoder(_Line)


def _decode(line: bytes) -> Any:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        if b"\\ud" not in line.lower():
            raise
        return msgspec.convert(json.loads(line), type=_Line)  # it may be half a surrogate pair, see write_line


def _flaw(stored: StoredMemory, dimension: int | None) -> str:
    """What is wrong with a memory, if anything."""
    if dimension is not None and not stored.vector:
        return "there is no vector, and no `embed` to make one"
    if dimension is not None and len(stored.vector) != 4 * dimension:
        return f"the vector has {len(stored.vector)} bytes, not 4 for each of {dimension} dimensions"
    if any(event.memory_id != stored.memory.id for event in stored.events):
        return "there is an event of another memory"
    return ""
