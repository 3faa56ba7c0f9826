"""Images in messages: described in words by a model with vision, which are stored in their place."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.ports import ChatModel
    from ollama_async_mem.records import Message

__all__ = ["REMOTE", "as_bytes", "described"]

_QUESTION = (
    "Describe this image in two or three plain sentences, for someone who will look for it later: "
    "who and what is on it, where it seems to be, and any text that can be read. Only the description."
)
REMOTE = ("http://", "https://")


async def described(messages: Sequence[Message], vision: ChatModel | None) -> list[Message]:
    """Put a description in words behind the text of each message with images.

    Images by URL are not fetched: the URL is noted. Without a model, a message keeps its text.

    Raises:
        ConfigError: a message has only images, and there is no model to describe them.
        OllamaError: the model could not be asked.
    """
    return [await _described(m, vision) if m.images else m for m in messages]


async def _described(message: Message, vision: ChatModel | None) -> Message:
    notes = [note for image in message.images if (note := await _note(image, vision))]
    text = "\n".join(part for part in (message.content.strip() and message.content, *notes) if part)
    if not text:
        raise ConfigError("a message has only images: name a model that can describe them with vision=, such as llava")
    return msgspec.structs.replace(message, content=text, images=())


async def _note(image: bytes | str, vision: ChatModel | None) -> str:
    if isinstance(image, str) and image.startswith(REMOTE):
        return f"[image: {image}]"
    if vision is None:
        return ""
    asked: list[dict[str, Any]] = [{"role": "user", "content": _QUESTION, "images": [as_bytes(image)]}]
    return f"[image: {' '.join(str(await vision.generate(asked)).split())}]"


def as_bytes(image: bytes | str) -> bytes:
    """The bytes of an image. Other text than base64 is refused: messages come from anybody, and may not name files."""
    if isinstance(image, bytes):
        return image
    data = image.partition(",")[2] if image.startswith("data:") else image
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as exc:
        raise ConfigError("an image is neither bytes, nor base64, nor a data: URL, nor an https: URL") from exc
