"""The routes: each reads a request, asks the part that knows, and answers as Ollama does."""

from __future__ import annotations

import logging
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from . import ENGINE_VERSION_SUFFIX, wire
from .asgi import JsonResponse, LocalOnly, NdjsonResponse, read_body, unless_disconnected
from .durations import rfc3339
from .embeddings import embed
from .faults import ApiError, bad_request
from .generation import Job, collect, lines
from .names import canonical
from .prepare import chat_job, find_model, generate_job
from .pull import Pulls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from .catalogue import Catalogue
    from .models import Models

__all__ = ["API_VERSION", "Engine", "create_app"]

API_VERSION = f"0.32.15{ENGINE_VERSION_SUFFIX}"  # the Ollama release whose API this follows
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Engine:
    """What the routes work with, while the server runs."""

    def __init__(self, catalogue: Catalogue, models: Models) -> None:
        self.catalogue = catalogue
        self.models = models
        self.pulls: Pulls | None = None

    @asynccontextmanager
    async def running(self, _app: Starlette) -> AsyncGenerator[None]:
        """Own the background tasks; at the end downloads are cancelled and models freed."""
        async with anyio.create_task_group() as tasks:
            self.pulls = Pulls(self.catalogue, tasks)
            tasks.start_soon(self.models.run)
            try:
                yield
            finally:
                await self.stop()
                tasks.cancel_scope.cancel()

    async def stop(self) -> None:
        """End what is going on, so that the server can end at once; may be called twice."""
        if self.pulls:
            self.pulls.close()
        with anyio.CancelScope(shield=True):
            await self.models.close()

    async def root(self, _request: Request) -> Response:
        """Say that the server runs; the cheapest probe."""
        return PlainTextResponse("Ollama is running")

    async def version(self, _request: Request) -> Response:
        """Which API this is."""
        return JsonResponse({"version": API_VERSION})

    async def tags(self, _request: Request) -> Response:
        """What is installed."""
        models = await run_sync(self.catalogue.installed)
        return JsonResponse({"models": [wire.listed(model) for model in models]})

    async def ps(self, _request: Request) -> Response:
        """What is in memory."""
        return JsonResponse({"models": [wire.running(*item) for item in self.models.loaded()]})

    async def show(self, request: Request) -> Response:
        """Describe a model."""
        name = (await _decoded(request, wire.NameRequest)).wanted
        if not name:
            raise bad_request("model is required")
        missing = f"model '{canonical(name)}' not found"
        return JsonResponse(wire.shown(await run_sync(find_model, self.catalogue, name, missing)))

    async def chat(self, request: Request) -> Response:
        """Answer a chat."""
        body = await _decoded(request, wire.ChatRequest)
        job = await run_sync(chat_job, self.catalogue, body)
        is_load = not body.messages
        return await self._generation(request, job, is_stream=body.stream is not False, is_load=is_load)

    async def generate(self, request: Request) -> Response:
        """Continue a prompt."""
        body = await _decoded(request, wire.GenerateRequest)
        job = await run_sync(generate_job, self.catalogue, body)
        is_load = not body.prompt
        return await self._generation(request, job, is_stream=body.stream is not False, is_load=is_load)

    async def embed(self, request: Request) -> Response:
        """Embed texts."""
        body = await _decoded(request, wire.EmbedRequest)
        answer = await unless_disconnected(request, lambda: embed(self.catalogue, self.models, body))
        return JsonResponse(answer)

    async def pull(self, request: Request) -> Response:
        """Install a model from the catalogue."""
        body = await _decoded(request, wire.NameRequest)
        if canonical(body.wanted) is None:
            raise bad_request("invalid model name")
        progress = self._pull_lines(body.wanted)
        if body.stream is not False:
            return NdjsonResponse(progress)
        last = (await unless_disconnected(request, lambda: _all(progress)))[-1]
        return JsonResponse(last, 500 if "error" in last else 200)

    async def delete(self, request: Request) -> Response:
        """Delete a pulled model, or take a file of the user off the list."""
        name = (await _decoded(request, wire.NameRequest)).wanted
        model = await run_sync(find_model, self.catalogue, name, f"model '{name}' not found")
        if model.path is None:
            raise bad_request(f"{model.name} is built in and cannot be deleted")
        await run_sync(self.catalogue.remove, model)
        await self.models.unload(model)
        return Response()

    async def _generation(self, request: Request, job: Job, *, is_stream: bool, is_load: bool) -> Response:
        if is_load:
            return JsonResponse(await unless_disconnected(request, lambda: self._load(job)))
        answer = lines(job, self.models)
        if is_stream:
            return NdjsonResponse(answer)
        async with aclosing(answer):
            return JsonResponse(await unless_disconnected(request, lambda: collect(answer, job.shape)))

    async def _load(self, job: Job) -> dict[str, Any]:
        """Load a model, or with a keep_alive of 0 unload it: a request without a prompt."""
        if job.keep_alive_s == 0:
            await self.models.unload(job.model)
            reason = "unload"
        else:
            async with self.models.use(job.model, num_ctx=job.num_ctx, keep_alive_s=job.keep_alive_s):
                reason = "load"
        line = {"model": job.called, "created_at": rfc3339(), **job.shape.text("")}
        return {**line, "done": True, "done_reason": reason}

    async def _pull_lines(self, name: str) -> AsyncGenerator[dict[str, Any]]:
        if self.pulls is None:
            raise ApiError(503, "the server is starting")
        async with self.pulls.follow(name) as steps:
            async for step in steps:
                yield step


def create_app(engine: Engine, *, check_host: bool = True) -> ASGIApp:
    """The application. `check_host` refuses foreign host names: for a server bound to loopback."""
    routes = [
        Route("/", engine.root, methods=["GET"]),
        Route("/api/version", engine.version, methods=["GET"]),
        Route("/api/tags", engine.tags, methods=["GET"]),
        Route("/api/ps", engine.ps, methods=["GET"]),
        Route("/api/show", engine.show, methods=["POST"]),
        Route("/api/chat", engine.chat, methods=["POST"]),
        Route("/api/generate", engine.generate, methods=["POST"]),
        Route("/api/embed", engine.embed, methods=["POST"]),
        Route("/api/pull", engine.pull, methods=["POST"]),
        Route("/api/delete", engine.delete, methods=["DELETE"]),
    ]
    handlers: Any = {ApiError: _on_api_error, HTTPException: _on_http_error, Exception: _on_fault}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=engine.running)
    app.router.redirect_slashes = False
    return LocalOnly(app, check_host=check_host)


async def _decoded(request: Request, kind: type[T]) -> T:
    return wire.decode(await read_body(request), kind)


async def _all(steps: AsyncGenerator[dict[str, Any]]) -> list[dict[str, Any]]:
    async with aclosing(steps):
        return [step async for step in steps]


async def _on_api_error(_request: Request, exc: ApiError) -> Response:
    return JsonResponse({"error": exc.message}, exc.status)


async def _on_http_error(_request: Request, exc: HTTPException) -> Response:
    """Go's texts for an unknown path and a wrong method."""
    texts = {404: "404 page not found", 405: "405 method not allowed"}
    return PlainTextResponse(texts.get(exc.status_code, exc.detail), exc.status_code, exc.headers)


async def _on_fault(_request: Request, exc: Exception) -> Response:
    _log.error("an unexpected error", exc_info=exc)
    return JsonResponse({"error": f"internal error: {exc!r}"}, 500)
