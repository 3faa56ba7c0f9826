"""What is in memory, and how it ends: closing while others come, load or read."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import httpx
import msgspec
import pytest

from ollama_async_mem.engine import models as module
from ollama_async_mem.engine.asgi import _is_local_name
from ollama_async_mem.engine.catalogue import EMBEDDER
from ollama_async_mem.engine.faults import ApiError
from ollama_async_mem.engine.llama import Llama
from ollama_async_mem.engine.models import Models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ollama_async_mem.engine.catalogue import Model


class FakeEngine:
    """A loaded model that takes its time to go."""

    slots = 1
    is_alive = True
    n_ctx = EMBEDDER.info.context_length

    def __init__(self) -> None:
        self.closed = 0
        self.going = anyio.Event()

    async def close(self) -> None:
        """Go, slowly."""
        self.going.set()
        await anyio.sleep(0.05)
        self.closed += 1


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """All that was loaded; loading is immediate."""
    engines: list[FakeEngine] = []

    async def load(_model: Model, _n_ctx: int, _threads: int | None) -> FakeEngine:
        await anyio.lowlevel.checkpoint()
        engines.append(FakeEngine())
        return engines[-1]

    monkeypatch.setattr(module, "_load", load)
    return engines


def named(name: str) -> Model:
    """Another model."""
    return msgspec.structs.replace(EMBEDDER, name=name)


async def refusal(models: Models, model: Model) -> str:
    """What a request for a model is refused with."""
    with pytest.raises(ApiError) as caught:
        async with models.use(model):
            pass
    assert caught.value.status == 503
    return caught.value.message


async def test_a_request_for_a_new_model_while_closing_is_refused(loaded: list[FakeEngine]) -> None:
    """It gets a 503, whether its model is loaded or not, and everything that was loaded is freed."""
    models = Models()
    for name in ("a", "b"):
        async with models.use(named(name)):
            pass
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(models.close)
        await loaded[0].going.wait()
        assert await refusal(models, named("c")) == "the server is shutting down"
        assert await refusal(models, named("b")) == "the server is shutting down"
    assert [engine.closed for engine in loaded] == [1, 1]


async def test_closing_ends_a_load_in_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the model is told at once, and nothing is loaded afterwards."""
    has_begun = anyio.Event()

    async def load(*_: object) -> FakeEngine:
        has_begun.set()
        await anyio.sleep(100)
        return FakeEngine()

    monkeypatch.setattr(module, "_load", load)
    models, told = Models(), []

    async def ask() -> None:
        told.append(await refusal(models, named("a")))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await has_begun.wait()
            await models.close()
    assert told == ["the server is shutting down"]
    assert list(models.loaded()) == []


async def test_closing_does_not_wait_for_a_slow_reader(loaded: list[FakeEngine]) -> None:
    """A slot that is never given back holds up neither the close nor the one who waits for the slot."""
    models = Models()

    async def expect_refusal() -> None:
        assert await refusal(models, named("a")) == "the server is shutting down"

    with anyio.fail_after(5):
        async with models.use(named("a")), anyio.create_task_group() as tasks:
            tasks.start_soon(expect_refusal)
            await anyio.wait_all_tasks_blocked()
            await models.close()
    assert loaded[0].closed == 1


async def test_a_web_page_may_not_read_from_the_runner(model_file: Path) -> None:
    """llama.cpp's own listener names no origin as allowed, neither to a request nor to its preflight."""
    llama = await Llama.start(model_file, n_ctx=64, embedding=False)
    try:
        async with httpx.AsyncClient(base_url=llama._client.base_url, trust_env=False) as http:
            for method in ("GET", "OPTIONS"):
                answer = await http.request(method, "/health", headers={"Origin": "https://evil.example"})
                assert answer.status_code == 200
                assert answer.headers.get("access-control-allow-origin", "") == ""
                assert answer.headers.get("access-control-allow-credentials", "false") == "false"
    finally:
        await llama.close()


LOCAL = ["", "localhost", "a.localhost", "127.0.0.1", "127.8.8.8", "::1", "0.0.0.0"]
FOREIGN = [
    "evil.example",
    "evil.local",
    "evil.internal",
    "localhost.evil.example",
    "192.168.1.5",
    "10.0.0.1",
    "fe80::1",
]


@pytest.mark.parametrize(("name", "is_local"), [(n, True) for n in LOCAL] + [(n, False) for n in FOREIGN])
def test_only_names_of_the_loopback_are_local(name: str, is_local: bool) -> None:  # noqa: FBT001  a table
    """What the network can give to another address is foreign."""
    assert _is_local_name(name) is is_local


def test_the_machines_own_name_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it ends in .local, and in any case; no other of that domain."""
    own: Callable[[], str] = lambda: "Box.local"  # noqa: E731
    monkeypatch.setattr(socket, "gethostname", own)
    assert _is_local_name("box.local")
    assert not _is_local_name("other.local")
