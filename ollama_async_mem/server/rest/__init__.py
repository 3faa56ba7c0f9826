"""REST over HTTP: each route is one call of the library.

Their table, with what each takes and answers:

| route | what |
|---|---|
| `POST /api/v1/memories` | add messages: `AddMemories` -> `AddResult` |
| `POST /api/v1/memories/batch` | add many conversations: `AddMany` -> list of `AddResult` |
| `GET /api/v1/memories` | a page of a listing: `ListMemories` -> `Page` |
| `DELETE /api/v1/memories` | destroy those of a scope: `DeleteMemories` with `confirm=true` -> `Deleted` |
| `GET PATCH DELETE /api/v1/memories/{id}` | one memory: `ChangeMemory` -> `Turn` or `Fact` |
| `GET /api/v1/memories/{id}/history` | what happened to it -> list of `Event` |
| `GET POST /api/v1/search` | find: `Search` -> `SearchResult` |
| `GET POST /api/v1/context` | lines for a prompt: `BriefContext` by GET, `AskContext` by POST -> `Context` |
| `POST /api/v1/chat` | answer and remember: `Chat` -> stream of `recalled`, `token` ..., `done` or `error` |
| `GET /api/v1/counts`, `GET /api/v1/scopes` | how many there are, and whose |
| `GET /api/v1/models`, `.../running`, `.../show/{name}` | models that are there, are loaded, and one of them |
| `POST /api/v1/models/pull` | pull one: stream of `progress` ..., `done` or `error`; admin |
| `POST /api/v1/models/load`, `.../unload`, `DELETE /api/v1/models/{name}` | load, unload, delete one; admin |
| `GET /api/v1/events` | what happens: stream of `MemoryEvent` |
| `GET PATCH /api/v1/configuration` | settings and the caller's rights; changed by an admin where that is allowed |
| `GET /api/v1/statistics`, `GET /api/v1/jobs`, `POST /api/v1/jobs/retry` | of the whole store |
| `GET /api/v1/export`, `POST /api/v1/import` | JSON lines out, and in by an admin |
| `GET /healthz`, `/readyz`, `/metrics` | the process lives; its parts answer; figures for Prometheus |
| `GET /docs`, `/docs/openapi.json` | this for people, and for programs |

GET and DELETE take their fields in the query, others in a body of JSON. Streams are lines of JSON, or server-sent
events where the Accept header says so. Every failure is a problem (RFC 9457), see `server.problems`. A memory of
somebody else is one that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ollama_async_mem.errors import MissingExtra

if TYPE_CHECKING:
    from ollama_async_mem.server.rest.app import rest_app

__all__ = ["rest_app"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from ollama_async_mem.server.rest import app  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as exc:
        raise MissingExtra("server", "the REST server") from exc
    return getattr(app, name)
