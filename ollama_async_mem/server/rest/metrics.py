"""Figures for Prometheus, in a registry of the server's own: other programs in the process keep theirs apart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from ollama_async_mem.counts import MemoryStatistics
    from ollama_async_mem.server.rest.routing import AsgiApp, Receive, Send

__all__ = ["EXPOSITION", "Counted", "Figures"]

EXPOSITION = CONTENT_TYPE_PLAIN_0_0_4.encode()
_PREFIX = "ollama_async_mem"
_UNKNOWN = "other"
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Figures:
    """What the server counts. The labels are routes, never paths: their number is bounded."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = ("method", "route")
        self.requests = Counter(
            f"{_PREFIX}_requests", "Requests that were answered.", (*labels, "status"), registry=registry
        )
        self.seconds = Histogram(
            f"{_PREFIX}_request_seconds",
            "How long requests took to the end of their answer.",
            labels,
            registry=registry,
            buckets=_BUCKETS_S,
        )
        self.open = Gauge(f"{_PREFIX}_open_requests", "Requests under way, streams among them.", registry=registry)
        self._memory = Gauge(f"{_PREFIX}_store", "What the store holds.", ("what",), registry=registry)
        self._answers = Gauge(f"{_PREFIX}_store_up", "Whether the store answers, 1 or 0.", registry=registry)
        self._extraction = Gauge(
            f"{_PREFIX}_extraction", "What became of the extraction since the start.", ("what",), registry=registry
        )
        self._embedding = Gauge(
            f"{_PREFIX}_embedding", "What the embedder did since the start.", ("what",), registry=registry
        )

    async def exposed(self, statistics: MemoryStatistics | None) -> bytes:
        """Write all figures in the text format, with those of the memory as they are now; None where nobody knows."""
        self._answers.set(statistics is not None)
        if statistics is None:
            self._memory.clear()
        else:
            _set(self._memory, statistics.store)
            _set(self._extraction, statistics.extraction)
            _set(self._embedding, statistics.embedding)
        return await anyio.to_thread.run_sync(generate_latest, self._registry)  # those of the process are in files


class Counted:
    """The ASGI app around the routes that counts what they answer."""

    def __init__(self, app: AsgiApp, figures: Figures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let the app answer, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # as proxies write it where the client left before there was an answer

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.monotonic()
        figures = self._figures
        figures.open.inc()
        try:
            await self._app(scope, receive, noted)
        finally:
            figures.open.dec()
            labels = scope["method"], scope.get("path_template") or _UNKNOWN
            figures.requests.labels(*labels, status).inc()
            figures.seconds.labels(*labels).observe(time.monotonic() - began)


def _set(gauge: Gauge, counts: msgspec.Struct | None) -> None:
    """Take over the numbers of a record."""
    for name, value in msgspec.structs.asdict(counts).items() if counts else ():
        if isinstance(value, int | float):
            gauge.labels(name).set(value)
