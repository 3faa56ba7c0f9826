"""Stores of memories: implementations of `ports.MemoryStore`, chosen by URL.

Importing this package imports no implementation, and so neither numpy nor sqlite3.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from ollama_async_mem.ports import MemoryStore

__all__ = ["open_store"]

_ALLOWED = "sqlite:///relative/path, sqlite:////absolute/path, sqlite:// (in memory), or a path"


def open_store(url: str | os.PathLike[str], *, create: bool = True) -> MemoryStore:
    """Return the store that a URL or a path names; `async with` opens it, nothing is touched before.

    `sqlite:///memories.db` is relative, `sqlite:////var/memories.db` absolute, `sqlite:///~/memories.db` in the
    home folder, `sqlite://` lives in memory until it is closed. Paths are taken as they are, without %-escapes.
    Without `create`, opening a file that does not exist is a StoreError and makes none.

    Raises:
        ConfigError: the URL names no store that this version knows.
    """
    text = os.fspath(url)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    path = sqlite_path(text) if scheme is None or scheme[1] == "sqlite" else refuse(scheme[1])

    from .sqlite import SQLiteStore  # noqa: PLC0415 - keeps numpy and sqlite3 out of the import of the package

    return SQLiteStore(path, create=create)


def sqlite_path(url: str) -> str | None:
    """The file that a `sqlite:` URL or a bare path names; None means in memory. Pure.

    Raises:
        ConfigError: it names no file.
    """
    if url in {"sqlite://", "sqlite:///:memory:", ":memory:"}:
        return None
    path = url.removeprefix("sqlite:///")
    if not path or "\0" in path or path.startswith("sqlite://"):
        raise ConfigError(f"the store {url!r} names no file; allowed: {_ALLOWED}")
    if path != url and "?" in path:
        raise ConfigError(f"the store {url!r} has options after '?', and a sqlite URL takes none")
    return path


def refuse(scheme: str) -> str:
    """Say why a scheme cannot be used.

    Raises:
        ConfigError: always.
    """
    if scheme.partition("+")[0] in {"postgresql", "postgres"}:
        raise ConfigError(f"{scheme}:// stores are not supported yet by this version; allowed: {_ALLOWED}")
    raise ConfigError(f"{scheme}:// names no kind of store; allowed: {_ALLOWED}")
