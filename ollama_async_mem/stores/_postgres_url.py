"""The URL of a store: our own options in it, and what of it may be shown. Pure."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

from ollama_async_mem.errors import ConfigError

from ._postgres_schema import MAX_PARTITIONS, Choices

__all__ = ["choose", "split_options", "without_secrets"]

_SHOWN = ("host", "port", "dbname", "user", "schema")
_OURS = ("schema", "language", "partitions")
_HOSTS = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^:\[\]@,]*)(:\d{1,5})?(,(\[[0-9A-Fa-f:.%]*\]|[^:\[\]@,]*)(:\d{1,5})?)*")


def split_options(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL as the server is to have it, and the options that are ours; the last of a name counts."""
    place, _, query = url.partition("?")
    parts = [part for part in query.split("&") if part]
    ours = [part for part in parts if part.partition("=")[0] in _OURS]
    rest = "&".join(part for part in parts if part not in ours)
    return place + (rest and f"?{rest}"), dict(parse_qsl("&".join(ours), keep_blank_values=True))


def choose(
    options: dict[str, str], *, schema: str | None, language: str | None, partitions: int | None
) -> tuple[str, Choices]:
    """Return the name of the schema, and how it is made where it is new; what is given counts before the options.

    Raises:
        ConfigError: a value is not one that there can be.
    """
    name = options.get("schema", "ollama_async_mem") if schema is None else schema
    stems = options.get("language", "english") if language is None else language
    parts = options.get("partitions") if partitions is None else partitions
    if not re.fullmatch("[a-z]+", stems) or not name or "\0" in name:
        raise ConfigError(f"the language {stems!r} or the schema {name!r} is not a name that PostgreSQL knows")
    if parts is not None and not (re.fullmatch("[0-9]{1,3}", str(parts)) and 1 <= int(parts) <= MAX_PARTITIONS):
        raise ConfigError(
            f"partitions must be a whole number of at least 1 and at most {MAX_PARTITIONS}, got {parts!r}"
        )
    return name, Choices(stems, None if parts is None else int(parts))


def without_secrets(url: str) -> str:
    """Return a URL as it may be shown: without a password, and with such options only as say where the server is.

    Raises:
        ConfigError: it is not a URL of a server. The message has nothing of it, for any part may be of a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    account, at, hosts = parts.netloc.rpartition("@")
    rest = url.partition(parts.netloc)[2] if parts.netloc else url
    is_known = parts.scheme in {"postgresql", "postgres"} and _HOSTS.fullmatch(hosts)
    if not is_known or "@" in rest or parts.fragment:
        raise ConfigError(
            "the URL of the store cannot be read; allowed: postgresql://user:password@host:5432/database, "
            "with signs of the password such as @ : / ? # written as %40 %3A %2F %3F %23"
        )
    options = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name in _SHOWN], safe="/")
    user = account.partition(":")[0] + at
    return f"{parts.scheme}://{user}{hosts}{parts.path}{options and '?'}{options}"
