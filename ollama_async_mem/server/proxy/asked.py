"""A request to a chat model: what is asked, and the same request with memories in it. Pure.

All that is not changed keeps its bytes: fields, tools, images and other messages are never taken apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["READERS", "Asked"]

_INSTRUCTIONS = frozenset({"system", "developer"})
_FREE_FORMATS = frozenset({b"", b"null", b'""'})
_encode = msgspec.json.encode


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the newest message of the user says, and the texts that the model is given anyway.

    `has_system` says whether the request has instructions of its own; without, those of the model hold. `is_free` says
    whether the answer may be any text: one in a given format is for a program. `write` makes the body of the request
    with a text behind the instructions.
    """

    model: str
    question: str
    known: tuple[str, ...]
    has_system: bool
    is_free: bool
    write: Callable[[str], bytes]


class _Part(msgspec.Struct):
    text: str | None = None


class _Message(msgspec.Struct):
    role: str = "user"
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.text)
        return self.content or ""

    @property
    def is_system(self) -> bool:
        return self.role.lower() in _INSTRUCTIONS


class _Generate(msgspec.Struct):
    model: str
    prompt: str
    system: str | None = None
    suffix: str | None = None
    raw: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str = "text"


_Fields: TypeAlias = dict[str, msgspec.Raw]
_fields = msgspec.json.Decoder(_Fields)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_message = msgspec.json.Decoder(_Message)
_generate = msgspec.json.Decoder(_Generate)


def _read_chat(body: bytes) -> Asked | None:
    fields = _fields.decode(body)
    raws = _raws.decode(fields["messages"])
    messages = [_message.decode(raw) for raw in raws]
    question = next((message.text for message in reversed(messages) if message.role.lower() == "user"), "")
    has_system = messages[0].is_system if messages else False

    def write(text: str) -> bytes:
        if has_system:
            told = [_extended(raws[0], messages[0], text), *raws[1:]]
        else:
            told = [_raw({"role": "system", "content": text}), *raws]
        return _encode({**fields, "messages": told})

    return Asked(
        model=_model(fields),
        question=question,
        known=tuple(message.text for message in messages),
        has_system=has_system,
        is_free=_is_free(fields),
        write=write,
    )


def _read_generate(body: bytes) -> Asked | None:
    fields, asked = _fields.decode(body), _generate.decode(body)
    if asked.raw or asked.suffix:  # the prompt is not what somebody says: a template, or code with a gap
        return None

    def write(text: str) -> bytes:
        return _encode({**fields, "system": f"{asked.system}\n\n{text}" if asked.system else text})

    return Asked(
        model=asked.model,
        question=asked.prompt,
        known=(asked.prompt,),
        has_system=bool(asked.system),
        is_free=_is_free(fields),
        write=write,
    )


def _extended(raw: msgspec.Raw, message: _Message, text: str) -> msgspec.Raw:
    """A message with more behind its text, which is one string or a list of parts."""
    fields = _fields.decode(raw)
    if isinstance(message.content, list):
        return _raw({**fields, "content": [*_raws.decode(fields["content"]), {"type": "text", "text": text}]})
    return _raw({**fields, "content": f"{message.content}\n\n{text}" if message.content else text})


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))


def _model(fields: _Fields) -> str:
    return msgspec.json.decode(fields["model"], type=str)


def _is_free(fields: _Fields) -> bool:
    wanted = fields.get("response_format")
    if wanted is not None and msgspec.json.decode(wanted, type=_ResponseFormat | None) not in (None, _ResponseFormat()):
        return False
    return bytes(fields.get("format", b"")) in _FREE_FORMATS


def _if_understood(read: Callable[[bytes], Asked | None]) -> Callable[[bytes], Asked | None]:
    """A reader that gives None for what it cannot read, which the server shall refuse, and where nothing is asked."""

    def reader(body: bytes) -> Asked | None:
        try:
            asked = read(body)
        except (msgspec.MsgspecError, KeyError, UnicodeDecodeError, RecursionError):
            return None
        return asked if asked and asked.question.strip() else None

    return reader


READERS = {
    "/api/chat": _if_understood(_read_chat),
    "/v1/chat/completions": _if_understood(_read_chat),
    "/api/generate": _if_understood(_read_generate),
}
"""What reads the body of a POST, by its path; gives None for a body that has no words of a user in it."""
