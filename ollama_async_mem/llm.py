"""`OllamaLLM`: a chat model on an Ollama server, always asked with the same options.

It owns what a request is made of: options, format, tools, and a context that fits. It knows nothing of memory.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from ollama_async_mem.config import OllamaConfig
from ollama_async_mem.connect import connect
from ollama_async_mem.errors import ConfigError, ProtocolError, StatusError
from ollama_async_mem.ollama._context import prompt_tokens, warn_if_cut
from ollama_async_mem.ollama._requests import described

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from ollama_async_mem.ollama._requests import ChatFields
    from ollama_async_mem.ollama._streams import ChatStream
    from ollama_async_mem.ollama.client import OllamaClient
    from ollama_async_mem.ollama.schema import ChatMessage, ChatResponse

__all__ = ["OllamaLLM", "ResponseStream"]

_ROOM_TOKENS = 2000
"""Context that is kept for an answer without a limit of its own."""


class ResponseStream:
    """The pieces of an answer's text as they come: `async for piece in stream`."""

    def __init__(self, stream: ChatStream, result: Callable[[ChatResponse], Any]) -> None:
        self._stream = stream
        self._result = result

    def __aiter__(self) -> AsyncIterator[str]:
        return self.text()

    def text(self) -> AsyncIterator[str]:
        """Give the pieces of the answer's text as they come."""
        return self._stream.text()

    @property
    def response(self) -> ChatResponse:
        """The server's response as far as it has come, with the metrics once it is done."""
        return self._stream.response

    @property
    def result(self) -> Any:
        """What `generate_response` would have returned, once the answer is done.

        Raises:
            ModelOutputError: the answer does not fit its format.
        """
        return self._result(self.response)


class OllamaLLM:
    """Whole answers and streamed ones from one model of an Ollama server.

    Args:
        config: an `OllamaConfig`, a mapping of its fields, or a model's name.
        client: the client to use. Without one it makes its own of what the config says about the connection, and closes
            it in `aclose` or when `async with` is left; nothing else needs `async with`.

    Where the config has no `num_ctx`, it is sized to the prompts, see `ModelManager.context_size`. Every method that
    asks may raise `OllamaError`.
    """

    def __init__(
        self, config: OllamaConfig | Mapping[str, Any] | str | None = None, *, client: OllamaClient | None = None
    ) -> None:
        self.config = OllamaConfig.of(config)
        self.client = client or connect(self.config)
        self._owns_client = client is None

    def __repr__(self) -> str:
        return f"OllamaLLM({self.config!r})"

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.config.model

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client if it is this model's own. May be called more than once."""
        if self._owns_client:
            await self.client.aclose()

    async def generate_response(
        self,
        messages: Sequence[Mapping[str, Any] | ChatMessage],
        response_format: Any = None,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
    ) -> Any:
        """Answer a conversation.

        Returns the text; with `tools` a dict of `content` and `tool_calls`, each with `name` and `arguments`.

        Args:
            messages: as of `OllamaClient.chat`.
            response_format: `{"type": "json_object"}` or "json" make the text JSON. `{"type": "json_schema", ...}`, a
                JSON schema or a type (Struct, dataclass, TypedDict, pydantic model) give the object in place of a text.
            tools: JSON descriptions, or Python functions to describe.

        Raises:
            ConfigError: an argument is not what it should be; nothing was sent.
            ModelNotFound: the server does not have the model.
            ModelOutputError: the answer does not fit the format.
        """
        format_ = wire_format(response_format)
        fields = await self._fields(messages, format=format_, tools=tools)
        reply = await self.client.chat(self.model, messages, **fields)
        return _result(reply, format_, with_tools=bool(tools))

    @asynccontextmanager
    async def stream_response(
        self,
        messages: Sequence[Mapping[str, Any] | ChatMessage],
        response_format: Any = None,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
    ) -> AsyncIterator[ResponseStream]:
        """Answer as pieces of text: `async with llm.stream_response(...) as stream`; leaving it stops the model.

        Arguments and errors are those of `generate_response`, and `stream.result` is what that returns.
        """
        format_ = wire_format(response_format)
        fields = await self._fields(messages, format=format_, tools=tools)
        async with self.client.stream_chat(self.model, messages, **fields) as stream:
            yield ResponseStream(stream, lambda reply: _result(reply, format_, with_tools=bool(tools)))

    async def generate(self, messages: Sequence[Mapping[str, Any]], *, schema: type[Any] | None = None) -> Any:
        """Answer with text, or at temperature 0 and without thinking with an instance of `schema`.

        A `think` in the config counts in either case.

        Raises:
            ModelOutputError: the answer does not fit `schema`.
        """
        fields = await self._fields(messages, format=schema, options={"temperature": 0} if schema else {})
        if schema and fields["think"] is None and await self._can_think():
            fields["think"] = False
        reply = await self.client.chat(self.model, messages, **fields)
        return reply.parsed if schema else reply.message.content

    @asynccontextmanager
    async def stream(self, messages: Sequence[Mapping[str, Any]]) -> AsyncIterator[AsyncIterator[str]]:
        """Answer as pieces of text; leaving the context stops the model."""
        async with self.client.stream_chat(self.model, messages, **await self._fields(messages)) as stream:
            yield stream.text()

    async def instructions(self) -> str:
        """Return the model's own instructions, which others in a conversation would take the place of."""
        return await self.client.models.instructions(self.model)

    async def _fields(
        self,
        messages: object,
        *,
        format: Any = None,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> ChatFields:
        """What a request has besides model and messages."""
        descriptions = described(tools)
        num_ctx = await self._context_size(prompt_tokens(messages, descriptions))
        return {
            "format": format,
            "tools": descriptions,
            "think": self.config.think,
            "keep_alive": self.config.keep_alive,
            "options": {**self.config.options, **({"num_ctx": num_ctx} if num_ctx else {}), **(options or {})},
        }

    async def _can_think(self) -> bool:
        with suppress(StatusError, ProtocolError):  # where the server does not say, it cannot think
            return await self.client.models.can_think(self.model)
        return False

    async def _context_size(self, prompt: int) -> int | None:
        """The `num_ctx` for a prompt of so many tokens: the config's, else one that fits it."""
        limit = self.config.max_tokens
        needed = prompt + (limit if limit and limit > 0 else _ROOM_TOKENS)
        if self.config.num_ctx is None:
            return await self.client.models.context_size(self.model, needed)
        warn_if_cut(self.model, needed, self.config.num_ctx)
        return self.config.num_ctx


def wire_format(response_format: Any) -> Any:
    """Make the client's `format` of OpenAI's `response_format`, or leave what is the client's already. Pure.

    Raises:
        ConfigError: a JSON schema is announced that is not there.
    """
    match response_format:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return "json"
        case {"type": "json_schema", "json_schema": {"schema": dict() as schema}}:
            return schema
        case {"type": "json_schema"}:
            raise ConfigError(
                'response_format is like {"type": "json_schema", "json_schema": {"schema": {...}}}, '
                f"got {response_format!r}"
            )
    return response_format


def _result(reply: ChatResponse, format_: Any, *, with_tools: bool) -> Any:
    if with_tools:
        calls = [{"name": c.function.name, "arguments": c.function.arguments} for c in reply.message.tool_calls]
        return {"content": reply.message.content, "tool_calls": calls}
    return reply.message.content if format_ is None or isinstance(format_, str) else reply.parsed
