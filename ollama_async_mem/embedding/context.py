"""How long a text a model takes: what the server says of the context that it is loaded with."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.errors import ProtocolError, StatusError
from ollama_async_mem.ollama._context import own_context
from ollama_async_mem.ollama.names import canonical

if TYPE_CHECKING:
    from ollama_async_mem.ollama.client import OllamaClient

__all__ = ["SURE_BYTES", "Room", "room_of"]

SURE_BYTES = 240
"""A text that every model takes: the smallest context is 256 tokens, a token is a byte or more."""

_USUAL_TOKENS = 512
_MOST_SURE_BYTES = 2032  # one batch of a model, whatever its context, is 2,048 tokens
_MARKS = 16  # tokens that a model adds at both ends
_BYTES_PER_TOKEN = 3  # English has 4, Chinese 3; what is too long all the same is refused and cut again


class Room(msgspec.Struct, frozen=True):
    """How many bytes of text surely fit, and from how many on a text is cut before it is sent."""

    sure_bytes: int = SURE_BYTES
    most_bytes: int = _BYTES_PER_TOKEN * (_USUAL_TOKENS - _MARKS)


async def room_of(client: OllamaClient, model: str, keep_alive: float | str | None) -> Room:
    """Ask the server how long a text may be. Loads the model, since only then its context is known.

    What a server does not say is taken to be 512 tokens.

    Raises:
        OllamaError: the server could not be reached.
    """
    loaded = await _loaded(client, model, keep_alive)
    own = longest = 0
    with suppress(ProtocolError, StatusError):
        shown = await client.show(model)
        own, longest = own_context(shown.parameters), shown.context_length
    known = [tokens for tokens in (loaded, own, longest) if tokens > 0]
    if not known:
        return Room()
    tokens = max(min(known) - _MARKS, 1)
    # Nobody is sure of a context that is not loaded.
    return Room(min(tokens, _MOST_SURE_BYTES) if loaded else SURE_BYTES, _BYTES_PER_TOKEN * tokens)


async def _loaded(client: OllamaClient, model: str, keep_alive: float | str | None) -> int:
    """Load the model and return the tokens of its context, 0 where the server does not say."""
    try:
        await client.embed(model, [], keep_alive=keep_alive)
        return next((m.context_length for m in await client.ps() if canonical(m.name) == canonical(model)), 0)
    except ProtocolError:
        return 0
    except StatusError as exc:
        if type(exc) is StatusError:  # another server than Ollama; what has a class of its own concerns every request
            return 0
        raise
