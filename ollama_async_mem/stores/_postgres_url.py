"""What may be shown of the URL of a server. Pure."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

from ollama_async_mem.errors import ConfigError

__all__ = ["without_secrets"]

_SHOWN = ("host", "port", "dbname", "user")
_HOSTS = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^:\[\]@,]*)(:\d{1,5})?(,(\[[0-9A-Fa-f:.%]*\]|[^:\[\]@,]*)(:\d{1,5})?)*")


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
