"""One loaded GGUF file, seen from the engine: a runner process and requests to it.

Owns the process and the private connection; knows llama.cpp's JSON, nothing of Ollama's.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import anyio.abc
import anyio.to_thread
import httpx
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from .faults import ApiError
from .leash import detached, environment
from .runner import CONFIG_VARIABLE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path
    from typing import IO

__all__ = ["ContextExceeded", "Llama"]

CHAT_SLOTS = 2  # a chat is answered while facts are extracted behind it
_BATCH = 64  # no slower than 512 on a CPU, and a cancelled prompt ends within one batch
_EMBEDDING_BATCH = 2048  # an embedding model takes a whole text in one batch
_MOST_THREADS = 8
_LINE_LIMIT = 1 << 20
_TAIL_BYTES = 2000
_DATA = b"data: "
_DONE = b"data: [DONE]"


class ContextExceeded(ApiError):
    """The prompt does not fit the context."""

    def __init__(self) -> None:
        super().__init__(
            400,
            "the prompt is longer than the context length currently available to the model; shorten the "
            "prompt, adjust the context length in settings, or use a model with a longer context length",
        )


class Llama:
    """A GGUF file in a runner process; made by `start`, ended by `close`."""

    def __init__(self, process: anyio.abc.Process, log: IO[bytes], *, n_ctx: int, slots: int) -> None:
        self._process = process
        self._log = log
        self._http: httpx.AsyncClient | None = None
        self.n_ctx = n_ctx
        self.slots = slots

    @classmethod
    async def start(cls, path: Path, *, n_ctx: int, embedding: bool, threads: int | None = None) -> Llama:
        """Load the file, in a second or so for 100 MB. Raises ApiError when llama.cpp refuses it."""
        config: dict[str, Any] = {
            "path": str(path),
            "key": secrets.token_urlsafe(24),
            "parallel": 1 if embedding else CHAT_SLOTS,
            "n_ctx": n_ctx,
            "batch": min(_EMBEDDING_BATCH, n_ctx) if embedding else _BATCH,
            "embedding": embedding,
            "threads": threads or _default_threads(),
        }
        log = await anyio.to_thread.run_sync(tempfile.TemporaryFile)
        llama = cls(await _spawn(config, log), log, n_ctx=n_ctx, slots=config["parallel"])
        try:
            llama._http = await llama._connect(config["key"])
        except BaseException:
            await llama.close()
            raise
        return llama

    @property
    def is_alive(self) -> bool:
        """Whether the runner process still runs."""
        return self._process.returncode is None

    async def close(self) -> None:
        """End the process; all memory of the model is free when this returns."""
        with anyio.CancelScope(shield=True):
            if self.is_alive:
                self._process.kill()
            await self._process.aclose()
            self._log.close()
            if self._http:
                await self._http.aclose()

    @asynccontextmanager
    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
        """POST and yield the events of the answer; leaving early closes the socket, which frees the slot."""
        request = {**body, "stream": True, "return_progress": True}
        try:
            async with self._client.stream("POST", path, json=request) as response:
                if response.is_error:
                    await response.aread()
                    _fail(response)
                yield _events(response)
        except httpx.HTTPError as exc:
            raise self._died() from exc

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST and return the decoded answer."""
        try:
            response = await self._client.post(path, json=body)
        except httpx.HTTPError as exc:
            raise self._died() from exc
        if response.is_error:
            _fail(response)
        return msgspec.json.decode(response.content)

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._http is None or self._http.is_closed:
            raise self._died()
        return self._http

    async def _connect(self, key: str) -> httpx.AsyncClient:
        """Wait for the announcement; a client without kept connections, as Ollama's own (httplib closes them)."""
        if self._process.stdout is None:
            raise self._died()
        try:
            line = await BufferedByteReceiveStream(self._process.stdout).receive_until(b"\n", _LINE_LIMIT)
        except (anyio.IncompleteRead, anyio.EndOfStream) as exc:
            await self._process.wait()
            raise ApiError(500, f"llama-server process has terminated: {self._reason()}") from exc
        return httpx.AsyncClient(
            base_url=json.loads(line)["url"],
            headers={"Authorization": f"Bearer {key}", "Connection": "close"},
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=httpx.Timeout(None, connect=10.0),
            trust_env=False,
        )

    def _died(self) -> ApiError:
        return ApiError(
            500,
            "model runner has unexpectedly stopped, this may be due to resource limitations or an internal "
            f"error: {self._reason()}",
        )

    def _reason(self) -> str:
        """The last words of the process."""
        if self._log.closed:
            return "it was unloaded"
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - _TAIL_BYTES))
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines()]
        errors = [line for line in lines if line]
        code = self._process.returncode
        return "; ".join(errors[-3:]) or ("it was ended" if code is None else f"exit status {code}")


def _default_threads() -> int:
    """One thread fewer than there are cores, at most eight.

    llama.cpp's threads spin until the slowest is done. With a thread on every core one busy neighbour costs
    a time slice at each of hundreds of barriers per token: measured 45 tokens/s alone and under 1 beside it,
    where one thread fewer gives 28 and 12.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores - 1, _MOST_THREADS))


async def _spawn(config: dict[str, Any], log: IO[bytes]) -> anyio.abc.Process:
    """Start the runner; its standard input is the leash."""
    return await anyio.open_process(
        [sys.executable, "-m", "ollama_async_mem.engine.runner"],
        env=environment(**{CONFIG_VARIABLE: json.dumps(config)}),
        stderr=log,
        **detached(),
    )


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events."""
    async for line in _lines(response.aiter_bytes()):
        if not line.startswith(_DATA) or line == _DONE:
            continue
        event = msgspec.json.decode(line[len(_DATA) :])
        if "error" in event:
            raise _refusal(event["error"])
        yield event


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines that end in a line feed and in nothing else: a token may hold U+2028 or U+0085."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")


def _fail(response: httpx.Response) -> NoReturn:
    """Raise what an error answer says."""
    try:
        error = msgspec.json.decode(response.content)["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        raise ApiError(500, response.text[:_TAIL_BYTES]) from None
    raise _refusal(error)


def _refusal(error: dict[str, Any]) -> ApiError:
    """llama.cpp's error in our terms."""
    if error.get("type") == "exceed_context_size_error":
        return ContextExceeded()
    return ApiError(int(error.get("code", 500)), str(error.get("message", "unknown error")))
