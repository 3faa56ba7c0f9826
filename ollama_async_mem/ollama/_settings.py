"""The settings of a client, checked before anything is made of them, and the key that it sends. No I/O."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ollama_async_mem.errors import ConfigError

from ._http import Timeouts
from ._retry import RetryPolicy

if TYPE_CHECKING:
    from .hosts import Host

__all__ = ["check_settings", "check_way", "key_header"]

_FRAMING = {"content-length", "transfer-encoding", "connection"}
_KEY = re.compile("[!-~]+")


def check_settings(host: object, headers: object, timeouts: object, retry: object, max_connections: object) -> None:
    """Refuse what could only fail later, at the first request.

    Raises:
        ConfigError: a setting cannot be used; says which.
    """
    if not isinstance(host, str | None):
        raise ConfigError(f"host is a text such as http://127.0.0.1:11434, got {host!r}")
    if not isinstance(headers, Mapping):
        raise ConfigError(f"headers is a mapping of texts, got {type(headers).__name__}")
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str) and f"{name}{value}".isprintable()):
            raise ConfigError(f"the header {name!r} is not made of printable texts")
        if name.lower() in _FRAMING or not f"{name}{value}".isascii():
            raise ConfigError(f"the header {name!r} cannot be set: it is the client's own, or not ASCII")
    if not isinstance(timeouts, Timeouts) or not isinstance(retry, RetryPolicy | None):
        raise ConfigError(f"timeouts is a Timeouts and retry a RetryPolicy, got {timeouts!r} and {retry!r}")
    if not isinstance(max_connections, int) or max_connections < 1:
        raise ConfigError(f"max_connections is at least 1, got {max_connections!r}")


def check_way(auth: object, transport: object) -> None:
    """Refuse what is no authentication or no transport, without importing httpx to know.

    Raises:
        ConfigError: one of them is not; does not tell what it is, which may be a password.
    """
    if not (auth is None or _is_pair(auth) or _has_method(auth, "auth_flow")):
        raise ConfigError(f"auth is a tuple of user and password, or an httpx.Auth, got {type(auth).__name__}")
    if not (transport is None or _has_method(transport, "handle_async_request")):
        raise ConfigError(f"transport is an httpx.AsyncBaseTransport, got {type(transport).__name__}")


def _is_pair(auth: object) -> bool:
    if not (isinstance(auth, tuple) and len(auth) == 2):  # noqa: PLR2004 - user and password
        return False
    return all(isinstance(text, str) and text == text.encode(errors="replace").decode() for text in auth)


def _has_method(thing: object, name: str) -> bool:
    return not isinstance(thing, type) and callable(getattr(thing, name, None))


def key_header(api_key: object, auth: object, headers: Mapping[str, str], host: Host) -> dict[str, str]:
    """Write the header that carries the key: the one given, else OLLAMA_API_KEY for https without other credentials.

    Raises:
        ConfigError: the key cannot stand in a header, or there are two ways to say who asks.
    """
    has_header = any(name.lower() == "authorization" for name in headers)
    has_key = api_key is not None and api_key != ""
    if [has_key, auth is not None, has_header].count(True) > 1:
        raise ConfigError("api_key=, auth= and an Authorization header exclude each other: give one of them")
    name = "api_key"
    if api_key is None and host.url.startswith("https:") and not (auth or has_header or host.username or host.password):
        name, api_key = "OLLAMA_API_KEY", os.environ.get("OLLAMA_API_KEY")
    if api_key is None or api_key == "":
        return {}
    if not (isinstance(api_key, str) and _KEY.fullmatch(api_key)):
        raise ConfigError(f"{name} is a text of printable ASCII characters without spaces and line ends")
    return {"authorization": f"Bearer {api_key}"}
