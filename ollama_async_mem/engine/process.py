"""The engine as a child process of the caller: started, waited for, and certainly ended."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from ollama_async_mem.errors import ConfigError, RequestTimeout

from .leash import detached, environment
from .serve import DEFAULT_HOST, require_extra

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path
    from typing import IO

__all__ = ["EngineProcess", "running_engine"]

_LINE_LIMIT = 1 << 16
_TAIL_BYTES = 4000
_STOP_S = 5.0


class EngineProcess:
    """A running engine: where it answers and which process it is."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid

    def __repr__(self) -> str:
        return f"EngineProcess(url={self.url!r}, pid={self.pid})"


@asynccontextmanager
async def running_engine(
    *,
    models_dir: Path | None = None,
    gguf: Sequence[Path] = (),
    port: int = 0,
    start_timeout_s: float = 60.0,
) -> AsyncGenerator[EngineProcess]:
    """Start an engine on the loopback, end it when the block is left; it also ends when this process dies.

    Raises MissingExtra, RequestTimeout, or ConfigError with the engine's own last words.
    """
    await anyio.to_thread.run_sync(require_extra)
    command = _command(models_dir, gguf, port)
    log = await anyio.to_thread.run_sync(tempfile.TemporaryFile)
    try:
        process = await anyio.open_process(command, stderr=log, env=environment(), **detached())
        try:
            yield await _started(process, log, start_timeout_s)
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(process)
    finally:
        log.close()


def _command(models_dir: Path | None, gguf: Sequence[Path], port: int) -> list[str]:
    """The command line; standard input is the leash."""
    command = [sys.executable, "-m", "ollama_async_mem.engine", "--exit-with-parent"]
    command += ["--host", DEFAULT_HOST, "--port", str(port)]
    command += [part for path in gguf for part in ("--gguf", str(path))]
    return [*command, "--models-dir", str(models_dir)] if models_dir else command


async def _started(process: anyio.abc.Process, log: IO[bytes], timeout_s: float) -> EngineProcess:
    """Wait for the line that says where the engine answers."""
    ready: dict[str, Any] = {}
    try:
        with anyio.fail_after(timeout_s):
            ready = json.loads(await _first_line(process))
    except TimeoutError as exc:
        raise RequestTimeout("the embedded engine did not start", timeout_s) from exc
    except (anyio.IncompleteRead, anyio.EndOfStream) as exc:
        status = await process.wait()
        said = await anyio.to_thread.run_sync(_tail, log)
        raise ConfigError(f"the embedded engine did not start (exit status {status}): {said}") from exc
    return EngineProcess(ready["url"], ready["pid"])


async def _first_line(process: anyio.abc.Process) -> bytes:
    if process.stdout is None:
        raise anyio.EndOfStream
    return await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", _LINE_LIMIT)


async def _stop(process: anyio.abc.Process) -> None:
    """Ask it to end, then make it."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with anyio.move_on_after(_STOP_S):
        await process.wait()
    await process.aclose()  # kills what is still there


def _tail(log: IO[bytes]) -> str:
    """The last lines of the engine's standard error."""
    end = log.seek(0, os.SEEK_END)
    log.seek(max(0, end - _TAIL_BYTES))
    return log.read().decode(errors="replace").strip() or "it said nothing"
