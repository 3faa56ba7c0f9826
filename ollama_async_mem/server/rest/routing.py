"""What a route is, and the way through one: read the request, call the library, answer. Knows no route by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast
from urllib.parse import parse_qsl

import msgspec
from litestar.exceptions import HTTPException

from ollama_async_mem.errors import ConfigError, RecordNotFound
from ollama_async_mem.records import Scope
from ollama_async_mem.server.access import principal_of
from ollama_async_mem.server.audit import audit_of
from ollama_async_mem.server.errors import Forbidden
from ollama_async_mem.server.problems import Problem, problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    import anyio

    from ollama_async_mem.app import Memory
    from ollama_async_mem.records import MemoryRecord
    from ollama_async_mem.server.rest.metrics import Figures
    from ollama_async_mem.server.rest.shapes import Scoped

    AsgiScope: TypeAlias = Mapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Any]]
    Send: TypeAlias = Callable[[Any], Awaitable[None]]
    AsgiApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

__all__ = ["Answer", "AsgiApp", "Call", "Receive", "Route", "Send", "Server", "answer_of", "called", "problem_answer"]

JSON = b"application/json"
NDJSON = b"application/x-ndjson"
SSE = b"text/event-stream"
JSON_IN_QUERY = ("filters", "after")
"""Parameters whose value in a query string is JSON."""
_IDS = Scope.__struct_fields__
_encode = msgspec.json.Encoder().encode


class Server(NamedTuple):
    """What all routes work with. `stopping` is set when the server begins to end."""

    memory: Memory
    version: str
    allow_config: bool
    figures: Figures
    stopping: anyio.Event


class Route(NamedTuple):
    """One method of one path: what it takes, what calls the library, and what it answers.

    What GET and DELETE take stands in the query string, what others take is the body; `takes` is None where there is
    nothing. `streams` are the media types of an answer in pieces, each of which is one of `returns`. What only `reads`
    changes nothing, whatever its method says. `raw_body` is the media type of a body that is no JSON, and `also` are
    other statuses with the same content.
    """

    method: str
    path: str
    handle: Callable[..., Awaitable[Any]]
    takes: type[msgspec.Struct] | None = None
    returns: Any = None
    status: int = 200
    example: Any = None
    streams: tuple[bytes, ...] = ()
    raw_body: bytes = b""
    reads: bool = False
    also: tuple[int, ...] = ()

    @property
    def in_query(self) -> bool:
        """Whether what it takes stands in the query string."""
        return self.method in {"GET", "DELETE"}

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return not self.reads and self.method != "GET"


class Call:
    """One request: who asks, of which memory, and where on the path."""

    __slots__ = ("_body", "_scope", "audit", "memory", "principal", "server")

    def __init__(self, server: Server, scope: AsgiScope, body: Callable[[], AsyncIterator[bytes]]) -> None:
        self.server = server
        self.memory = server.memory
        self.principal = principal_of(scope)
        self.audit = audit_of(scope)
        self._scope = scope
        self._body = body

    @property
    def name(self) -> str:
        """What stands for the variable part of the path."""
        (value,) = self._scope["path_params"].values()
        return str(value).removeprefix("/")

    def accepts(self, media_type: bytes) -> bool:
        """Tell whether the client names a media type in its Accept header."""
        return any(name == b"accept" and media_type in value for name, value in self._scope["headers"])

    def body(self) -> AsyncIterator[bytes]:
        """Give the body as it comes, for what is too large to be held."""
        return self._body()

    def within(self, asked: Scoped) -> dict[str, Any]:
        """Return the fields of a request as arguments, with the scope that the principal may ask for.

        Raises:
            Forbidden: that is another one.
        """
        scope = self.principal.scope(asked.user_id, asked.agent_id, asked.run_id)
        return msgspec.structs.asdict(asked) | {name: getattr(scope, name) for name in _IDS}

    async def owned(self, memory_id: str) -> MemoryRecord:
        """Return a memory that the principal may see.

        Raises:
            RecordNotFound: there is none with this id, or it is of somebody else: who asks cannot tell which.
        """
        memory = await self.memory.get(memory_id)
        if not self.principal.owns(memory):
            raise RecordNotFound(memory_id)
        return memory

    @property
    def is_bound(self) -> bool:
        """Whether the principal may see the memories of one user or one agent only."""
        return self.principal.user_id is not None or self.principal.agent_id is not None

    def require_all(self) -> None:
        """Do nothing where the principal may see the memories of all.

        Raises:
            Forbidden: it is bound to a user or an agent.
        """
        if self.is_bound:
            raise Forbidden("this is about the memories of all: use a key that is bound to no user and no agent")


class Answer:
    """A whole answer, as an ASGI application."""

    __slots__ = ("_content", "_headers", "_status")

    def __init__(self, status: int, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status
        self._content = content
        self._headers = headers

    async def __call__(self, _scope: object, _receive: object, send: Send) -> None:
        """Send it."""
        length = [(b"content-length", str(len(self._content)).encode())] if self._content else []
        await send({"type": "http.response.start", "status": self._status, "headers": [*self._headers, *length]})
        await send({"type": "http.response.body", "body": self._content})


def called(route: Route, server: Server) -> Callable[[Any], Awaitable[AsgiApp]]:
    """Make what answers a request to a route: a function of a request of Litestar's."""
    read = _reader(route)

    async def answer(request: Any) -> AsgiApp:
        call = Call(server, request.scope, request.stream)
        call.audit.changes = route.changes
        try:
            result = await (route.handle(call, await _read(read, request)) if read else route.handle(call))
        except HTTPException:  # of the router, which has a handler for its own
            raise
        except Exception as exc:  # noqa: BLE001 - the edge of the server, where a failure becomes an answer
            return problem_answer(problem(exc))
        if callable(result):
            return cast("AsgiApp", result)
        return Answer(204, b"", []) if route.returns is None else answer_of(result, route.status)

    return answer


def problem_answer(told: Problem) -> Answer:
    """Make the answer that tells a failure."""
    return Answer(told.status, _encode(told), told.headers())


def answer_of(result: Any, status: int = 200) -> Answer:
    """Make an answer of what JSON can hold."""
    return Answer(status, _encode(result), [(b"content-type", JSON)])


async def _read(read: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
    """Read the fields of a request.

    Raises:
        ConfigError: its JSON is nested so deep that it cannot be read.
    """
    try:
        return await read(request)
    except RecursionError as exc:
        raise ConfigError("the JSON is nested too deep") from exc


def _reader(route: Route) -> Callable[[Any], Awaitable[Any]] | None:
    """Make what reads the fields of a request, None where there are none."""
    if route.takes is None:
        return None
    if route.in_query:
        shape = route.takes
        lists = _lists(shape)

        async def from_query(request: Any) -> Any:
            return msgspec.convert(_pairs(request.scope["query_string"], lists), shape, strict=False)

        return from_query
    decode = msgspec.json.Decoder(route.takes).decode

    async def from_body(request: Any) -> Any:
        return decode(await _body(request))

    return from_body


async def _body(request: Any) -> bytes:
    """Read a body, which mostly comes as a whole; Litestar reads it in pieces, which takes longer."""
    first = await request.receive()
    if first["type"] == "http.request" and not first.get("more_body"):
        whole: bytes = first.get("body", b"")
        return whole
    rest: bytes = await request.body()  # or it fails, as the client has left
    return bytes(first.get("body", b"")) + rest


def _lists(shape: type[msgspec.Struct]) -> frozenset[str]:
    """The fields that may stand in a query string more than once."""
    fields = msgspec.inspect.type_info(shape)
    assert isinstance(fields, msgspec.inspect.StructType)  # noqa: S101 - for the type checker: shapes are Structs
    return frozenset(field.name for field in fields.fields if isinstance(field.type, _LISTS))


_LISTS = (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)


def _pairs(query: bytes, lists: frozenset[str]) -> dict[str, Any]:
    """Read a query string.

    Raises:
        ConfigError: a parameter that has one value stands there twice.
    """
    values: dict[str, Any] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise ConfigError(f"{name} stands in the query twice")
        else:
            values[name] = msgspec.json.decode(value) if name in JSON_IN_QUERY else value
    return values
