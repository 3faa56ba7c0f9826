"""The memory as tools of the Model Context Protocol, over standard input and output and over HTTP.

It is imported only where it is used: the SDK takes half a second.
"""

from __future__ import annotations

from ollama_async_mem.server.mcp.http import mcp_app
from ollama_async_mem.server.mcp.server import mcp_server
from ollama_async_mem.server.mcp.stdio import serve_stdio

__all__ = ["mcp_app", "mcp_server", "serve_stdio"]
