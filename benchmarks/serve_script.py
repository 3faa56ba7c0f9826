"""The scripted Ollama of the server's benchmark; runs in its process only.

A chat says how it comes in the name of its model: `single:40` as fast as it is taken, one chunk a write, and
`paced:40` with so many chunks at the pace of the case. The words of an answer have no meaning.
"""

from __future__ import annotations

import resource
import time
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from fakes import LAST_CHUNK, Pause, Raw, chunk, line_chunk, stream_head

from .memory_script import embed_answer, packed_answer
from .scripts import FINAL, line
from .tokens import token

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fakes import Request, ScriptedOllama


def serve(server: ScriptedOllama, case: dict[str, Any]) -> None:
    """Chats, and embeddings that take no time."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server.settings.dimension = case["dimension"]

    def chat(request: Request) -> Raw:
        how, _, count = request.json["model"].partition(":")
        pieces = islice(cycle(_PIECES), int(count or 1))
        return Raw(partial(_paced, pieces, 1 / case["chunks_per_s"]) if how == "paced" else partial(_at_once, pieces))

    server.enqueue("POST /api/chat", chat, repeat=True)
    server.enqueue("POST /api/embed", lambda request: embed_answer(request.json, case["dimension"]), repeat=True)
    server.enqueue("POST /v1/embeddings", lambda request: packed_answer(request.json, case["dimension"]), repeat=True)


_PIECES = [line_chunk(line(token(number), number)) for number in range(100)]
_END = chunk(FINAL) + LAST_CHUNK


def _at_once(pieces: Iterable[bytes]) -> Iterator[bytes]:
    opening = stream_head()
    for piece in pieces:
        yield opening + piece
        opening = b""
    yield _END


def _paced(pieces: Iterable[bytes], period_s: float) -> Iterator[bytes | Pause]:
    yield stream_head()
    due_s = time.monotonic()
    for piece in pieces:
        due_s += period_s
        yield Pause(max(due_s - time.monotonic(), 0))
        yield piece
    yield _END
