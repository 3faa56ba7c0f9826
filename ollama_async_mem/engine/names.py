"""Model names as Ollama reads them: `host/namespace/model:tag` with defaults, compared without case.

Pure text; knows nothing of what is installed.
"""

from __future__ import annotations

import re

__all__ = ["canonical", "full_name", "same"]

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,79}")
_MOST_PARTS = 3  # host, namespace, model
_DEFAULT_HOST = "registry.ollama.ai"
_DEFAULT_NAMESPACE = "library"


def canonical(name: str) -> str | None:
    """The name as Ollama displays it: default host and namespace dropped, the tag always there.

    Returns None for a text that is no model name.
    """
    path, tag = _split_tag(name.strip())
    parts = path.split("/")
    if len(parts) > _MOST_PARTS or not all(_PART.fullmatch(part) for part in (*parts, tag)):
        return None
    for default in (_DEFAULT_HOST, _DEFAULT_NAMESPACE):
        if len(parts) > 1 and parts[0].casefold() == default:
            parts = parts[1:]
    return f"{'/'.join(parts)}:{tag}"


def same(one: str, other: str) -> bool:
    """Whether two names mean the same model: Ollama compares without case."""
    left = canonical(one)
    return left is not None and left.casefold() == (canonical(other) or "").casefold()


def full_name(name: str) -> str:
    """The name with host and namespace, which Ollama puts in its texts about missing capabilities."""
    if "/" not in name:
        name = f"{_DEFAULT_NAMESPACE}/{name}"
    return name if name.count("/") > 1 else f"{_DEFAULT_HOST}/{name}"


def _split_tag(name: str) -> tuple[str, str]:
    """The path and the tag; a colon before the last slash belongs to a host's port."""
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, "latest"
    return head, tag
