"""The application: the tables of routes, put into Litestar's router, and what it refuses told as problems."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from litestar import Litestar, Request, Response
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp  # noqa: TC002 - Litestar resolves annotations at run time

from ollama_async_mem import __version__
from ollama_async_mem.server.problems import plain_problem, problem
from ollama_async_mem.server.rest import memories, models, moving, recall, upkeep, watching
from ollama_async_mem.server.rest.metrics import Counted, Figures
from ollama_async_mem.server.rest.openapi import PAGE_POLICY, document, written
from ollama_async_mem.server.rest.page import PAGE_ROUTES
from ollama_async_mem.server.rest.routing import Answer, Server, called

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ollama_async_mem.app import Memory
    from ollama_async_mem.server.problems import Problem
    from ollama_async_mem.server.rest.routing import AsgiApp, Route

__all__ = ["API_PATH", "rest_app", "routes"]

API_PATH = "/api/v1"
_METHODS = frozenset(HttpMethod) - {HttpMethod.OPTIONS}


def routes() -> list[Route]:
    """All routes, with their whole paths."""
    tables = (memories, recall, models, upkeep, moving, watching)
    api = [route._replace(path=API_PATH + route.path) for table in tables for route in table.ROUTES]
    return [*api, *watching.HEALTH_ROUTES]


def rest_app(
    memory: Memory,
    *,
    base_path: str = "",
    page: bool = True,
    allow_config: bool = False,
    stopping: anyio.Event | None = None,
) -> AsgiApp:
    """Make the application of an open memory; it opens and closes nothing.

    `base_path` is what stands before its paths where a reverse proxy shows them; requests come without it. With `page`
    there is a page for people at `/`, and with `allow_config` admins may change settings while it runs. Streams without
    an end end when `stopping` is set.
    """
    figures = Figures()
    server = Server(memory, __version__, allow_config, figures, stopping or anyio.Event())
    table = [*routes(), *(PAGE_ROUTES if page else ())]
    app = Litestar(
        [*(_handler(route, server) for route in table), *_documents(routes(), base_path), *_refusals(table)],
        openapi_config=None,
        logging_config=None,
        exception_handlers={HTTPException: _on_http_error, Exception: _on_fault},
        request_max_body_size=None,  # the guard knows what was set
    )
    return Counted(app, figures)


def _handler(route: Route, server: Server) -> HTTPRouteHandler:
    answer = called(route, server)

    async def handle(request: Request[Any, Any, Any]) -> ASGIApp:
        return await answer(request)

    return _routed(route.path, _methods(route), handle)


def _methods(route: Route) -> set[HttpMethod]:
    """The method of a route, and what comes with it: HEAD, where the answer has an end."""
    is_whole = route.method == HttpMethod.GET and not route.streams
    return {HttpMethod(route.method), HttpMethod.HEAD} if is_whole else {HttpMethod(route.method)}


def _documents(table: Sequence[Route], base_path: str) -> Iterator[HTTPRouteHandler]:
    """The description of the routes, for programs and for people."""
    described = document(table, version=__version__, base_path=base_path)
    policy = (b"content-security-policy", PAGE_POLICY)
    read = written(described, address=f"{base_path}/docs/openapi.json")
    as_json = Answer(200, msgspec.json.encode(described), [(b"content-type", b"application/json")])
    as_page = Answer(200, read, [(b"content-type", b"text/html; charset=utf-8"), policy])
    for path, answer in (("/docs", as_page), ("/docs/openapi.json", as_json)):
        yield _fixed(path, [HttpMethod.GET, HttpMethod.HEAD], answer)


def _refusals(table: Sequence[Route]) -> Iterator[HTTPRouteHandler]:
    """What answers methods that a path does not have: with those that it has."""
    methods: dict[str, set[HttpMethod]] = {}
    for route in table:
        methods.setdefault(route.path, set()).update(_methods(route))
    for path, taken in methods.items():
        told = plain_problem(HTTPStatus.METHOD_NOT_ALLOWED)
        allow = (b"allow", ", ".join(sorted(taken)).encode())
        yield _fixed(path, _METHODS - taken, Answer(told.status, msgspec.json.encode(told), [*told.headers(), allow]))


def _fixed(path: str, methods: Iterable[HttpMethod], answer: Answer) -> HTTPRouteHandler:
    async def handle() -> ASGIApp:
        return answer

    return _routed(path, methods, handle)


def _routed(path: str, methods: Iterable[HttpMethod], handle: Any) -> HTTPRouteHandler:
    return HTTPRouteHandler(path, http_method=list(methods), status_code=200)(handle)


def _on_http_error(_request: Request[Any, Any, Any], exc: HTTPException) -> Response[bytes]:
    """What the router refuses: there is no such path."""
    return _response(plain_problem(exc.status_code))


def _on_fault(_request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
    return _response(problem(exc))


def _response(told: Problem) -> Response[bytes]:
    headers = {name.decode(): value.decode() for name, value in told.headers()}
    return Response(msgspec.json.encode(told), status_code=told.status, headers=headers)
