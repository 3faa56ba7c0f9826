"""What a request can fail with, in Ollama's statuses and words."""

from __future__ import annotations

import msgspec

__all__ = ["ApiError", "bad_request", "error_line", "shutting_down"]


class ApiError(Exception):
    """An answer other than success: an HTTP status before the first byte, an `error` line after it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def bad_request(message: str) -> ApiError:
    """A request that can never succeed."""
    return ApiError(400, message)


def shutting_down() -> ApiError:
    """What everybody gets whose request the end of the server cuts off."""
    return ApiError(503, "the server is shutting down")


def error_line(message: str) -> bytes:
    """The JSON that carries an error, in a body or as a line of a stream."""
    return msgspec.json.encode({"error": message})
