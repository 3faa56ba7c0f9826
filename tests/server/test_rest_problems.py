"""Failures as answers: each has a status, and none tells of the machine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from ollama_async_mem import errors
from ollama_async_mem.server.errors import Forbidden, TooManyRequests
from ollama_async_mem.server.problems import Problem, plain_problem, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME = "/home/zoe/.local/share/memory.db"
ADDRESS = "http://10.1.2.3:11434"


def every_error() -> Iterator[Exception]:
    """One of each class of the tree, with a path in its text where it takes one."""
    special: dict[str, Exception] = {
        "ConnectFailed": errors.ConnectFailed(ADDRESS, "refused"),
        "EmbeddingFailed": errors.EmbeddingFailed(f"too long, see {HOME}", positions=(1,), count=2),
        "EmbeddingMismatch": errors.EmbeddingMismatch(expected="a", got="b", where=f"the store {HOME}"),
        "MissingExtra": errors.MissingExtra("server", "the server"),
    }
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, errors.StatusError):
            yield kind(418, f"cannot open {HOME}: denied", url=ADDRESS)
        elif issubclass(kind, errors.RequestTimeout):
            yield kind("no answer began", 3.0)
        elif issubclass(kind, errors.PullFailed | errors.PushFailed | errors.CreateFailed):
            yield kind("llama3.2", f"cannot write {HOME}")
        else:
            yield special[name] if name in special else kind(f"the store {HOME}: it failed")


@pytest.mark.parametrize("exc", list(every_error()), ids=lambda exc: type(exc).__name__)
def test_every_error_is_a_problem_without_a_path(exc: Exception) -> None:
    """Its status is an error's, its type is ours, and it says something to people."""
    told = problem(exc)
    assert 400 <= told.status < 600
    assert told.type.startswith("urn:ollama-async-mem:problem:")
    assert told.title
    assert told.detail
    written = msgspec.json.encode(told).decode()
    assert all(secret not in written for secret in ("/home", "zoe", "memory.db", "10.1.2.3"))


@pytest.mark.parametrize(
    ("exc", "status", "retry_after_s"),
    [
        (errors.ConfigError("limit is from 1 to 1000"), 400, None),
        (msgspec.ValidationError("Expected `int`"), 400, None),
        (errors.RecordNotFound("x"), 404, None),
        (errors.ModelNotFound(404, "model 'x' not found"), 404, None),
        (errors.StoreBusy("locked"), 503, 1.0),
        (errors.StoreError("the store a.db: the disk is full"), 503, 10.0),
        (errors.StoreClosed("closed"), 503, 5.0),
        (errors.ConnectFailed(ADDRESS, "refused"), 503, 5.0),
        (errors.ServerBusy(503, "busy", retry_after_s=7), 503, 7),
        (errors.ServerBusy(503, "busy"), 503, 1.0),
        (errors.FirstByteTimeout("no answer began", 3), 504, None),
        (errors.StreamTruncated("cut"), 502, None),
        (errors.AuthenticationFailed(401, "no"), 502, None),
        (Forbidden("no"), 403, None),
        (TooManyRequests("slowly", retry_after_s=0.2), 429, 0.2),
        (ExceptionGroup("of a task group", [errors.StoreBusy("locked")]), 503, 1.0),
        (KeyError("x"), 500, None),
    ],
    ids=repr,
)
def test_a_problem_has_the_status_of_its_cause(exc: Exception, status: int, retry_after_s: float | None) -> None:
    """And says when to come back where that helps."""
    told = problem(exc)
    assert (told.status, told.retry_after_s) == (status, retry_after_s)


def test_retry_after_is_in_whole_seconds() -> None:
    """Which is all that the header can say; never 0, which would be at once."""
    told = problem(TooManyRequests("slowly", retry_after_s=0.2))
    assert told.headers() == [(b"content-type", b"application/problem+json"), (b"retry-after", b"1")]
    assert problem(errors.ConfigError("x")).headers() == [(b"content-type", b"application/problem+json")]


def test_what_nobody_foresaw_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """The answer has no word of it, the log has all."""
    with caplog.at_level(logging.ERROR):
        told = problem(ValueError("secret"))
    assert "secret" not in msgspec.json.encode(told).decode()
    assert "secret" in caplog.text
    assert caplog.records[0].exc_info


def test_files_of_the_server_are_not_told() -> None:
    """Not even by a bare name, where the file system was the cause."""
    exc = errors.ConfigError("cannot read notes.jsonl: denied")
    exc.__cause__ = PermissionError(13, "denied", "notes.jsonl")
    assert "notes" not in problem(exc).detail


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"cannot open {HOME}: denied", "cannot open (a path): denied"),
        (f"cannot open {HOME!r}", "cannot open '(a path)'"),
        (r"cannot open C:\Users\ann\memory.db now", "cannot open (a path) now"),
        (str(Path("~/notes/a.db")), "(a path)"),
        ("either and/or both, 1/2, say 10/12/2025", "either and/or both, 1/2, say 10/12/2025"),
        ("see https://ollama.com/library/llama3.2", "see https://ollama.com/library/llama3.2"),
    ],
)
def test_paths_are_taken_out_and_words_are_left(text: str, told: str) -> None:
    """What is a path is known by how it begins."""
    assert problem(errors.ConfigError(text)).detail == told


def test_a_status_alone_is_a_problem() -> None:
    """With the words of the standard."""
    assert plain_problem(404) == Problem(status=404, title="Not Found")
