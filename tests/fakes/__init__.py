"""A scripted Ollama on a real socket, so that tests meet every fault a network has."""

from __future__ import annotations

from .ollama import Settings, error
from .ports import refusing_port
from .script import STALL, Answer, Close, Coalesce, Hold, Pause, Raw, Reply, Request, Reset, Stream, ndjson
from .server import ScriptedOllama
from .wire import LAST_CHUNK, chunk, go_json, head, line_chunk, stream_head

__all__ = [
    "LAST_CHUNK",
    "STALL",
    "Answer",
    "Close",
    "Coalesce",
    "Hold",
    "Pause",
    "Raw",
    "Reply",
    "Request",
    "Reset",
    "ScriptedOllama",
    "Settings",
    "Stream",
    "chunk",
    "error",
    "go_json",
    "head",
    "line_chunk",
    "ndjson",
    "refusing_port",
    "stream_head",
]
