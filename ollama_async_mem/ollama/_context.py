"""How large a context a prompt needs, and which one to ask the server for. Pure.

Facts of the server (server/sched.go, needsReload): a model is loaded anew for everybody when a request's `num_ctx` is
not the one it was loaded with, after cutting to what the model was trained for. A request without `num_ctx` asks for
the server's default, or for the Modelfile's; so leaving it out reloads a model that was loaded with another, while
sending the very number it is loaded with never does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from .schema import ChatMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DEFAULT_CONTEXT", "ContextSize", "context_for", "own_context", "prompt_tokens", "warn_if_cut"]

DEFAULT_CONTEXT = 4096
"""The smallest context that servers since 0.6 load a model with unless they are told otherwise."""

_BYTES_PER_TOKEN = 3  # English has 4, other languages and code fewer
_TOKENS_PER_IMAGE = 768  # what the server counts (server/prompt.go)


class ContextSize(msgspec.Struct, frozen=True):
    """What is asked for, 0 for nothing; and the most that the model was trained for, 0 where that is unknown."""

    num_ctx: int = 0
    longest: int = 0

    @property
    def is_longest(self) -> bool:
        """Whether nothing larger can be asked for."""
        return 0 < self.longest <= self.num_ctx


def prompt_tokens(messages: object, tools: Sequence[Any] = ()) -> int:
    """Estimate the tokens of a conversation and its tools from their length as JSON, which has room for a template.

    0 for what are no messages, which the request itself refuses.
    """
    if not isinstance(messages, list | tuple):
        return 0
    known = [_fields(message) for message in messages if isinstance(message, dict | ChatMessage)]
    images = sum(_count(message.pop("images", None)) for message in known)
    try:
        size = len(msgspec.json.encode([known, tools]))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return 0
    return math.ceil(size / _BYTES_PER_TOKEN) + _TOKENS_PER_IMAGE * images


def _count(images: object) -> int:
    return len(images) if isinstance(images, list | tuple) else 0


def _fields(message: dict[str, Any] | ChatMessage) -> dict[str, Any]:
    return dict(message) if isinstance(message, dict) else msgspec.structs.asdict(message)


def own_context(parameters: str) -> int:
    """Read the `num_ctx` among a model's parameters, as /api/show writes them; 0 where there is none."""
    for line in parameters.splitlines():
        name, _, value = line.partition(" ")
        if name == "num_ctx" and value.strip().isdecimal():
            return int(value)
    return 0


def context_for(needed: int, *, loaded: int = 0, own: int = 0, longest: int = 0) -> int:
    """Choose the `num_ctx` for so many tokens, where the default may be too small.

    The context the model is `loaded` with, where that is enough: it is the one choice that reloads nothing. Else the
    Modelfile's `own`, which is what others ask for too. Else the next power of two, so that a prompt that is a little
    longer does not reload again. Never more than the `longest`.
    """
    for size in (loaded, own):
        if size >= needed:
            return size
    size = 1 << (needed - 1).bit_length()
    return min(size, longest) if longest else size


def warn_if_cut(model: str, needed: int, num_ctx: int) -> None:
    """Tell the log that a prompt and its answer will not fit: the server cuts the prompt without a word."""
    if needed > num_ctx:
        import logging  # noqa: PLC0415 - most programs never get here, and the client imports fast

        logging.getLogger(__name__).warning(
            "a prompt for %s with its answer takes about %d tokens, its context has %d: the server may cut the prompt",
            model,
            needed,
            num_ctx,
        )
