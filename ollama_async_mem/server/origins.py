"""Whether a request was meant for this server, and by whom it was sent. Pure: reads headers, answers nothing.

A page in a browser reaches a server of this machine through a foreign name that points here (the Host header gives
that away) or by requests across origins (Origin and Sec-Fetch-Site do, and a body that only a form can send).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ollama_async_mem.server.errors import Forbidden, Misdirected, UnsupportedBody
from ollama_async_mem.server.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["SAFE_METHODS", "has_body", "require_host", "require_json", "require_origin", "require_same_site"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OTHER_SITES = (b"cross-site", b"same-site")  # of the same site is any other port of this machine
_DEFAULT_PORTS = {"http": 80, "https": 443}
_JSON_TYPES = frozenset({"application/json", "application/x-ndjson", "application/jsonl"})


def require_host(host: str, names: Collection[str], address: str) -> None:
    """Take a Host header that names this machine's loopback, the address of the connection, or one of `names`.

    Raises:
        Misdirected: it names anything else.
    """
    name = _host_and_port(host, "http")[0]
    if not name or not (is_loopback(name) or name == address or name in names):
        raise Misdirected("this server does not answer to the name in the Host header: start it with --allow-host NAME")


def require_origin(origin: str, scheme: str, host: str, allowed: Collection[str]) -> bool:
    """Take an Origin header that is this server or one of `allowed`; tells whether it is one of those.

    Raises:
        Forbidden: it is another page.
    """
    if origin in allowed:
        return True
    of_page = origin.partition("://")
    if of_page[0] != scheme or _host_and_port(of_page[2], scheme) != _host_and_port(host, scheme):
        raise Forbidden("a page of another server may not use this one: start it with --allow-origin ORIGIN")
    return False


def require_same_site(method: str, headers: Mapping[bytes, bytes]) -> None:
    """Take what a browser says is of this page or of nobody's, and plain links from anywhere.

    Raises:
        Forbidden: another site's page sent it.
    """
    if headers.get(b"sec-fetch-site") not in _OTHER_SITES:
        return
    if method not in SAFE_METHODS or headers.get(b"sec-fetch-mode") != b"navigate":
        raise Forbidden("a page of another site may not use this server: start it with --allow-origin ORIGIN")


def require_json(headers: Mapping[bytes, bytes]) -> None:
    """Take a body in JSON, or none: a browser lets any page send the types of forms, and a body without a type.

    Raises:
        UnsupportedBody: it is something else.
    """
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if has_body(headers) and kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise UnsupportedBody("send the body as JSON, with the header 'Content-Type: application/json'")


def has_body(headers: Mapping[bytes, bytes]) -> bool:
    """Tell whether a request says that it has a body."""
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


@lru_cache
def _host_and_port(text: str, scheme: str) -> tuple[str, int | None]:
    """The host in lower case and the port of what stands in a Host header; no host where it is none."""
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port or _DEFAULT_PORTS.get(scheme)
    except ValueError:
        return "", None
    if parts.path or parts.query or parts.fragment or "@" in text:
        return "", None
    return (parts.hostname or "").removesuffix("."), port
