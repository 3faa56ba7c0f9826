"""The error tree, and nothing else.

Every failure of the library is one of these classes; what another library raised stays on `__cause__`.
A class that sets `retryable` may be tried again: the retry policy reads only that flag.
"""

from __future__ import annotations

import copyreg

__all__ = [
    "AuthenticationFailed",
    "ConfigError",
    "ConnectFailed",
    "CreateFailed",
    "EmbeddingFailed",
    "EmbeddingMismatch",
    "ExtractionFailed",
    "FirstByteTimeout",
    "MissingExtra",
    "ModelNotFound",
    "ModelOutputError",
    "OllamaAsyncMemError",
    "OllamaError",
    "ProtocolError",
    "PullFailed",
    "PushFailed",
    "RecordNotFound",
    "RequestTimeout",
    "SchemaTooNew",
    "ServerBusy",
    "StallTimeout",
    "StatusError",
    "StoreBusy",
    "StoreClosed",
    "StoreError",
    "StreamError",
    "StreamFailed",
    "StreamTruncated",
    "TotalTimeout",
]


class OllamaAsyncMemError(Exception):
    """Base of everything this library raises."""

    retryable = False

    def __reduce__(self) -> tuple[object, ...]:
        """Let it be pickled, for pools of processes: made anew of its text, not of its constructor's arguments."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__ or None  # type: ignore[attr-defined]


class ConfigError(OllamaAsyncMemError):
    """A setting or an argument is missing, unknown or out of range; says which and what is allowed."""


class MissingExtra(OllamaAsyncMemError):
    """A feature needs packages that are not installed."""

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(f'{needed_for} needs more packages: pip install "ollama-async-mem[{extra}]"')
        self.extra = extra


class OllamaError(OllamaAsyncMemError):
    """Talking to the Ollama server failed; `partial` is the text of a stream that had arrived, "" elsewhere."""

    partial = ""


class ConnectFailed(OllamaError):
    """The server was not reached: refused, unreachable, or the name is unknown."""

    retryable = True

    def __init__(self, url: str, reason: str, *, advice: str = "") -> None:
        super().__init__(
            f"cannot connect to Ollama at {url}: {reason}. "
            f"Start it with 'ollama serve', or set OLLAMA_HOST (or host=) to where it runs.{advice and f' {advice}'}"
        )
        self.url = url
        self.reason = reason


class RequestTimeout(OllamaError):
    """The server took longer than a limit allows.

    Not retried: a server that is asked again while it loads a model starts loading anew.
    """

    def __init__(self, what: str, limit_s: float) -> None:
        super().__init__(f"{what} within {limit_s:g} s")
        self.limit_s = limit_s


class FirstByteTimeout(RequestTimeout):
    """No answer began in time. A model that is still loading is the usual reason."""


class StallTimeout(RequestTimeout):
    """An answer began and then stopped coming."""


class TotalTimeout(RequestTimeout):
    """A call with its retries, or a whole stream, took longer than `Timeouts.total_s`."""


class StatusError(OllamaError):
    """The server answered with an HTTP status that is not a success.

    `signin_url` is where the server says that one can sign in, "" where it says nothing.
    """

    def __init__(
        self, status: int, message: str, *, url: str = "", retry_after_s: float | None = None, signin_url: str = ""
    ) -> None:
        text = f"{message} (HTTP {status}{f' from {url}' if url else ''})"
        super().__init__(f"{text}: sign in at {signin_url}" if signin_url else text)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.signin_url = signin_url


class ModelNotFound(StatusError):
    """The server does not have the model."""


class ServerBusy(StatusError):
    """The server is overloaded or its backend is briefly away.

    That is 429, 499, 502, 503, 504, and 400 and 500 where the words say that the model's process stopped.
    """

    retryable = True


class AuthenticationFailed(StatusError):
    """The server wants credentials, or others than those that were sent (401, 403)."""


class ProtocolError(OllamaError):
    """The answer is not what Ollama sends: not NDJSON, not JSON, not the schema, or too large."""


class StreamError(OllamaError):
    """A stream broke after it had begun; `partial` is the text that had arrived."""

    def __init__(self, message: str, *, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class StreamFailed(StreamError):
    """The server reported an error in the middle of a stream."""


class StreamTruncated(StreamError):
    """The stream ended without the chunk that says it is done."""


class PullFailed(OllamaError):
    """A model could not be pulled."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"pulling {model!r} failed: {reason}")
        self.model = model


class PushFailed(OllamaError):
    """A model could not be pushed."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"pushing {model!r} failed: {reason}")
        self.model = model


class CreateFailed(OllamaError):
    """A model could not be created."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"creating {model!r} failed: {reason}")
        self.model = model


class EmbeddingFailed(OllamaError):
    """Some texts of a call cannot be embedded: those at `positions` in it. The others can, without them."""

    def __init__(self, reason: str, *, positions: tuple[int, ...], count: int) -> None:
        more = f" and {len(positions) - 1} more" if len(positions) > 1 else ""
        super().__init__(
            f"texts[{positions[0]}]{more} of {count} cannot be embedded: {reason}. Leave it out or change it"
        )
        self.positions = positions


class ModelOutputError(OllamaAsyncMemError):
    """The model's answer cannot be used; `output` is what it said."""

    def __init__(self, message: str, *, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class ExtractionFailed(ModelOutputError):
    """The answer does not fit the facts schema, also not after one repair."""


class EmbeddingMismatch(OllamaAsyncMemError):
    """Vectors of one model or dimension met a store that holds those of another."""

    def __init__(self, *, expected: str, got: str, where: str) -> None:
        super().__init__(
            f"{where} holds embeddings of {expected}, but this memory uses {got}. "
            f"Vectors of two models cannot be compared: use the embedder {expected}, or name another store."
        )
        self.expected = expected
        self.got = got


class StoreError(OllamaAsyncMemError):
    """The store could not do what was asked; what was stored before is intact."""


class RecordNotFound(StoreError):
    """No memory has this id."""

    def __init__(self, record_id: str) -> None:
        super().__init__(f"no memory has the id {record_id!r}")
        self.record_id = record_id


class StoreClosed(StoreError):
    """The store is closed, or was never opened: use `async with`."""


class StoreBusy(StoreError):
    """Another process holds the store's lock for too long."""

    retryable = True


class SchemaTooNew(StoreError):
    """A newer version of this library wrote the store."""
