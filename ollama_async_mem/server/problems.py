"""What went wrong, as problem details for whoever asked over the network (RFC 9457). Pure.

It owns which failure has which HTTP status, and that no answer holds a path or a stack trace: those are for the
log. It knows the error tree and nothing of routes.
"""

from __future__ import annotations

import logging
import math
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectFailed,
    EmbeddingFailed,
    EmbeddingMismatch,
    MissingExtra,
    ModelNotFound,
    ModelOutputError,
    OllamaAsyncMemError,
    OllamaError,
    ProtocolError,
    RecordNotFound,
    RequestTimeout,
    SchemaTooNew,
    ServerBusy,
    StatusError,
    StoreBusy,
    StoreClosed,
    StoreError,
)
from ollama_async_mem.server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PROBLEM_TYPE", "Problem", "plain_problem", "problem"]

PROBLEM_TYPE = b"application/problem+json"
_PREFIX = "urn:ollama-async-mem:problem:"
_NOT_OURS = "about:blank"
_log = logging.getLogger(__name__)

# An absolute path, of POSIX or of Windows. What follows a letter, a colon or a slash belongs to a URL or to words.
_PATH = re.compile(r"""(?<![\w:/.])(?:~?/|[A-Za-z]:\\)(?:[^\s/\\'":;,()]+[/\\])+[^\s/\\'":;,()]*""")


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an answer says of a failure; `type` is for programs, `title` and `detail` are for people.

    `retry_after_s` is set where the same request may succeed later.
    """

    status: int
    type: str = msgspec.field(default_factory=lambda: _NOT_OURS)  # so it is written, as plain defaults are not
    title: str
    detail: str = ""
    retry_after_s: float | None = None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of the answer: its type, and when to come back in whole seconds."""
        kind = [(b"content-type", PROBLEM_TYPE)]
        if self.retry_after_s is None:
            return kind
        return [*kind, (b"retry-after", str(max(1, math.ceil(self.retry_after_s))).encode())]


class _Kind(msgspec.Struct, frozen=True):
    """How failures of a class are told. Without a `detail` it is their own text."""

    status: int
    name: str
    title: str
    detail: str = ""
    retry_after_s: float | None = None


# A failure is told as the first class of its own ancestry that stands here.
_KINDS: Mapping[type[Exception], _Kind] = {
    msgspec.MsgspecError: _Kind(400, "invalid-request", "The request is not what it should be"),
    ConfigError: _Kind(400, "invalid-request", "The request is not what it should be"),
    MissingExtra: _Kind(501, "not-installed", "This server lacks a part"),
    RecordNotFound: _Kind(404, "memory-not-found", "There is no such memory"),
    ModelNotFound: _Kind(404, "model-not-found", "The Ollama server does not have the model"),
    EmbeddingFailed: _Kind(422, "text-not-embeddable", "A text cannot be embedded"),
    EmbeddingMismatch: _Kind(
        500, "embedding-mismatch", "The store holds vectors of another model", "Start the server with that embedder."
    ),
    ModelOutputError: _Kind(502, "model-output", "The model's answer cannot be used"),
    StoreBusy: _Kind(
        503, "store-busy", "The store is busy", "Another process holds its lock. Nothing was lost: try again.", 1.0
    ),
    StoreClosed: _Kind(503, "closing", "The server is closing", "Try again once it runs again.", 5.0),
    SchemaTooNew: _Kind(
        500, "store-too-new", "The store cannot be read", "A newer version of this program wrote it: update this one."
    ),
    StoreError: _Kind(
        503,
        "store-failed",
        "The store cannot do this",
        "Its disk may be full, or its database away; what was stored is intact. The log of the server says more.",
        10.0,
    ),
    ConnectFailed: _Kind(
        503,
        "ollama-unreachable",
        "The Ollama server cannot be reached",
        "Start it with 'ollama serve'. The log of this server says where it was looked for.",
        5.0,
    ),
    ServerBusy: _Kind(503, "ollama-busy", "The Ollama server is busy", retry_after_s=1.0),
    RequestTimeout: _Kind(504, "ollama-timeout", "The Ollama server takes too long"),
    AuthenticationFailed: _Kind(502, "ollama-credentials", "The Ollama server wants other credentials"),
    ProtocolError: _Kind(502, "ollama-failed", "The Ollama server's answer cannot be used"),
    OllamaError: _Kind(502, "ollama-failed", "The Ollama server failed"),
    OllamaAsyncMemError: _Kind(500, "failed", "This could not be done"),
}
_UNEXPECTED = _Kind(500, "internal", "An unexpected error", "The log of the server says more.")


def problem(exc: Exception) -> Problem:
    """Tell a failure as an HTTP answer does. What is no error of this library is logged, and told as unexpected."""
    if isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        return problem(exc.exceptions[0])
    if isinstance(exc, Refused):
        return _refused(exc)
    kind = next((_KINDS[base] for base in type(exc).__mro__ if base in _KINDS), _UNEXPECTED)
    if kind.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.log(
            logging.ERROR if kind is _UNEXPECTED else logging.WARNING, "%s: %s", kind.title, exc, exc_info=_of(exc)
        )
    return Problem(
        status=kind.status,
        type=_PREFIX + kind.name,
        title=kind.title,
        detail=kind.detail or _detail(exc),
        retry_after_s=getattr(exc, "retry_after_s", None) or kind.retry_after_s,
    )


def plain_problem(status: int, detail: str = "") -> Problem:
    """Tell what the status alone says, such as that there is no such route."""
    return Problem(status=status, title=HTTPStatus(status).phrase, detail=detail)


def _refused(exc: Refused) -> Problem:
    name = "-".join(exc.title.lower().split())
    return Problem(
        status=exc.status,
        type=_PREFIX + name,
        title=exc.title,
        detail=_without_paths(str(exc)),
        retry_after_s=exc.retry_after_s,
    )


def _of(exc: Exception) -> Exception | None:
    """The stack trace that is logged: of what nobody foresaw."""
    return None if isinstance(exc, OllamaAsyncMemError) else exc


def _detail(exc: Exception) -> str:
    """The failure's own words, but where they come from the file system."""
    if isinstance(exc.__cause__, OSError):
        return "A file of the server could not be used. Its log says more."
    return _without_paths(exc.message if isinstance(exc, StatusError) else str(exc))


def _without_paths(text: str) -> str:
    return _PATH.sub("(a path)", text)
