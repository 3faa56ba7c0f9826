"""What `serve` is told, as a settings file says it: the section `server`. Knows names and ranges, not what they do."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
from msgspec import Meta

from ollama_async_mem.config.checks import allowed, check_values, types_of, wrong_value
from ollama_async_mem.config.models import (  # noqa: TC001 - msgspec resolves annotations at run time
    Name,
    Seconds,
    Size,
    Switch,
    Text,
)

__all__ = ["ServerConfig"]

Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535, description="an integer from 0 to 65535")]
Names: TypeAlias = Annotated[tuple[str, ...], Meta(description="a list of texts")]
_OF_COMMAND = ("keys", "audit_log")


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the server is told: the names of `ServerSettings`, where None is its own default, and two files.

    Args:
        keys: the file of keys; by default one beside the store.
        audit_log: the file for a line about each change; by default standard error.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    host: Name | None = None
    port: Port | None = None
    proxy_port: Port | None = None
    rest: Switch | None = None
    page: Switch | None = None
    mcp: Switch | None = None
    proxy: Switch | None = None
    allow_config: Switch | None = None
    tls_cert: Name | None = None
    tls_key: Name | None = None
    base_path: Text | None = None
    allow_host: Names | None = None
    allow_origin: Names | None = None
    trusted_proxy: Names | None = None
    body_bytes: Size | None = None
    proxy_body_bytes: Size | None = None
    requests_per_minute: Size | None = None
    failures_per_minute: Size | None = None
    concurrency: Size | None = None
    concurrency_per_key: Size | None = None
    connections: Size | None = None
    head_s: Seconds | None = None
    head_bytes: Size | None = None
    body_s: Seconds | None = None
    stalled_s: Seconds | None = None
    keep_alive_s: Size | None = None
    deadline_s: Seconds | None = None
    keys: Name | None = None
    audit_log: Name | None = None

    ALIASES: ClassVar[dict[str, str]] = {}
    INSTEAD: ClassVar[dict[str, str]] = {
        "store": "it stands beside 'server', not in it",
        "ollama": "the Ollama server is 'host' beside 'server'",
    }

    def __post_init__(self) -> None:
        check_values(self)

    @property
    def given(self) -> dict[str, Any]:
        """What is set of `ServerSettings`."""
        values = ((name, getattr(self, name)) for name in self.__struct_fields__ if name not in _OF_COMMAND)
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values if value is not None}

    @classmethod
    def of_variable(cls, variable: str, name: str, text: str) -> dict[str, Any]:
        """Read one setting from the text of a variable; a list has blanks or commas between its texts.

        Raises:
            ConfigError: the text is nothing that the setting can be; it begins with the variable.
        """
        type_ = types_of(cls)[name]
        value: object = text.replace(",", " ").split() if type_ == Names | None else text
        try:
            return {name: msgspec.convert(value, type_, strict=False)}
        except msgspec.ValidationError as exc:
            raise wrong_value(variable, text, allowed(type_)) from exc
