"""An async Ollama client, and a memory for asyncio applications that never makes them wait.

Public names load on first use: importing the package imports neither httpx nor numpy.
"""

from __future__ import annotations

__version__ = "0.1.0"
