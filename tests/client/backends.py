"""What tests of the client share: asyncio and trio, a way to cancel anywhere, and a small conversation."""

from __future__ import annotations

import functools
import inspect
import ssl
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from fakes import ScriptedOllama

from ollama_async_mem import RetryPolicy
from ollama_async_mem.ollama._links import NativeLink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator

    import trustme

    from ollama_async_mem import OllamaClient
    from ollama_async_mem.ollama._pool import Pool

BACKENDS = ("asyncio", "trio")
HI = [{"role": "user", "content": "hello there"}]
ONCE = RetryPolicy(attempts=1)
LINE = b'{"message":{"content":"x"},"done":false}\n'
VERSION = b'{"version":"1"}'


async def read(client: OllamaClient) -> str:
    """Stream an answer to its end; returns the text."""
    async with client.stream_chat("m", HI) as stream:
        return "".join([piece async for piece in stream.text()])


def on_both(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test run once on each event loop; its fixtures are synchronous."""

    @functools.wraps(test)
    def run(backend: str, **fixtures: Any) -> None:
        anyio.run(functools.partial(test, **fixtures), backend=backend)

    signature = inspect.signature(test)
    backend = inspect.Parameter("backend", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), backend])  # type: ignore[attr-defined]
    del run.__wrapped__  # else it is taken for a coroutine function
    marked: Callable[..., None] = pytest.mark.parametrize("backend", BACKENDS)(run)
    return marked


class Suspending:
    """Awaits something and calls `act` when it is suspended for the n-th time."""

    def __init__(self, work: Coroutine[Any, Any, None], number: int, act: Callable[[], object]) -> None:
        self._steps = work.__await__()
        self._left = number
        self._act = act

    def __await__(self) -> Generator[Any, Any, None]:
        resume: Callable[[], Any] = functools.partial(next, self._steps)
        while True:
            try:
                yielded = resume()
            except StopIteration:
                return
            self._left -= 1
            if self._left == 0:
                self._act()
            try:
                resume = functools.partial(self._steps.send, (yield yielded))
            except BaseException as exc:  # noqa: BLE001 - handed on to the coroutine, cancellation above all
                resume = functools.partial(self._steps.throw, exc)


async def cancelled_everywhere(scenario: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[int]:
    """Run a scenario over and over, cancelled at its first suspension, its second and so on; gives control after each.

    Ends once a run ends without having been cancelled.
    """
    for number in range(1, 1000):
        with anyio.CancelScope() as scope:
            await Suspending(scenario(), number, scope.cancel)
        if not scope.cancel_called:
            return
        yield number
    raise AssertionError("the scenario does not end")


def pool_of(client: OllamaClient) -> Pool:
    """The connections of a client."""
    link = client._server._links[client.url]
    assert isinstance(link, NativeLink)
    return link._pool


async def until(condition: Callable[[], bool], limit_s: float = 0.05) -> None:
    """Wait for what should be so in 50 ms."""
    with anyio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110 - the server lives in another thread
            await anyio.sleep(0.001)


async def together(*works: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run several at once."""
    async with anyio.create_task_group() as tasks:
        for work in works:
            tasks.start_soon(work)


def tls_server(authority: trustme.CA, name: str = "127.0.0.1") -> ScriptedOllama:
    """A scripted Ollama that speaks https, with a certificate for a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return ScriptedOllama(tls=context)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client needs to trust it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
