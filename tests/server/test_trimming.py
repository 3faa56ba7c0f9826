"""Memory that a server freed goes back to the system."""

from __future__ import annotations

import platform
import time
from itertools import pairwise

import anyio
import psutil
import pytest

from ollama_async_mem.server import trimming as module
from ollama_async_mem.server.trimming import trimming

PIECE_BYTES = 16 << 10
PIECES = 4000
PROCESS = psutil.Process()

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")


def rss() -> int:
    """Resident memory of this process in bytes."""
    return int(PROCESS.memory_info().rss)


async def test_what_lies_between_things_in_use_is_given_back() -> None:
    """Each hundredth piece stays, so that the C library alone keeps all the others."""
    pieces = [b"x" * (PIECE_BYTES + n % 7) for n in range(PIECES)]
    kept = pieces[::100]
    del pieces
    freed_bytes = PIECE_BYTES * (PIECES - len(kept))
    before = rss()
    async with trimming(every_s=0.01):
        with anyio.fail_after(10):
            while before - rss() < freed_bytes * 0.8:  # noqa: ASYNC110 - the system tells nobody
                await anyio.sleep(0.01)
    assert len(kept) == PIECES // 100


async def test_no_task_goes_on_behind_the_end() -> None:
    """Whatever it was about."""
    before = len(anyio.get_running_tasks())
    async with trimming(every_s=0.0):
        await anyio.sleep(0.01)
        assert len(anyio.get_running_tasks()) == before + 1
    assert len(anyio.get_running_tasks()) == before


def test_it_trims_where_memory_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in use is not walked through again and again, for whoever allocates meanwhile waits."""
    pages, trimmed = iter([100, 90, 91, 95, 92, 93]), []
    monkeypatch.setattr(module, "_resident_pages", lambda: next(pages))
    monkeypatch.setattr(module, "_malloc_trim", lambda: lambda _pad: trimmed.append(1))
    heap = module._Heap()
    took = [heap.trim() for _ in range(4)]
    assert [seconds > 0 for seconds in took] == [True, False, True, False]
    assert len(trimmed) == 2


async def test_it_rests_longer_than_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is never a noticeable part of the time."""
    times = []

    def slow(_heap: object) -> float:
        times.append(time.monotonic())
        return 0.0002

    monkeypatch.setattr(module._Heap, "trim", slow)
    async with trimming(every_s=0.0):
        while len(times) < 3:  # noqa: ASYNC110 - a thread tells nobody
            await anyio.sleep(0.01)
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.2


async def test_a_library_that_cannot_be_asked_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the server goes on."""

    def broken() -> None:
        raise OSError("static")

    monkeypatch.setattr(module, "_malloc_trim", broken)
    await module._trim(0.0)
    assert "not given back: static" in caplog.text
