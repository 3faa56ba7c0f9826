"""Streams of typed chunks, as context managers: leaving one closes its socket, the server stops working."""

from __future__ import annotations

import contextlib
import copy
from contextlib import AsyncExitStack, asynccontextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

import anyio

from ollama_async_mem.errors import ConfigError, OllamaError, ProtocolError, StreamFailed, StreamTruncated

from ._decode import failure
from ._ndjson import NDJSONDecoder
from .formats import parse_answer
from .schema import ChatChunk, ChatResponse, GenerateChunk, GenerateResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from ._http import Receive, Server
    from .schema import Logprob, ToolCall

__all__ = ["CHAT", "GENERATE", "AnswerStream", "ChatStream", "GenerateStream", "failure", "open_chunks"]

MAX_STREAM_BYTES = 256 * 1024 * 1024  # a token's line has some 150 bytes, ten times that with its logprobs
REST_BYTES = 64 * 1024
REST_S = 0.05
T = TypeVar("T")
Chunk = TypeVar("Chunk", bound=ChatChunk | GenerateChunk)
Response = TypeVar("Response", bound=ChatResponse | GenerateResponse)


@asynccontextmanager
async def open_chunks(
    server: Server, path: str, body: object, type_: type[T], *, retry: bool = True
) -> AsyncIterator[AsyncIterator[T]]:
    """Send a request whose answer is NDJSON and give its lines as `type_`; the server may work long between two."""
    async with (
        server.stream("POST", path, body, retry=retry, is_slow=True) as receive,
        contextlib.aclosing(_decoded(receive, NDJSONDecoder(type_))) as chunks,
    ):
        yield chunks


async def _decoded(receive: Receive, decoder: NDJSONDecoder[T]) -> AsyncGenerator[T, None]:
    while piece := await receive():
        for chunk in decoder.feed(piece):
            yield chunk
    for chunk in decoder.flush():
        yield chunk


class Kind(Generic[Chunk, Response]):
    """What differs between chats and completions: the records, and where in a chunk its text stands."""

    def __init__(self, chunk: type[Chunk], response: type[Response], part_of: Callable[[Any], Any], text: str) -> None:
        self.chunk = chunk
        self.response = response
        self.part_of = part_of
        self.text = text


CHAT = Kind(ChatChunk, ChatResponse, attrgetter("message"), "content")
GENERATE = Kind(GenerateChunk, GenerateResponse, lambda chunk: chunk, "response")


class AnswerStream(Generic[Chunk, Response]):
    """An answer as it is generated: `async with` opens it, `async for` gives its chunks.

    Leaving the context at any point closes the connection, which makes the server stop generating.
    """

    def __init__(
        self, opening: AbstractAsyncContextManager[Receive], kind: Kind[Chunk, Response], *, format: Any = None
    ) -> None:
        self._opening = opening
        self._kind = kind
        self._format = format
        self._stack = AsyncExitStack()
        self._is_opened = False
        self._is_ended = False
        self._is_left = False
        self._chunks: AsyncGenerator[Chunk, None] | None = None
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self._logprobs: list[Logprob] = []
        self._last: Chunk = kind.chunk()

    async def __aenter__(self) -> Self:
        if self._is_opened:
            raise ConfigError("a stream is opened once: ask for a new one")
        self._is_opened = True
        receive = await self._stack.enter_async_context(self._opening)
        self._stack.push_async_callback(self._read_rest, receive)
        self._chunks = await self._stack.enter_async_context(contextlib.aclosing(self._read(receive)))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._is_left = True
        await self._stack.aclose()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Iterate over the chunks.

        Raises:
            StreamFailed: the server reported an error.
            StreamTruncated: the stream ended, or broke, before the chunk that says `done`.
            ProtocolError: a line is not Ollama's, or they are more than a stream may have.
            ConfigError: the context is not entered yet, or was left before the end.
        """
        if self._chunks is None:
            raise ConfigError("a stream is opened by 'async with' before it is iterated")
        if self._is_left and not self._last.done:
            raise ConfigError("the stream was left before its end: iterate it inside its 'async with'")
        return self._chunks

    async def __anext__(self) -> Chunk:
        return await anext(self.__aiter__())

    async def _read(self, receive: Receive) -> AsyncGenerator[Chunk, None]:
        """One loop from bytes to chunks: what is done here is done for every token."""
        decoder, part_of, text = NDJSONDecoder(self._kind.chunk), self._kind.part_of, self._kind.text
        piece, left = b"-", MAX_STREAM_BYTES
        try:
            while piece:
                piece = await receive()
                left -= len(piece)
                if left < 0:
                    raise ProtocolError(f"the server sent a stream of more than {MAX_STREAM_BYTES:,} bytes")
                for chunk in decoder.feed(piece) if piece else decoder.flush():
                    if chunk.error and (complaint := failure(chunk.error)):
                        raise StreamFailed(complaint)
                    self._last = chunk
                    part = part_of(chunk)
                    self._text.append(getattr(part, text))
                    if part.thinking or part.tool_calls or chunk.logprobs:
                        self._thinking.append(part.thinking)
                        self._tool_calls += part.tool_calls
                        self._logprobs += chunk.logprobs
                    yield chunk
                    if chunk.done:
                        await self._read_rest(receive)
                        return
            raise StreamTruncated("the answer ended before it was done")
        except OllamaError as exc:
            exc.partial = self._partial
            raise

    async def _read_rest(self, receive: Receive) -> None:
        """Read what comes behind `done`, once, if that is little and soon: the connection can then be used again."""
        left = REST_BYTES if self._last.done and not self._is_ended else 0
        self._is_ended = True
        with contextlib.suppress(OllamaError), anyio.move_on_after(REST_S):
            while left > 0 and (piece := await receive()):
                left -= len(piece)

    def text(self) -> AsyncIterator[str]:
        """Give the pieces of the answer's text as they come."""
        pieces = self._pieces()
        self._stack.push_async_callback(pieces.aclose)  # left early, it ends with the stream, as trio wants it
        return pieces

    async def _pieces(self) -> AsyncGenerator[str, None]:
        part_of, name = self._kind.part_of, self._kind.text
        async for chunk in self:
            if text := getattr(part_of(chunk), name):
                yield text

    @property
    def response(self) -> Response:
        """All that has come so far as one response; after the loop it has the metrics and `parsed`.

        Raises:
            ModelOutputError: the stream is done and its text does not fit `format`.
        """
        fields = {name: getattr(self._last, name) for name in self._last.__struct_fields__}
        response = copy.deepcopy(self._kind.response(**fields))
        part = self._kind.part_of(response)
        setattr(part, self._kind.text, self._partial)
        part.thinking = "".join(self._thinking)
        part.tool_calls = list(self._tool_calls)
        response.logprobs = list(self._logprobs)
        if self._last.done:
            response.parsed = parse_answer(self._format, self._partial, self._tool_calls)
        return response

    @property
    def _partial(self) -> str:
        return "".join(self._text)


ChatStream: TypeAlias = AnswerStream[ChatChunk, ChatResponse]
GenerateStream: TypeAlias = AnswerStream[GenerateChunk, GenerateResponse]
