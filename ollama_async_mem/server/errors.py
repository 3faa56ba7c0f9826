"""Why the server refuses a request, and nothing else: each reason knows its HTTP status."""

from __future__ import annotations

from ollama_async_mem.errors import OllamaAsyncMemError

__all__ = [
    "Forbidden",
    "HeadTooLarge",
    "Misdirected",
    "Overloaded",
    "Refused",
    "TooLarge",
    "TooManyRequests",
    "TooSlow",
    "Unauthorized",
    "UnsupportedBody",
]


class Refused(OllamaAsyncMemError):
    """A request that is not carried out; `status` is its HTTP status, `retry_after_s` when it may come again."""

    status = 400
    title = "Refused"
    retry_after_s: float | None = None


class Unauthorized(Refused):
    """No key came with the request, or one that is wrong or revoked."""

    status = 401
    title = "Unauthorized"


class Forbidden(Refused):
    """The key is good and does not allow this, or the request comes from a foreign page."""

    status = 403
    title = "Forbidden"


class TooSlow(Refused):
    """The body did not arrive in time."""

    status = 408
    title = "Request Timeout"


class TooLarge(Refused):
    """The body is larger than the server takes."""

    status = 413
    title = "Content Too Large"


class UnsupportedBody(Refused):
    """The body is not of a kind that only a program of ours or of the same page can send."""

    status = 415
    title = "Unsupported Media Type"


class Misdirected(Refused):
    """The Host header names another server, as it does when a foreign name was pointed at this machine."""

    status = 421
    title = "Misdirected Request"


class HeadTooLarge(Refused):
    """The headers are larger than the server takes."""

    status = 431
    title = "Request Header Fields Too Large"


class TooManyRequests(Refused):
    """The key or the address has used up what it may ask for; may be tried again after `retry_after_s`."""

    status = 429
    title = "Too Many Requests"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(Refused):
    """All the requests that the server takes at once are under way; may be tried again after `retry_after_s`."""

    status = 503
    title = "Service Unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
