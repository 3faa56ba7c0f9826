"""From an Ollama chat or generate request to a llama.cpp request, and from its events to Ollama's lines.

Pure but for `lines`, which drives a loaded model.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from .durations import rfc3339
from .faults import ApiError
from .llama import ContextExceeded, Llama

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from .catalogue import Model
    from .models import Loaded, Models
    from .shapes import Shape

__all__ = ["Job", "collect", "lines", "smaller"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One generation, ready to run."""

    model: Model
    called: str  # the model's name as the caller spells it: it is echoed
    path: str
    body: dict[str, Any]
    shape: Shape
    num_ctx: int | None
    keep_alive_s: float | None
    may_truncate: bool = True


class _Run:
    """What is known when the last event has come."""

    def __init__(self) -> None:
        self.started_ns = time.perf_counter_ns()
        self.load_ns = 0
        self.reason = "stop"
        self.timings: dict[str, Any] = {}
        self.calls: dict[int, dict[str, Any]] = {}

    def note(self, event: dict[str, Any]) -> dict[str, Any]:
        """Keep what the end needs; return the new piece of the answer."""
        self.timings = event.get("timings") or self.timings
        if "choices" not in event:
            if event.get("stop_type") == "limit":
                self.reason = "length"
            return {"content": event.get("content")}
        choice = (event["choices"] or [{}])[0]
        if choice.get("finish_reason") == "length":
            self.reason = "length"
        delta: dict[str, Any] = choice.get("delta") or {}
        self._add_calls(delta.get("tool_calls") or ())
        return delta

    def metrics(self) -> dict[str, Any]:
        """Ollama's figures: counts, and durations in ns; those that are 0 are left out."""
        t = self.timings
        figures = {
            "total_duration": time.perf_counter_ns() - self.started_ns,
            "load_duration": self.load_ns,
            "prompt_eval_count": t.get("cache_n", 0) + t.get("prompt_n", 0),
            "prompt_eval_duration": int(t.get("prompt_ms", 0) * 1e6),
            "eval_count": t.get("predicted_n", 0),
            "eval_duration": int(t.get("predicted_ms", 0) * 1e6),
        }
        return {name: figure for name, figure in figures.items() if figure}

    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls that were put together, with their arguments as objects."""
        return [_ollama_call(index, call) for index, call in sorted(self.calls.items())]

    def _add_calls(self, pieces: Any) -> None:
        """llama.cpp streams the arguments of a call as pieces of text."""
        for piece in pieces:
            call = self.calls.setdefault(piece.get("index", 0), {"id": "", "name": "", "arguments": ""})
            function = piece.get("function") or {}
            call["id"] = piece.get("id") or call["id"]
            call["name"] = function.get("name") or call["name"]
            call["arguments"] += function.get("arguments") or ""


async def lines(job: Job, models: Models) -> AsyncGenerator[dict[str, Any]]:
    """The lines of the answer, one for each token, the last with the figures. Close it to cancel."""
    run = _Run()
    use = models.use(job.model, num_ctx=job.num_ctx, keep_alive_s=job.keep_alive_s)
    async with use as loaded:
        run.load_ns = loaded.load_ns
        async for event in _events(job, loaded):
            piece = run.note(event)
            if text := piece.get("reasoning_content"):
                yield _line(job, job.shape.thinking(text))
            if text := piece.get("content"):
                yield _line(job, job.shape.text(text))
    if calls := run.tool_calls():
        yield _line(job, job.shape.tool_calls(calls))
    yield {**_line(job, job.shape.text("")), "done": True, "done_reason": run.reason, **run.metrics()}


async def collect(answer: AsyncIterator[dict[str, Any]], shape: Shape) -> dict[str, Any]:
    """All lines as one, for `stream: false`."""
    collected: list[dict[str, Any]] = [line async for line in answer]
    return {**collected[-1], **shape.joined(collected)}


def smaller(body: dict[str, Any]) -> dict[str, Any] | None:
    """The same chat without its oldest turn, as Ollama makes a chat fit; None when only the newest is left.

    System messages stay.
    """
    messages = body.get("messages", [])
    turns = [index for index, message in enumerate(messages) if message["role"] != "system"]
    if len(turns) <= 1:
        return None
    return {**body, "messages": messages[: turns[0]] + messages[turns[0] + 1 :]}


async def _events(job: Job, loaded: Loaded) -> AsyncGenerator[dict[str, Any]]:
    """llama.cpp's events, for as much of the chat as fits the context."""
    if not isinstance(loaded.engine, Llama):
        raise ApiError(400, f'"{job.called}" does not support chat')
    body: dict[str, Any] | None = job.body
    while body is not None:
        try:
            async with loaded.engine.stream(job.path, body) as events:
                async for event in events:
                    yield event
        except ContextExceeded:
            body = smaller(body) if job.may_truncate else None
            if body is None:
                raise
        else:
            return


def _line(job: Job, piece: dict[str, Any]) -> dict[str, Any]:
    return {"model": job.called, "created_at": rfc3339(), **piece, "done": False}


def _ollama_call(index: int, call: dict[str, Any]) -> dict[str, Any]:
    """A call in Ollama's shape; arguments that are no JSON object are shown as they are."""
    try:
        arguments = msgspec.json.decode(call["arguments"] or "{}", type=dict)
    except msgspec.DecodeError:
        arguments = {"arguments": call["arguments"]}
    return {"id": call["id"], "function": {"index": index, "name": call["name"], "arguments": arguments}}
