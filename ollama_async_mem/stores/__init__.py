"""Stores of memories: implementations of `ports.MemoryStore`, chosen by URL.

Importing this package imports no implementation, and so neither numpy nor sqlite3 nor asyncpg.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from ollama_async_mem.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from ollama_async_mem.ports import MemoryStore

__all__ = ["open_store"]

_OPTIONS = {"tokenize", "durability", "cache_bytes"}
_ALLOWED = "sqlite:///relative/path, sqlite:////absolute/path, sqlite:// (in memory), a path, or postgresql://..."


def open_store(url: str | os.PathLike[str], *, create: bool = True) -> MemoryStore:
    """Return the store that a URL or a path names; `async with` opens it, nothing is touched before.

    `sqlite:///memories.db` is relative, `sqlite:////var/memories.db` absolute, `sqlite:///~/memories.db` in the
    home folder, `sqlite://` lives in memory until it is closed. Paths are taken as they are, without %-escapes. After a
    `?` come `tokenize`, `durability` and `cache_bytes` as `SQLiteStore` has them: `sqlite:///a.db?tokenize=trigram`.
    `postgresql://user:password@host/database` is a schema of a database, which must exist.
    Without `create`, opening what does not exist is a StoreError and makes nothing.

    Raises:
        ConfigError: the URL names no store that this version knows.
        MissingExtra: the store needs a package that is not installed.
    """
    text = os.fspath(url)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)
    if scheme and scheme[1] in {"postgresql", "postgres"}:
        return _postgres(text, create=create)
    if scheme and scheme[1] != "sqlite":
        raise ConfigError(f"{scheme[1]}:// names no kind of store; allowed: {_ALLOWED}")
    path, options = sqlite_path(text), sqlite_options(text)

    from .sqlite import SQLiteStore  # noqa: PLC0415 - keeps numpy and sqlite3 out of the import of the package

    return SQLiteStore(path, create=create, **options)


def _postgres(url: str, *, create: bool) -> MemoryStore:
    if find_spec("asyncpg") is None:
        raise MissingExtra("postgres", "a store in PostgreSQL")

    from .postgres import PostgresStore  # noqa: PLC0415 - as above, and asyncpg is there with its extra only

    return PostgresStore(url, create=create)


def sqlite_path(url: str) -> str | None:
    """The file that a `sqlite:` URL or a bare path names; None means in memory. Pure.

    Raises:
        ConfigError: it names no file.
    """
    place = url.partition("?")[0] if url.startswith("sqlite:") else url
    if place in {"sqlite://", "sqlite:///:memory:", ":memory:"}:
        return None
    path = place.removeprefix("sqlite:///")
    if not path or "\0" in path or path.startswith("sqlite:"):
        raise ConfigError(f"the store {place!r} names no file; allowed: {_ALLOWED}")
    return path


def sqlite_options(url: str) -> dict[str, Any]:
    """What stands after the `?` of a `sqlite:` URL, with %-escapes; in a bare path it is part of the name. Pure.

    Raises:
        ConfigError: it is not what such a URL takes.
    """
    query = url.partition("?")[2] if url.startswith("sqlite:") else ""
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as exc:
        raise ConfigError("what follows '?' in a sqlite URL is not name=value, joined by '&'") from exc
    names = [name for name, _ in given]
    if not _OPTIONS.issuperset(names) or len(set(names)) < len(names):
        takes = "tokenize=, durability= and cache_bytes="
        raise ConfigError(f"a sqlite URL takes {takes} after '?', each once; got {', '.join(names)}")
    options: dict[str, Any] = dict(given)
    if "cache_bytes" in options:
        options["cache_bytes"] = _bytes(options["cache_bytes"])
    return options


def _bytes(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ConfigError(f"cache_bytes in a sqlite URL is a number of bytes, got {text!r}")
    return int(text)
