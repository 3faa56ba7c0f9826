"""The scripted Ollama itself: a listener, the queues of answers and the history of requests."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from functools import partial
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread

from .background import BackgroundLoop
from .connection import Connection
from .ollama import Settings, default_answer, error
from .ports import LOOPBACK, bound_socket

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from .script import Answer, FixedAnswer, Request

POLL_S = 0.002
ACCEPTING_TURNS = 3  # of the loop; a listener that closes earlier leaks the connection that it has just accepted


class ScriptedOllama:
    """An Ollama on a real socket: says what the test told it to say, and else behaves like a small Ollama.

    Use as `async with` (asyncio or trio) or plain `with`. It listens on a free port of `host`, or on `port`,
    or on the unix socket `unix_path`; `tls` makes it speak https. It works in a thread of its own.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        unix_path: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.requests: list[Request] = []
        self.connections_total = 0
        self.errors: list[Exception] = []
        self._answers: defaultdict[str, deque[tuple[Answer, bool]]] = defaultdict(deque)
        self._live: set[Connection] = set()
        self._host, self._unix_path, self._tls = host, unix_path, tls
        self._reserved = None if unix_path else bound_socket(port, host)
        self._loop: BackgroundLoop | None = None
        self._listener: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The TCP port, the same after `stop` and `start`; 0 for a unix socket."""
        return int(self._reserved.getsockname()[1]) if self._reserved else 0

    @property
    def url(self) -> str:
        """The base URL without a slash at its end."""
        if self._unix_path:
            return f"unix://{self._unix_path}"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many clients are connected at this moment."""
        return len(self._live)

    def enqueue(self, route: str, *answers: Answer, repeat: bool = False) -> None:
        """Append answers for a route such as `POST /api/chat`, used in order.

        With `repeat` the last one serves all further requests, until another is enqueued behind it.
        """
        queue = self._answers[route]
        queue.extend((answer, False) for answer in answers[:-1])
        queue.append((answers[-1], repeat))

    def requests_to(self, route: str) -> list[Request]:
        """The requests that one route has had, oldest first."""
        return [request for request in self.requests if request.route == route]

    async def stop(self) -> None:
        """Close the port and every connection, as a server that is shut down; the port then refuses."""
        await anyio.to_thread.run_sync(self._call, self._close_all)

    async def start(self) -> None:
        """Listen again, on the same port."""
        await anyio.to_thread.run_sync(self._call, self._listen)

    async def drop_connections(self) -> None:
        """Close every connection and go on listening."""
        await anyio.to_thread.run_sync(self._call, self._drop)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float = 2.0) -> None:
        """Wait until a condition on this server holds; raises `TimeoutError`."""
        with anyio.fail_after(timeout_s):
            while not condition():  # noqa: ASYNC110  # the server lives in another thread
                await anyio.sleep(POLL_S)

    async def wait_closed_connections(self, timeout_s: float = 2.0) -> None:
        """Wait until no client is connected; raises `TimeoutError` that says how many still are."""
        try:
            await self.wait_until(lambda: not self._live, timeout_s)
        except TimeoutError:
            raise TimeoutError(f"{self.open_connections} connections still open") from None

    def __enter__(self) -> Self:
        self._loop = BackgroundLoop()
        self._call(self._listen)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._loop is not None
        self._call(self._close_all)
        self._loop.close()
        if self._reserved:
            self._reserved.close()
        if self.errors and kind is None:
            raise self.errors[0]

    async def __aenter__(self) -> Self:
        return await anyio.to_thread.run_sync(self.__enter__)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.__exit__, kind)

    def _call(self, work: Callable[[], object]) -> None:
        """Run one of the coroutine methods below on the server's own loop."""
        assert self._loop is not None, "enter the server first"
        self._loop.call(work())  # type: ignore[arg-type]

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        if self._unix_path:
            self._listener = await loop.create_unix_server(self._accept, str(self._unix_path), ssl=self._tls)
        else:
            listening = bound_socket(self.port, self._host)
            self._listener = await loop.create_server(self._accept, sock=listening, ssl=self._tls, backlog=2048)

    async def _close_all(self) -> None:
        if self._listener is not None:
            for sock in self._listener.sockets:
                asyncio.get_running_loop().remove_reader(sock.fileno())
            for _ in range(ACCEPTING_TURNS):
                await asyncio.sleep(0)
            self._listener.close()
            self._listener = None
        await self._drop()

    async def _drop(self) -> None:
        for connection in tuple(self._live):
            connection.transport.abort()
        await asyncio.sleep(0)

    def _accept(self) -> Connection:
        self.connections_total += 1
        return Connection(self.connections_total, self._answer, self._live)

    def _answer(self, request: Request) -> FixedAnswer:
        self.requests.append(request)
        answer = self._next(request.route) or partial(default_answer, settings=self.settings)
        try:
            return answer(request) if callable(answer) else answer
        except Exception as exc:  # noqa: BLE001  # a test's own function failed: the test shall see it
            self.errors.append(exc)
            return error(500, repr(exc))

    def _next(self, route: str) -> Answer | None:
        queue = self._answers[route]
        if not queue:
            return None
        answer, repeat = queue[0]
        if not repeat or len(queue) > 1:
            queue.popleft()
        return answer
