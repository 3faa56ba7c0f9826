"""`OllamaClient`: one method for each endpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, Unpack

import anyio
import msgspec

from ollama_async_mem import __version__
from ollama_async_mem.errors import ConfigError, ModelNotFound, OllamaError, PullFailed, StatusError

from ._exchange import LinkOptions
from ._http import Server, Timeouts
from ._requests import ChatFields, GenerateFields, chat_body, filled, generate_body, named, seconds
from ._retry import RetryPolicy
from ._streams import CHAT, GENERATE, AnswerStream, failure, open_chunks
from .formats import parse_answer
from .hosts import parse_host
from .models import ModelManager
from .schema import (
    ChatResponse,
    EmbedBody,
    GenerateResponse,
    PackedEmbeddings,
    PsResponse,
    PullProgress,
    ShowResponse,
    TagsResponse,
    VersionResponse,
    decode,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    import httpx

    from ._http import Receive
    from ._streams import ChatStream, GenerateStream
    from .schema import ChatMessage, EmbedResponse, ModelInfo, RunningModel

__all__ = ["OllamaClient"]

_HEADERS = {"user-agent": f"ollama-async-mem/{__version__}", "accept-encoding": "identity"}
_CHAT = msgspec.json.Decoder(ChatResponse)
_GENERATE = msgspec.json.Decoder(GenerateResponse)
_PS = msgspec.json.Decoder(PsResponse)
_EMBED = msgspec.json.Decoder(EmbedBody)
_TAGS = msgspec.json.Decoder(TagsResponse)
_SHOW = msgspec.json.Decoder(ShowResponse)
_VERSION = msgspec.json.Decoder(VersionResponse)
_PACKED = msgspec.json.Decoder(PackedEmbeddings)
_NOT_THERE = {400, 404, 405, 501}
_FRAMING = {"content-length", "transfer-encoding", "connection"}
_MANY = 16
_ALIVE_S = 2.0


class OllamaClient:
    """An async client of one Ollama server.

    Args:
        host: where the server is, in the grammar of OLLAMA_HOST; by default that variable, else
            http://127.0.0.1:11434.
        headers: sent with every request.
        api_key: sent as `Authorization: Bearer`; by default OLLAMA_API_KEY for https hosts.
        auth: any httpx authentication, in place of the host's own user and password.
        verify: False, or an `ssl.SSLContext`, in place of the system's certificates.
        timeouts: limits in seconds, see `Timeouts`.
        retry: what happens when the server refuses or is busy, see `RetryPolicy`.
        max_connections: most connections at once; further requests wait their turn.
        transport: any `httpx.AsyncBaseTransport` in place of the default.

    Every method may raise `OllamaError`: `ConnectFailed`, `RequestTimeout`, `StatusError` and its kinds,
    `ProtocolError`; and `ConfigError` for bad arguments, before any request.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
        auth: httpx.Auth | tuple[str, str] | None = None,
        verify: Any = True,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        max_connections: int = 100,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        timeouts = timeouts or Timeouts()
        _check_settings(host, headers or {}, timeouts, retry, max_connections)
        address = parse_host(host if host is not None else os.environ.get("OLLAMA_HOST"))
        if api_key is None and address.url.startswith("https:"):
            api_key = os.environ.get("OLLAMA_API_KEY")
        options = LinkOptions(
            headers={**_HEADERS, **({"authorization": f"Bearer {api_key}"} if api_key else {}), **(headers or {})},
            auth=auth,
            verify=verify,
            connect_s=timeouts.connect_s,
            max_connections=max_connections,
            transport=transport,
        )
        self._server = Server(address, options, timeouts=timeouts, retry=retry or RetryPolicy())
        self.models = ModelManager(self)
        self._packs = True  # until the server turns out not to

    def __repr__(self) -> str:
        return f"OllamaClient({self.url!r})"

    @property
    def url(self) -> str:
        """The server's address, without credentials."""
        return self._server.host.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. May be called more than once."""
        await self._server.aclose()

    async def chat(
        self, model: str, messages: Sequence[Mapping[str, Any] | ChatMessage], **fields: Unpack[ChatFields]
    ) -> ChatResponse:
        """Answer a conversation in one piece; `ChatFields` says what else may be given.

        With `format=`, the object that the answer describes is in `.parsed`. Images in messages may be paths, bytes
        or base64; tools may be Python functions, see `run_tools`.

        Raises:
            ModelNotFound: the server does not have the model.
            ModelOutputError: the answer does not fit `format`; its text is in `.output`.
        """
        body = await chat_body(model, messages, fields, stream=False)
        response = decode(await self._server.request("POST", "/api/chat", body), _CHAT)
        response.parsed = parse_answer(fields.get("format"), response.message.content)
        return response

    def stream_chat(
        self, model: str, messages: Sequence[Mapping[str, Any] | ChatMessage], **fields: Unpack[ChatFields]
    ) -> ChatStream:
        """Answer a conversation as it is generated: `async with client.stream_chat(...) as stream`.

        Arguments as for `chat`. The request is sent when the context is entered, where `ModelNotFound` and other
        refusals are raised; iterating may raise `StreamFailed`, `StreamTruncated` and `StallTimeout`.
        """
        opening = self._opened("/api/chat", lambda: chat_body(model, messages, fields, stream=True))
        return AnswerStream(opening, CHAT, format=fields.get("format"))

    async def generate(self, model: str, prompt: str, **fields: Unpack[GenerateFields]) -> GenerateResponse:
        """Complete a prompt in one piece; `GenerateFields` says what else may be given.

        Raises:
            ModelNotFound: the server does not have the model.
            ModelOutputError: the answer does not fit `format`; its text is in `.output`.
        """
        body = await generate_body(model, prompt, fields, stream=False)
        response = decode(await self._server.request("POST", "/api/generate", body), _GENERATE)
        response.parsed = parse_answer(fields.get("format"), response.response)
        return response

    def stream_generate(self, model: str, prompt: str, **fields: Unpack[GenerateFields]) -> GenerateStream:
        """Complete a prompt as it is generated: `async with client.stream_generate(...) as stream`."""
        opening = self._opened("/api/generate", lambda: generate_body(model, prompt, fields, stream=True))
        return AnswerStream(opening, GENERATE, format=fields.get("format"))

    @asynccontextmanager
    async def _opened(self, path: str, body: Callable[[], Awaitable[dict[str, Any]]]) -> AsyncIterator[Receive]:
        async with self._server.stream("POST", path, await body()) as receive:
            yield receive

    async def embed(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        truncate: bool | None = None,
        dimensions: int | None = None,
        options: Mapping[str, Any] | None = None,
        keep_alive: float | str | timedelta | None = None,
    ) -> EmbedResponse:
        """Embed texts: one float32 vector of length one for each, in order.

        Many texts at once, without other arguments, go over the server's base64 path where it has one; the metrics
        of the response are then 0 but for the tokens.

        Raises:
            ModelNotFound: the server does not have the model.
        """
        inputs = [texts] if isinstance(texts, str) else list(texts)
        if self._packs and len(inputs) >= _MANY and truncate is None and options is None and keep_alive is None:
            response = await self._embed_packed(named(model), inputs, dimensions)
            if response is not None:
                return response
        body = filled(
            model=named(model),
            input=inputs,
            truncate=truncate,
            dimensions=dimensions,
            options=options,
            keep_alive=seconds(keep_alive),
        )
        response = decode(await self._server.request("POST", "/api/embed", body), _EMBED).response()
        if len(response.embeddings) != len(inputs):
            raise OllamaError(f"asked for {len(inputs)} embeddings, the server sent {len(response.embeddings)}")
        return response

    async def _embed_packed(self, model: str, inputs: list[str], dimensions: int | None) -> EmbedResponse | None:
        """Embed over /v1/embeddings, whose base64 costs a twentieth of decimal numbers to read.

        None where the server does not have it, or refuses: /api/embed then says why in its own words.
        """
        body = filled(model=model, input=inputs, dimensions=dimensions, encoding_format="base64")
        try:
            answer = await self._server.request("POST", "/v1/embeddings", body)
            response = _PACKED.decode(answer).response()
        except StatusError as exc:
            if exc.retryable or exc.status not in _NOT_THERE:
                raise
            self._packs = isinstance(exc, ModelNotFound)
            return None
        except (msgspec.DecodeError, ValueError, TypeError):  # servers before 0.12.7 send numbers all the same
            self._packs = False
            return None
        return response if len(response.embeddings) == len(inputs) else None

    async def tags(self) -> list[ModelInfo]:
        """List the installed models, newest first."""
        return decode(await self._server.request("GET", "/api/tags"), _TAGS).models

    async def show(self, model: str) -> ShowResponse:
        """Tell all about one model.

        Raises:
            ModelNotFound: the server does not have it.
        """
        return decode(await self._server.request("POST", "/api/show", filled(model=named(model))), _SHOW)

    async def ps(self) -> list[RunningModel]:
        """List the loaded models."""
        return decode(await self._server.request("GET", "/api/ps"), _PS).models

    async def copy(self, source: str, destination: str) -> None:
        """Give a model a second name.

        Raises:
            ModelNotFound: the server does not have `source`.
        """
        await self._server.request("POST", "/api/copy", {"source": named(source), "destination": named(destination)})

    async def delete(self, model: str) -> None:
        """Delete a model.

        Raises:
            ModelNotFound: the server does not have it.
        """
        await self._server.request("DELETE", "/api/delete", {"model": named(model)})

    async def version(self) -> str:
        """Tell the server's version."""
        return decode(await self._server.request("GET", "/api/version"), _VERSION).version

    async def is_alive(self) -> bool:
        """Tell whether an Ollama server answers, within two seconds and without retries."""
        try:
            with anyio.fail_after(_ALIVE_S):
                body = await self._server.request("GET", "/api/version", retry=False)
        except (OllamaError, TimeoutError):
            return False
        return b'"version"' in body

    async def pull(self, model: str) -> None:
        """Download a model and wait until it is there.

        Raises:
            PullFailed: the model does not exist, or the download failed.
        """
        async with self.stream_pull(model) as progress:
            async for _ in progress:
                pass

    def stream_pull(self, model: str) -> AbstractAsyncContextManager[AsyncIterator[PullProgress]]:
        """Download a model and report the progress: `async with client.stream_pull(...) as progress`.

        Leaving early cancels the download; the server keeps what it has and resumes from there.

        Raises:
            PullFailed: while iterating; the model does not exist, or the download failed.
        """
        return _checked_pull(self._server, named(model))


@asynccontextmanager
async def _checked_pull(server: Server, model: str) -> AsyncIterator[AsyncIterator[PullProgress]]:
    async with open_chunks(server, "/api/pull", {"model": model, "stream": True}, PullProgress) as lines:
        yield _until_success(lines, model)


async def _until_success(lines: AsyncIterator[PullProgress], model: str) -> AsyncIterator[PullProgress]:
    line = PullProgress()
    async for line in lines:
        if complaint := failure(line.error):
            raise PullFailed(model, complaint)
        yield line
    if line.status != "success":
        raise PullFailed(model, f"the server stopped after {line.status!r}")


def _check_settings(host: object, headers: object, timeouts: object, retry: object, max_connections: object) -> None:
    """Refuse what could only fail later, at the first request."""
    if not isinstance(host, str | None):
        raise ConfigError(f"host is a text such as http://127.0.0.1:11434, got {host!r}")
    if not isinstance(headers, Mapping):
        raise ConfigError(f"headers is a mapping of texts, got {headers!r}")
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str) and f"{name}{value}".isprintable()):
            raise ConfigError(f"the header {name!r} is not made of printable texts")
        if name.lower() in _FRAMING or not f"{name}{value}".isascii():
            raise ConfigError(f"the header {name!r} cannot be set: it is the client's own, or not ASCII")
    if not isinstance(timeouts, Timeouts) or not isinstance(retry, RetryPolicy | None):
        raise ConfigError(f"timeouts is a Timeouts and retry a RetryPolicy, got {timeouts!r} and {retry!r}")
    if not isinstance(max_connections, int) or max_connections < 1:
        raise ConfigError(f"max_connections is at least 1, got {max_connections!r}")
