"""`OllamaLLM`: the chat model a memory uses, on an Ollama server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from ollama_async_mem.ollama.client import OllamaClient

__all__ = ["OllamaLLM"]

MAX_TOKENS = 2000
"""Where an answer is cut unless `options` say otherwise: small models can go on for ever."""


class OllamaLLM:
    """Whole answers and streamed ones from one model, always with the same options.

    The options stay the same from call to call because a change of a load-time option reloads the model.
    """

    def __init__(self, client: OllamaClient, model: str, *, options: Mapping[str, Any] | None = None) -> None:
        self._model = model
        self._client = client
        self._options = {"num_predict": MAX_TOKENS, **(options or {})}

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._model

    async def generate(self, messages: Sequence[Mapping[str, Any]], *, schema: type[Any] | None = None) -> Any:
        """Answer with text, or with an instance of `schema`.

        Raises:
            ModelOutputError: the answer does not fit `schema`.
            OllamaError: the server could not be reached, or refused.
        """
        options = {**self._options, "temperature": 0} if schema else self._options
        reply = await self._client.chat(self._model, list(messages), format=schema, options=options)
        return reply.parsed if schema else reply.message.content

    @asynccontextmanager
    async def stream(self, messages: Sequence[Mapping[str, Any]]) -> AsyncIterator[AsyncIterator[str]]:
        """Answer as pieces of text; leaving the context stops the model."""
        async with self._client.stream_chat(self._model, list(messages), options=self._options) as stream:
            yield stream.text()
