"""`OllamaClient`: one method for each endpoint."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, Unpack

import anyio
import msgspec

from ollama_async_mem import __version__
from ollama_async_mem.errors import ConfigError, OllamaError, ProtocolError, StatusError, StreamTruncated

from ._decode import UNREADABLE, decode
from ._exchange import LinkOptions
from ._http import Server, Timeouts
from ._options import checked_options
from ._requests import (
    ChatFields,
    GenerateFields,
    chat_body,
    check_fields,
    checked_texts,
    filled,
    generate_body,
    named,
    seconds,
)
from ._retry import RetryPolicy
from ._search import may_search
from ._settings import check_settings, check_way, key_header
from ._streams import CHAT, GENERATE, AnswerStream
from ._transfers import CreateFields, finished, open_create, open_pull, open_push
from .formats import parse_answer
from .hosts import parse_host
from .models import ModelManager
from .schema import (
    ChatResponse,
    EmbedBody,
    GenerateResponse,
    PackedEmbeddings,
    PsResponse,
    ShowResponse,
    TagsResponse,
    VersionResponse,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from datetime import timedelta

    import httpx

    from ._http import Receive
    from ._streams import ChatStream, GenerateStream
    from ._transfers import Progress
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
_MANY = 16
_ALIVE_S = 2.0


class OllamaClient:
    """An async client of one Ollama server.

    Args:
        host: where the server is, in the grammar of OLLAMA_HOST; by default that variable, else
            http://127.0.0.1:11434.
        headers: sent with every request.
        api_key: sent as `Authorization: Bearer`; by default OLLAMA_API_KEY for https hosts, where nothing else says
            who asks.
        auth: user and password or any `httpx.Auth`, in place of the host's own. Only one of `api_key`, `auth` and an
            Authorization header may be given.
        verify: False, or an `ssl.SSLContext`, in place of the system's certificates.
        timeouts: limits in seconds, see `Timeouts`.
        retry: what happens when the server refuses or is busy, see `RetryPolicy`.
        max_connections: most connections at once; further requests wait their turn.
        transport: any `httpx.AsyncBaseTransport` in place of the default.
        find_host: whether the machine around a container is searched for its Ollama where a loopback `host` refuses;
            by default OLLAMA_ASYNC_MEM_FIND_HOST, else True. Never done with credentials, `headers` or `transport`.

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
        find_host: bool | None = None,
    ) -> None:
        timeouts = timeouts or Timeouts()
        headers = {} if headers is None else headers
        check_settings(host, headers, timeouts, retry, max_connections)
        check_way(auth, transport)
        address = parse_host(host if host is not None else os.environ.get("OLLAMA_HOST"))
        if address.socket_path and transport is not None:
            raise ConfigError(f"transport= decides where to connect: name the socket {address.url} there, not as host")
        options = LinkOptions(
            headers={**_HEADERS, **key_header(api_key, auth, headers, address), **headers},
            auth=auth,
            verify=verify,
            connect_s=timeouts.connect_s,
            max_connections=max_connections,
            transport=transport,
            wait_s=timeouts.first_byte_s,
        )
        self._retry = retry or RetryPolicy()
        search = may_search(find_host, address, options)
        self._server = Server(address, options, timeouts=timeouts, retry=self._retry, find_host=search)
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
            StreamTruncated: the server broke off the answer, as it does when a model repeats itself; see `.partial`.
        """
        body = await chat_body(model, messages, fields, stream=False)
        response = decode(await self._server.request("POST", "/api/chat", body), _CHAT)
        _require_done(response.message.content, done=response.done)
        response.parsed = parse_answer(fields.get("format"), response.message.content, response.message.tool_calls)
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
            StreamTruncated: the server broke off the answer; what came is in `.partial`.
        """
        body = await generate_body(model, prompt, fields, stream=False)
        response = decode(await self._server.request("POST", "/api/generate", body), _GENERATE)
        _require_done(response.response, done=response.done)
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
        inputs = checked_texts(texts)
        check_fields({"truncate": truncate, "dimensions": dimensions})
        is_plain = truncate is None and options is None and keep_alive is None
        tries_packed = self._packs and is_plain and len(inputs) >= _MANY
        if tries_packed and (packed := await self._embed_packed(named(model), inputs, dimensions)):
            return packed
        body = filled(
            model=named(model),
            input=inputs,
            truncate=truncate,
            dimensions=dimensions,
            options=checked_options(options),
            keep_alive=seconds(keep_alive),
        )
        response = decode(await self._server.request("POST", "/api/embed", body), _EMBED).response()
        if len(response.embeddings) != len(inputs):
            raise OllamaError(f"asked for {len(inputs)} embeddings, the server sent {len(response.embeddings)}")
        if tries_packed:  # these texts and this model are fine, so it is the path that is not
            self._packs = False
        return response

    async def _embed_packed(self, model: str, inputs: list[str], dimensions: int | None) -> EmbedResponse | None:
        """Embed over /v1/embeddings, whose base64 costs a twentieth of decimal numbers to read.

        None where the server, or a proxy before it, does not have it or refuses: /api/embed then says why.
        """
        body = filled(model=model, input=inputs, dimensions=dimensions, encoding_format="base64")
        try:
            answer = await self._server.request("POST", "/v1/embeddings", body)
            response = _PACKED.decode(answer).response()
        except StatusError as exc:
            if exc.retryable:
                raise
            return None
        except (ProtocolError, *UNREADABLE, ValueError, TypeError):  # servers before 0.12.7 send numbers all the same
            return None
        return response if len(response.embeddings) == len(inputs) else None

    async def tags(self) -> list[ModelInfo]:
        """List the installed models, newest first."""
        return decode(await self._server.request("GET", "/api/tags"), _TAGS).models

    async def show(self, model: str, *, verbose: bool | None = None) -> ShowResponse:
        """Tell all about one model; `verbose` adds its tensors and the long lists of `model_info`, as its tokens.

        Raises:
            ModelNotFound: the server does not have it.
        """
        check_fields({"verbose": verbose})
        body = filled(model=named(model), verbose=verbose)
        return decode(await self._server.request("POST", "/api/show", body), _SHOW)

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

    async def pull(self, model: str, *, insecure: bool | None = None) -> None:
        """Download a model and wait until it is there; `insecure` takes it from a registry without TLS.

        Raises:
            PullFailed: the model does not exist, or the download failed.
        """
        await finished(self.stream_pull(model, insecure=insecure))

    def stream_pull(self, model: str, *, insecure: bool | None = None) -> Progress:
        """Download a model and report the progress: `async with client.stream_pull(...) as progress`.

        Leaving early cancels the download; the server keeps what it has and resumes from there.

        Raises:
            PullFailed: while iterating; the model does not exist, or the download failed.
        """
        check_fields({"insecure": insecure})
        return open_pull(self._server, named(model), insecure=insecure)

    async def push(self, model: str, *, insecure: bool | None = None) -> None:
        """Upload a model to its registry and wait until it is there.

        The request is sent once: it is tried again only where it did not leave this machine.

        Raises:
            PushFailed: the server does not have the model, or the registry does not take it.
        """
        await finished(self.stream_push(model, insecure=insecure))

    def stream_push(self, model: str, *, insecure: bool | None = None) -> Progress:
        """Upload a model to its registry and report the progress; arguments and errors as for `push`."""
        check_fields({"insecure": insecure})
        return open_push(self._server, self._retry, named(model), insecure=insecure)

    async def create(self, model: str, **fields: Unpack[CreateFields]) -> None:
        """Make a model of an installed one or of files, which are uploaded; `CreateFields` says what may be given.

        The request is sent once: it is tried again only where it did not leave this machine.

        Raises:
            ConfigError: an argument is not what it should be, or a file cannot be read or changes meanwhile.
            CreateFailed: the server cannot make the model.
        """
        await finished(self.stream_create(model, **fields))

    def stream_create(self, model: str, **fields: Unpack[CreateFields]) -> Progress:
        """Make a model and report the progress, of hashing and uploading its files too; arguments as for `create`.

        All is done while it is iterated, where also refusals are raised. Leaving early cancels it; the server keeps
        the files that it has.
        """
        return open_create(self._server, self._retry, named(model), fields)


def _require_done(text: str, *, done: bool) -> None:
    if not done:
        raise StreamTruncated("the server broke off the answer before it was done", partial=text)
