"""What a server listens on and how much it takes. Pure: opens nothing, and knows neither uvicorn nor keys."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "DEFAULT_PROXY_PORT", "ServerSettings", "is_loopback"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11436
DEFAULT_PROXY_PORT = 11435  # one above Ollama's own
_HIGHEST_PORT = 65535


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server listens, which parts it has, whom it trusts, and its limits.

    `allow_host` are names of this server besides the loopback's and the address of the connection; `allow_origin` are
    pages of other servers that may use this one, such as "https://notes.example.org"; `trusted_proxy` are addresses
    and networks whose X-Forwarded-For and X-Forwarded-Proto are believed. `base_path` is where a reverse proxy shows
    this server, such as "/memory". With `allow_config`, admins may change settings while it runs.

    `connections` are at most half of the files that the system lets the process open. `requests_per_minute` and
    `concurrency_per_key` are of one key; who needs no key has no such limits. `failures_per_minute` are wrong keys from
    one address. `head_s` and `body_s` are how long a request's head and body may take to arrive, `stalled_s` how long a
    client may take nothing of its answer, `deadline_s` how long answers that are under way may go on when the server
    ends. A port of 0 is any that is free.

    Raises:
        ConfigError: a value cannot be.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    proxy_port: int = DEFAULT_PROXY_PORT
    rest: bool = True
    page: bool = True
    mcp: bool = True
    proxy: bool = True
    allow_config: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    base_path: str = ""
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    trusted_proxy: tuple[str, ...] = ()
    body_bytes: int = 10_000_000
    proxy_body_bytes: int = 100_000_000  # images
    requests_per_minute: int = 6000
    failures_per_minute: int = 20
    concurrency: int = 1024
    concurrency_per_key: int = 256
    connections: int = 4096
    head_s: float = 10.0
    head_bytes: int = 64 * 1024
    body_s: float = 60.0
    stalled_s: float = 60.0
    keep_alive_s: int = 75
    deadline_s: float = 10.0

    def __post_init__(self) -> None:
        """Check what a caller can get wrong, and write hosts, origins and the path in one form."""
        for name in ("port", "proxy_port"):
            _require(0 <= getattr(self, name) <= _HIGHEST_PORT, name, f"from 0 to {_HIGHEST_PORT}")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not name.endswith("port"):
                _require(value > 0, name, "greater than 0")
        _require(self.tls_key is None or self.tls_cert is not None, "tls_key", "given together with tls_cert")
        _require(self.rest or self.mcp or self.proxy, "the server", "left at least one of rest, mcp and proxy")
        for origin in self.allow_origin:
            _require("://" in origin, "allow_origin", "of the form https://notes.example.org")
        for address in self.trusted_proxy:
            _require(_is_network(address), "trusted_proxy", "an address or a network such as 10.0.0.0/8")
        _set(self, "base_path", f"/{path}" if (path := self.base_path.strip("/")) else "")
        _set(self, "allow_host", _lower(self.allow_host))
        _set(self, "allow_origin", _lower(self.allow_origin))

    @property
    def has_api(self) -> bool:
        """Whether there is anything to serve on `port`."""
        return self.rest or self.mcp


@lru_cache
def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address or name."""
    name = host.strip("[]").lower().removesuffix(".")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _require(condition: bool, name: str, allowed: str) -> None:  # noqa: FBT001 - it reads as an assertion
    if not condition:
        raise ConfigError(f"{name} must be {allowed}")


def _set(settings: ServerSettings, name: str, value: object) -> None:
    msgspec.structs.force_setattr(settings, name, value)


def _lower(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.strip().lower().rstrip("/") for name in names)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
