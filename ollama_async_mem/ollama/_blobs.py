"""Files that a model is made of: hashed, and uploaded where the server lacks them, in pieces and off the event loop.

It knows files, digests and the server's blobs, nothing of models.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import msgspec
from anyio.to_thread import run_sync

from ollama_async_mem.errors import ConfigError, StatusError

from ._exchange import Upload
from .schema import PullProgress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from ._http import Server

    Files: TypeAlias = Mapping[str, str | Path] | Sequence[str | Path]
    Report: TypeAlias = Callable[[PullProgress], Awaitable[None]]

__all__ = ["check_readable", "is_digest", "sources", "stored"]

PIECE_BYTES = 1024 * 1024
_DIGEST = "sha256:"
_DIGEST_LENGTH = len(_DIGEST) + 64
_NOT_FOUND = 404


def sources(argument: str, files: object) -> dict[str, str | Path]:
    """Read what was given as files: the name of each, and its path or digest. Pure.

    Raises:
        ConfigError: that is no mapping of names and no list of paths, or a name cannot be used.
    """
    if isinstance(files, list | tuple):
        named = {Path(path).name if isinstance(path, str | Path) else repr(path): path for path in files}
        if len(named) < len(files):
            raise ConfigError(f"{argument} has two files of one name: give a mapping of names to paths")
    elif isinstance(files, Mapping):
        named = dict(files)
    else:
        raise ConfigError(f"{argument} is a mapping of names to paths, or a list of paths, got {files!r}")
    if not named:
        raise ConfigError(f"{argument} is empty")
    for name, source in named.items():
        _check_name(argument, name)
        _check_source(argument, name, source)
    return named


def _check_name(argument: str, name: object) -> None:
    """Refuse what the server refuses: a name is a relative path with slashes that stays below its folder."""
    if not isinstance(name, str) or any(part in {"", ".", ".."} for part in name.split("/")):
        raise ConfigError(f"a name in {argument} is like 'model.gguf', got {name!r}")


def _check_source(argument: str, name: str, source: object) -> None:
    if not isinstance(source, str | Path) or not str(source):
        raise ConfigError(f"{name!r} in {argument} is a path or a digest, got {source!r}")
    if is_digest(source) and not _is_whole(source):
        raise ConfigError(f"{name!r} in {argument} is not 'sha256:' and 64 hexadecimal digits: {source!r}")
    if source == name and is_digest(source):
        raise ConfigError(f'a digest in {argument} needs a name: {argument}={{"model.gguf": {source!r}}}')


def is_digest(source: object) -> bool:
    """Tell a digest from a path."""
    return isinstance(source, str) and source.startswith(_DIGEST)


def _is_whole(digest: object) -> bool:
    text = str(digest)
    return len(text) == _DIGEST_LENGTH and all(c in "0123456789abcdefABCDEF" for c in text.removeprefix(_DIGEST))


def check_readable(files: Mapping[str, str | Path]) -> None:
    """Open each file once; blocks.

    Raises:
        ConfigError: it does not exist, is a folder, or may not be read.
    """
    for source in files.values():
        if not is_digest(source):
            _File(Path(source)).close()


class _File:
    """An open file that has to stay as it is while it is hashed and sent. Its methods block."""

    def __init__(self, path: Path) -> None:
        import hashlib  # noqa: PLC0415 - takes longer to load than a request, and only uploads need it

        self.path = path
        self._hash = hashlib.sha256(usedforsecurity=False)
        try:
            mode = path.stat().st_mode  # before it is opened: opening a pipe could wait for ever
            if not stat.S_ISREG(mode):
                kind = "a folder: name the files in it" if stat.S_ISDIR(mode) else "not a regular file"
                raise ConfigError(f"{path} is {kind}")
            self._file = path.open("rb")
        except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
            raise ConfigError(f"cannot read {path}: {getattr(exc, 'strerror', None) or exc}") from exc
        self._state = self._look()
        self.size_bytes = self._state[0]

    def _look(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns

    def read(self) -> bytes:
        """Read the next piece, b"" at the end.

        Raises:
            ConfigError: the file was changed since it was opened, or cannot be read.
        """
        try:
            piece = self._file.read(PIECE_BYTES)
        except OSError as exc:
            raise ConfigError(f"cannot read {self.path}: {exc.strerror or exc}") from exc
        if self._look() != self._state:
            raise ConfigError(f"{self.path} was changed meanwhile: try again once it is complete")
        return piece

    def hash(self) -> int:
        """Read and hash the next piece; returns its length, 0 at the end, from where it is read anew."""
        piece = self.read()
        self._hash.update(piece)
        if not piece:
            self._file.seek(0)
        return len(piece)

    @property
    def digest(self) -> str:
        """The digest of what was hashed, as the server writes it."""
        return f"{_DIGEST}{self._hash.hexdigest()}"

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


async def stored(server: Server, name: str, source: str | Path, report: Report) -> str:
    """Have the server hold a file, and tell its digest. A digest is taken as it is.

    The file is uploaded only where the server does not have it yet, and only once: what breaks is not repeated.

    Raises:
        ConfigError: the file cannot be read, or was changed meanwhile.
    """
    if is_digest(source):
        return str(source)
    with await run_sync(_File, Path(source)) as file:
        await _hash(file, name, report)
        path, short, size_bytes = f"/api/blobs/{file.digest}", file.digest[len(_DIGEST) :][:12], file.size_bytes
        line = PullProgress(status=f"uploading {short}", digest=file.digest, total=size_bytes)
        if await _has(server, path):
            line.status = f"using existing {short}"
        else:
            await report(line)
            await server.request("POST", path, Upload(_sent(file, line, report), size_bytes))
        await report(msgspec.structs.replace(line, completed=size_bytes))
        return file.digest


async def _hash(file: _File, name: str, report: Report) -> None:
    line = PullProgress(status=f"hashing {name}", total=file.size_bytes)
    await report(line)
    while length := await run_sync(file.hash):
        line = msgspec.structs.replace(line, completed=line.completed + length)
        await report(line)


async def _sent(file: _File, line: PullProgress, report: Report) -> AsyncIterator[bytes]:
    """Give the pieces, and report each but the last: whether that has come, the answer says."""
    while line.completed < line.total and (piece := await run_sync(file.read)):
        yield piece
        line = msgspec.structs.replace(line, completed=line.completed + len(piece))
        if line.completed < line.total:
            await report(line)


async def _has(server: Server, path: str) -> bool:
    try:
        await server.request("HEAD", path)
    except StatusError as exc:
        if exc.status != _NOT_FOUND:
            raise
        return False
    return True
