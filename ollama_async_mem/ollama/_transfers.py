"""What moves models, with its progress: pull, push and create.

It owns the status lines, and that a push or a create is asked for at most once; a new model's files are `_blobs`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypedDict

import anyio
import anyio.to_thread

from ollama_async_mem.errors import (
    ConfigError,
    ConnectFailed,
    CreateFailed,
    OllamaAsyncMemError,
    OllamaError,
    PullFailed,
    PushFailed,
    StreamTruncated,
)

from ._blobs import check_readable, sources, stored
from ._exchange import Upload, as_json
from ._options import nearest
from ._requests import filled
from ._retry import with_retry
from ._streams import REST_S, failure, open_chunks
from .schema import PullProgress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from ._blobs import Files, Report
    from ._http import Server
    from ._retry import RetryPolicy
    from .schema import ChatMessage

    Lines: TypeAlias = AsyncIterator[PullProgress]
    Progress: TypeAlias = AbstractAsyncContextManager[Lines]
    Failed: TypeAlias = Callable[[str], OllamaError]
    Work: TypeAlias = Callable[[Report], Awaitable[None]]

__all__ = ["CreateFields", "finished", "open_create", "open_pull", "open_push"]

Item: TypeAlias = PullProgress | OllamaAsyncMemError
_FILES = ("files", "adapters", "draft_files")
_TEXTS = ("template", "system", "quantize", "draft_quantize", "renderer", "parser", "requires", "remote_host")
_UNANSWERED = "the connection broke before an answer came; look whether it was done all the same, it is not sent again"


class CreateFields(TypedDict, total=False):
    """What a new model is made of: `from_` or `files`, and what it has besides.

    from_: the name of an installed model.
    files: its GGUF or safetensors files: names and paths, or "sha256:..." of a blob that the server has; or only paths.
    adapters, draft_files: the same for LoRA adapters, and for the small model that drafts.
    parameters: the defaults of `options`, such as {"temperature": 0, "num_ctx": 8192}.
    messages: a conversation that every chat begins with.
    quantize, draft_quantize: such as "q4_K_M", for files of F16 or F32.
    renderer, parser: names of the server's own ways to write prompts and to read answers.
    requires: the oldest server that can run it. info: further facts, such as {"capabilities": ["tools"]}.
    remote_host: the URL of the Ollama that runs `from_`.
    """

    from_: str | None
    files: Files | None
    adapters: Files | None
    draft_files: Files | None
    template: str | None
    license: str | Sequence[str] | None
    system: str | None
    parameters: Mapping[str, Any] | None
    messages: Sequence[Mapping[str, Any] | ChatMessage] | None
    quantize: str | None
    draft_quantize: str | None
    renderer: str | None
    parser: str | None
    requires: str | None
    info: Mapping[str, Any] | None
    remote_host: str | None


async def finished(progress: Progress) -> None:
    """Wait for the end of what reports its progress."""
    async with progress as lines:
        async for _ in lines:
            pass


@asynccontextmanager
async def open_pull(server: Server, model: str, *, insecure: bool | None) -> AsyncIterator[Lines]:
    """Pull a model. Asked again it goes on from where it was, so it may be retried."""
    body = filled(model=model, insecure=insecure, stream=True)
    async with (
        open_chunks(server, "/api/pull", body, PullProgress) as lines,
        aclosing(_until_success(lines, partial(PullFailed, model))) as checked,
    ):
        yield checked


@asynccontextmanager
async def open_push(server: Server, retry: RetryPolicy, model: str, *, insecure: bool | None) -> AsyncIterator[Lines]:
    """Push a model."""
    body = filled(model=model, insecure=insecure, stream=True)
    async with _asked_once(server, retry, "/api/push", body, partial(PushFailed, model)) as lines:
        yield lines


def open_create(server: Server, retry: RetryPolicy, model: str, fields: CreateFields) -> Progress:
    """Create a model.

    Raises:
        ConfigError: an argument is not what it should be; for a file, when the context is entered.
    """
    _check(fields)
    given: Any = {**fields, "from": fields.get("from_")}
    files = {name: sources(name, given[name]) for name in _FILES if given.get(name) is not None}
    body = filled(model=model, stream=True, **{k: v for k, v in given.items() if k not in {"from_", *_FILES}})
    as_json(body)  # before anything is uploaded
    return _created(server, retry, body, files)


@asynccontextmanager
async def _created(
    server: Server, retry: RetryPolicy, body: dict[str, Any], files: Mapping[str, Mapping[str, str | Path]]
) -> AsyncIterator[Lines]:
    for named in files.values():
        await anyio.to_thread.run_sync(check_readable, named)

    async def create(report: Report) -> None:
        digests = {
            argument: {name: await stored(server, name, source, report) for name, source in named.items()}
            for argument, named in files.items()
        }
        failed = partial(CreateFailed, body["model"])
        async with _asked_once(server, retry, "/api/create", {**body, **digests}, failed) as lines:
            async for line in lines:
                await report(line)

    async with _reported(create) as lines:
        yield lines


@asynccontextmanager
async def _reported(work: Work) -> AsyncIterator[Lines]:
    """Do work beside the block and give what it reports, its failure last; leaving the block cancels it.

    It waits until a line is taken before it goes on. What the block raises comes out as it is, not in a group.
    """
    send, receive = anyio.create_memory_object_stream[Item]()
    raised: BaseException | None = None
    with receive:
        try:
            async with anyio.create_task_group() as tasks, aclosing(_received(receive)) as lines:
                tasks.start_soon(_report, work, send)
                yield lines
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raised = group.exceptions[0]
        if raised is not None:
            raise raised


async def _report(work: Work, send: MemoryObjectSendStream[Item]) -> None:
    with send:
        try:
            await work(send.send)
        except OllamaAsyncMemError as exc:
            await send.send(exc)


async def _received(receive: MemoryObjectReceiveStream[Item]) -> AsyncGenerator[PullProgress, None]:
    async for item in receive:
        if isinstance(item, OllamaAsyncMemError):
            raise item
        yield item


class _Body:
    """A body that is given out once, and knows whether it was: from then on the server may have the request."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.is_begun = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self.is_begun:
            raise StopAsyncIteration
        self.is_begun = True
        return self._body


@asynccontextmanager
async def _asked_once(
    server: Server, retry: RetryPolicy, path: str, body: object, failed: Failed
) -> AsyncIterator[Lines]:
    """Send a request that must not be done twice: tried again only while none of its body was sent."""
    encoded = as_json(body)
    async with AsyncExitStack() as stack:

        async def ask() -> Lines:
            pieces = _Body(encoded)
            upload = Upload(pieces, len(encoded), "application/json")
            try:
                return await stack.enter_async_context(open_chunks(server, path, upload, PullProgress, retry=False))
            except OllamaError as exc:
                if not pieces.is_begun:
                    raise
                if isinstance(exc, ConnectFailed | StreamTruncated):
                    raise failed(_UNANSWERED) from exc
                exc.retryable = False
                raise

        lines = await with_retry(retry, ask)
        yield await stack.enter_async_context(aclosing(_until_success(lines, failed)))


async def _until_success(lines: Lines, failed: Failed) -> AsyncGenerator[PullProgress, None]:
    line = PullProgress()
    try:
        async for line in lines:
            if complaint := failure(line.error):
                raise failed(complaint)
            yield line
            if line.status == "success":
                with suppress(OllamaError), anyio.move_on_after(REST_S):
                    await anext(lines, None)  # behind the end of the answer its connection can be used again
                return
    except StreamTruncated as exc:
        raise failed(f"the connection broke after {line.status!r}") from exc
    raise failed(f"the server stopped after {line.status!r}")


def _check(fields: CreateFields) -> None:
    """Refuse what the server would refuse late, or would silently leave out."""
    given = {name: value for name, value in fields.items() if value is not None}
    for name in given:
        if name not in CreateFields.__annotations__:
            known = CreateFields.__annotations__
            raise ConfigError(f"unknown argument {name!r}{nearest(name, known) or '; there are ' + ', '.join(known)}")
    for name in _TEXTS:
        if not isinstance(given.get(name, ""), str):
            raise ConfigError(f"{name} is a text, got {given[name]!r}")
    for name in ("parameters", "info"):
        if not isinstance(given.get(name, {}), Mapping):
            raise ConfigError(f"{name} is a mapping, got {given[name]!r}")
    if "from_" in given and "files" in given:
        raise ConfigError("a model is made from_ an installed one or of files: the server would leave out the files")
    if "from_" not in given and "files" not in given:
        raise ConfigError("a new model needs from_= (an installed model) or files= (paths of its files)")
    _check_from(given.get("from_", "x"))
    if "draft_quantize" in given and "draft_files" not in given:
        raise ConfigError("draft_quantize needs draft_files")


def _check_from(model: object) -> None:
    if not isinstance(model, str) or not model.strip() or model.startswith((".", "/", "~")):
        raise ConfigError(f"from_ is the name of an installed model, got {model!r}; give a file as files=[path]")
