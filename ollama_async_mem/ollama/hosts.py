"""Where the server is: the grammar of OLLAMA_HOST. Pure, no I/O.

The rules are the server's own (ollama: envconfig/config.go, Host and ConnectableHost), but for one: a port
that is not a number is an error here and a warning there.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from ollama_async_mem.errors import ConfigError

__all__ = ["DEFAULT_PORT", "Host", "parse_host"]

DEFAULT_PORT: Final = 11434
_SCHEME_PORTS: Final = {"http": 80, "https": 443}
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - mapped away, never bound


class Host(msgspec.Struct, frozen=True):
    """A server's address: `url` without credentials and trailing slash, and the credentials apart."""

    url: str
    username: str = ""
    password: str = msgspec.field(default="")

    def __repr__(self) -> str:
        return f"Host({self.url!r}{', credentials' if self.username or self.password else ''})"

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        name = urlsplit(self.url).hostname or ""
        if name == "localhost":
            return True
        try:
            return ipaddress.ip_address(name.partition("%")[0]).is_loopback
        except ValueError:
            return False


def parse_host(value: str | None) -> Host:
    """Read an address as the server reads OLLAMA_HOST; None and the empty text mean http://127.0.0.1:11434.

    Raises:
        ConfigError: the scheme is not http or https, or the port is not a port.
    """
    text = (value or "").strip().strip("\"'").strip()
    scheme, has_scheme, rest = text.partition("://")
    if not has_scheme:
        scheme, rest = ("https", text) if _is_ollama_com(text) else ("http", text)
    if scheme.lower() not in _SCHEME_PORTS:
        raise ConfigError(f"host {value!r}: the scheme {scheme!r} is not supported, use http:// or https://")
    authority, slash, path = rest.partition("/")
    userinfo, _, hostport = authority.rpartition("@")
    name, port = _split_port(hostport, value)
    if port is None:
        port = _SCHEME_PORTS[scheme.lower()] if has_scheme or scheme == "https" else DEFAULT_PORT
    username, _, password = userinfo.partition(":")
    url = f"{scheme.lower()}://{_for_url(name)}:{port}{slash}{path}".rstrip("/")
    return Host(url, unquote(username), unquote(password))


def _is_ollama_com(text: str) -> bool:
    return text.partition("/")[0].lower() in {"ollama.com", "ollama.com:443"}


def _split_port(hostport: str, value: str | None) -> tuple[str, int | None]:
    """Split `name:port`, where a name with several colons and no brackets is an IPv6 address."""
    if hostport.startswith("["):
        name, _, rest = hostport[1:].partition("]")
        port = rest.removeprefix(":")
    elif hostport.count(":") > 1:
        name, port = hostport, ""
    else:
        name, _, port = hostport.partition(":")
    if not port:
        return name, None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ConfigError(f"host {value!r}: the port {port!r} is not a number from 1 to 65535")
    return name, int(port)


def _for_url(name: str) -> str:
    name = _WILDCARDS.get(name, name)
    return f"[{name}]" if ":" in name else name
