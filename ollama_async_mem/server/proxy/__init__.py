"""An Ollama endpoint that remembers: all passes through to the real one, chats with what is known of their user."""

from __future__ import annotations

from ollama_async_mem.server.proxy.app import proxy_app

__all__ = ["proxy_app"]
