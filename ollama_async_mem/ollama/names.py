"""Model names: which two names mean one model. Pure."""

from __future__ import annotations

__all__ = ["canonical", "display"]

_REGISTRY, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"


def canonical(name: str) -> str:
    """Write a model name out in full and in lower case, as the server compares it.

    The grammar is host/namespace/model:tag with defaults for all but the model (ollama: types/model/name.go).
    """
    path, _, last = name.strip().lower().rpartition("/")
    model, _, tag = last.partition(":")
    host, _, namespace = path.rpartition("/")
    return f"{host or _REGISTRY}/{namespace or _NAMESPACE}/{model}:{tag or _TAG}"


def display(name: str) -> str:
    """Write a model name as `ollama list` shows it: no default host and namespace, always the tag."""
    full = canonical(name)
    return full.removeprefix(f"{_REGISTRY}/").removeprefix(f"{_NAMESPACE}/")
