"""Where the server is: the grammar of OLLAMA_HOST. Pure, no I/O.

The rules are the server's own (ollama: envconfig/config.go, Host and ConnectableHost), and unix sockets. What the
server only warns of, or reads as a name that nothing has, is an error here.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import msgspec

from ollama_async_mem.errors import ConfigError

__all__ = ["DEFAULT_PORT", "Host", "parse_host"]

DEFAULT_PORT: Final = 11434
_SCHEME_PORTS: Final = {"http": 80, "https": 443}
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1"}  # noqa: S104 - mapped away, never bound
_NAME: Final = re.compile(r"[\w.-]+", re.ASCII)
_PATH_MARKS: Final = "/%:@!$&()*+,;=~"


class Host(msgspec.Struct, frozen=True):
    """A server's address: `url` without credentials and trailing slash, and the credentials apart.

    `is_beneath` says of a name or address that it is this machine's: the one that our container runs on.
    """

    url: str
    username: str = ""
    password: str = ""
    is_beneath: bool = False

    def __repr__(self) -> str:
        return f"Host({self.url!r}{', credentials' if self.username or self.password else ''})"

    @property
    def socket_path(self) -> str:
        """Path of the unix socket, "" where the server listens on a port."""
        return unquote(self.url.removeprefix("unix:").removeprefix("//")) if self.url.startswith("unix:") else ""

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, where no proxy leads to it and nobody else reads along."""
        name = urlsplit(self.url).hostname or ""
        if self.is_beneath or self.socket_path or name == "localhost":
            return True
        try:
            return ipaddress.ip_address(name.partition("%")[0]).is_loopback
        except ValueError:
            return False


def parse_host(value: str | None) -> Host:
    """Read an address as the server reads OLLAMA_HOST; None and the empty text mean http://127.0.0.1:11434.

    `unix:///run/ollama.sock` is a unix socket. A user and password are percent-encoded.

    Raises:
        ConfigError: the scheme is none of http, https and unix, the name or port cannot be one, the path of a socket
            is not absolute, or there is a query or a fragment.
    """
    text = (value or "").strip().strip("\"'").strip()
    if text.lower().startswith("unix:/"):
        return _unix_host(text)
    scheme, has_scheme, rest = text.partition("://")
    if not has_scheme:
        scheme, rest = ("https", text) if _is_ollama_com(text) else ("http", text)
    scheme = scheme.lower()
    if scheme not in _SCHEME_PORTS:
        raise _refused(text, f"the scheme {scheme!r} is not supported, use http://, https:// or unix://")
    authority, slash, path = rest.partition("/")
    userinfo, _, hostport = authority.rpartition("@")
    if set("?#") & set(hostport + path):
        raise _refused(text, "a query or a fragment has no meaning in the address of a server")
    name, port = _split_port(hostport, text)
    if port is None:
        port = _SCHEME_PORTS[scheme] if has_scheme or scheme == "https" else DEFAULT_PORT
    username, _, password = userinfo.partition(":")
    path = quote(path, safe=_PATH_MARKS, errors="replace")
    url = f"{scheme}://{_for_url(name, text)}:{port}{slash}{path}".rstrip("/")
    return Host(url, unquote(username), unquote(password))


def _unix_host(text: str) -> Host:
    host = Host("unix://" + text[len("unix:") :].removeprefix("//"))
    if not re.fullmatch(r"/[^\0]+", host.socket_path):
        raise _refused(text, "a unix socket is named by its absolute path, as in unix:///run/ollama.sock")
    if sys.platform == "win32":
        raise _refused(text, "unix sockets cannot be used on Windows")
    return host


def _refused(text: str, reason: str) -> ConfigError:
    """Say what is wrong with an address, without the credentials in it."""
    shown = re.sub(r"^(\w+://)?.*@", r"\1***@", text, flags=re.DOTALL)
    return ConfigError(f"host {shown!r}: {reason}")


def _is_ollama_com(text: str) -> bool:
    return text.partition("/")[0].lower() in {"ollama.com", "ollama.com:443"}


def _split_port(hostport: str, text: str) -> tuple[str, int | None]:
    """Split `name:port`, where a name with several colons and no brackets is an IPv6 address."""
    if hostport.startswith("["):
        name, _, port = hostport[1:].partition("]:")
        name = name.removesuffix("]")
    elif hostport.count(":") > 1:
        name, port = hostport, ""
    else:
        name, _, port = hostport.partition(":")
    if not port:
        return name, None
    if not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 1 << 16):
        raise _refused(text, "the port is not a number from 1 to 65535")
    return name, int(port)


def _for_url(name: str, text: str) -> str:
    """Write a name or an address as it stands in a URL."""
    if ":" in name:
        return f"[{_ipv6(name, text)}]"
    name = _WILDCARDS.get(name, name) if name.isascii() else _punycode(name, text)
    if not _NAME.fullmatch(name):
        raise _refused(text, "that is not the name or address of a machine")
    return name


def _ipv6(name: str, text: str) -> str:
    """Write an IPv6 address shortly and its zone id as RFC 6874 wants it; a bare "%" is read as well."""
    digits, has_zone, zone = name.partition("%")
    zone = zone.removeprefix("25") or zone
    if has_zone and not _NAME.fullmatch(zone):
        raise _refused(text, "the zone id of the address is no name of an interface")
    try:
        address = ipaddress.IPv6Address(digits)
    except ValueError as exc:
        raise _refused(text, "that is not an IPv6 address") from exc
    if has_zone:
        return f"{address}%25{zone}"
    return "::1" if address.is_unspecified else str(address)


def _punycode(name: str, text: str) -> str:
    import httpx  # noqa: PLC0415 - only for names beyond ASCII, whose tables it brings

    try:
        return httpx.URL(scheme="http", host=name).raw_host.decode()
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise _refused(text, "that is not the name of a machine") from exc
