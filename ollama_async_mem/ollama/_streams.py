"""Streams of typed chunks, as context managers: leaving one closes its socket, the server stops working."""

from __future__ import annotations

import contextlib
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ollama_async_mem.errors import StreamFailed, StreamTruncated

from ._ndjson import NDJSONDecoder
from .formats import parse_answer
from .schema import ChatChunk, ChatMessage, ChatResponse, ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from ._http import Receive, Server

__all__ = ["ChatStream", "failure", "open_chunks"]

T = TypeVar("T")


@asynccontextmanager
async def open_chunks(server: Server, path: str, body: object, type_: type[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Send a request whose answer is NDJSON and give its lines as `type_`."""
    async with (
        server.stream("POST", path, body) as receive,
        contextlib.aclosing(_decoded(receive, NDJSONDecoder(type_))) as chunks,
    ):
        yield chunks


async def _decoded(receive: Receive, decoder: NDJSONDecoder[T]) -> AsyncGenerator[T, None]:
    while piece := await receive():
        for chunk in decoder.feed(piece):
            yield chunk
    for chunk in decoder.flush():
        yield chunk


def failure(error: object) -> str | None:
    """Read a line's `error`: the text of a failure, or None where there is none (absent, null and empty)."""
    if isinstance(error, dict):
        error = error.get("message", error)
    return str(error) if error else None


class ChatStream:
    """An answer as it is generated: `async with` opens it, `async for` gives its chunks.

    Leaving the context at any point closes the connection, which makes the server stop generating.
    """

    def __init__(self, opening: AbstractAsyncContextManager[Receive], *, format: Any = None) -> None:
        self._opening = opening
        self._format = format
        self._stack = AsyncExitStack()
        self._chunks: AsyncGenerator[ChatChunk, None] | None = None
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self._last = ChatChunk()

    async def __aenter__(self) -> Self:
        receive = await self._stack.enter_async_context(self._opening)
        self._chunks = await self._stack.enter_async_context(contextlib.aclosing(self._read(receive)))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def __aiter__(self) -> AsyncIterator[ChatChunk]:
        """Iterate over the chunks.

        Raises:
            StreamFailed: the server reported an error.
            StreamTruncated: the stream ended, or broke, before the chunk that says `done`.
        """
        if self._chunks is None:
            raise RuntimeError("a ChatStream is opened by 'async with' before it is iterated")
        return self._chunks

    async def __anext__(self) -> ChatChunk:
        return await anext(self.__aiter__())

    async def _read(self, receive: Receive) -> AsyncGenerator[ChatChunk, None]:
        """One loop from bytes to chunks: what is done here is done for every token."""
        decoder = NDJSONDecoder(ChatChunk)
        piece = b"-"
        while piece:
            try:
                piece = await receive()
            except StreamTruncated as exc:
                raise StreamTruncated(str(exc), partial=self._partial) from exc
            for chunk in decoder.feed(piece) if piece else decoder.flush():
                if chunk.error and (complaint := failure(chunk.error)):
                    raise StreamFailed(complaint, partial=self._partial)
                self._last = chunk
                message = chunk.message
                self._text.append(message.content)
                if message.thinking:
                    self._thinking.append(message.thinking)
                if message.tool_calls:
                    self._tool_calls += message.tool_calls
                yield chunk
        if not self._last.done:
            raise StreamTruncated("the answer ended before it was done", partial=self._partial)

    async def text(self) -> AsyncIterator[str]:
        """Give the pieces of the answer's text as they come."""
        async for chunk in self:
            if chunk.message.content:
                yield chunk.message.content

    @property
    def response(self) -> ChatResponse:
        """All that has come so far as one response; after the loop it has the metrics and `parsed`.

        Raises:
            ModelOutputError: the stream is done and its text does not fit `format`.
        """
        last = self._last
        message = ChatMessage(
            role=last.message.role,
            content=self._partial,
            thinking="".join(self._thinking),
            tool_calls=list(self._tool_calls),
        )
        fields = {name: getattr(last, name) for name in ChatChunk.__struct_fields__ if name != "message"}
        parsed = parse_answer(self._format, self._partial) if last.done else None
        return ChatResponse(message=message, parsed=parsed, **fields)

    @property
    def _partial(self) -> str:
        return "".join(self._text)
