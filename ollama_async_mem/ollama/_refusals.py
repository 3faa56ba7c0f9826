"""What a server's refusal means: its status, its words and two of its fields become a typed error. Pure.

It knows Ollama's texts (ollama: server/routes.go, llm/llama_server.go and llm/server.go), nothing of connections.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import msgspec

from ollama_async_mem.errors import AuthenticationFailed, ModelNotFound, ServerBusy, StatusError

from ._decode import UNREADABLE, failure
from .schema import ErrorBody

__all__ = ["address_shown", "status_error"]

_EXCERPT_BYTES = 512
_ADDRESS_CHARS = 200
_BUSY = {429, 499, 502, 503, 504}
_DENIED = {401, 403}
_METHOD_CHANGING_REDIRECTS = {301, 302, 303}
_MAX_RETRY_AFTER_DIGITS = 9

# The statuses that a stopped runner, the process that holds the model, hides behind: /api/embed makes 400 of all.
_OF_RUNNER = {400, 500}
_STOPPED = ("model runner has unexpectedly stopped", "an error was encountered while running the model: ")
_NO_MEMORY = (
    r"(?i)out[ _]?of[ _]?(device[ _]?)?memory|(not enough|insufficient) memory"
    r"|(malloc|allocation) failed|failed to allocate"
)
# Go's words for a connection to that process which broke; all of the message, so that nobody's own words match.
_DISCONNECTED = (
    r"((do (embedding|encode|decode) request|error reading (embed|llama-server( chat)?|llm) response"
    r"|read (encode|decode|health) (request|response)|health resp|POST predict|llama-server apply-template error): )?"
    r'((Get|Post) "http://127\.0\.0\.1:\d+/[^" ]*": )?'
    r"((dial|read|write) tcp [\d.:>-]+: \w+: )?"
    r"((unexpected )?EOF|connection refused|connection reset by peer|broken pipe|http: server closed idle connection"
    r"|No connection could be made because the target machine actively refused it\."
    r"|An existing connection was forcibly closed by the remote host\.)"
)


def status_error(status: int, body: bytes, retry_after: str, url: str, location: str = "") -> StatusError:
    """Make the error that a refusal means."""
    words, signin_url = _read(body)
    if status in _METHOD_CHANGING_REDIRECTS:
        words = (
            f"the server redirects to {address_shown(location)}, which is not followed: only the statuses 307 and 308 "
            "keep a request as it is. If the server is there, give that address as host= or OLLAMA_HOST"
        )
    kind = _kind(status, words)
    words = words or f"the server answered with status {status}"
    return kind(status, words, url=url, retry_after_s=_retry_after_s(retry_after), signin_url=signin_url)


def address_shown(location: str) -> str:
    """Quote where a redirect leads, without a user's name and password."""
    return repr(re.sub(r"//[^/?#]*@", "//", location)[:_ADDRESS_CHARS])


def _kind(status: int, words: str) -> type[StatusError]:
    if status in _BUSY or (status in _OF_RUNNER and _is_runner_gone(words)):
        return ServerBusy
    if status in _DENIED:
        return AuthenticationFailed
    # Texts of the server's 404 answers about models; any other 404 is a path that it does not know.
    if status == HTTPStatus.NOT_FOUND and words.startswith("model "):
        return ModelNotFound
    return StatusError


def _is_runner_gone(words: str) -> bool:
    """Whether the next request finds a new runner; one that ran out of memory will do so again."""
    if words.startswith(_STOPPED):
        return not re.search(_NO_MEMORY, words)
    return re.fullmatch(_DISCONNECTED, words) is not None


def _read(body: bytes) -> tuple[str, str]:
    """Read words and sign-in address: of the JSON error, of the nested one of the /v1 paths, or plain text."""
    try:
        refusal = msgspec.json.decode(body, type=ErrorBody)
    except UNREADABLE:
        return body[:_EXCERPT_BYTES].decode(errors="replace").strip(), ""
    return failure(refusal.error) or "", refusal.signin_url if isinstance(refusal.signin_url, str) else ""


def _retry_after_s(value: str) -> float | None:
    """Read Retry-After in seconds; its other form, a date, needs clocks that agree."""
    is_number = value.isascii() and value.isdigit() and len(value) <= _MAX_RETRY_AFTER_DIGITS
    return float(value) if is_number else None
