"""Memory that a server freed goes back to the system."""

from __future__ import annotations

import platform

import anyio
import psutil
import pytest

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


async def test_nothing_goes_on_behind_the_end() -> None:
    """Neither a task nor a thread that trims."""
    before = len(anyio.get_running_tasks())
    async with trimming(every_s=0.0):
        await anyio.sleep(0.01)
        assert len(anyio.get_running_tasks()) == before + 1
    assert len(anyio.get_running_tasks()) == before
