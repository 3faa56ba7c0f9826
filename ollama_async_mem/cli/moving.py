"""The commands that move memories in and out of files."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import anyio
from cyclopts import App, Parameter
from msgspec.structs import asdict

from ollama_async_mem.cli.files import as_file, read_text
from ollama_async_mem.cli.formats import FileFormat, is_own, recognised, without_bad
from ollama_async_mem.cli.options import Json, Owner, Setup, Whose
from ollama_async_mem.cli.output import count_bar, note, plural, say, show_json
from ollama_async_mem.cli.session import open_memory, open_offline
from ollama_async_mem.cli.writing import queue, say_reasons
from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from ollama_async_mem.cli.formats import Addition
    from ollama_async_mem.counts import EmbeddingCounts
    from ollama_async_mem.records import AddResult
    from ollama_async_mem.stores.transfer import CopyReport

__all__ = ["moving"]

_ANYBODY = Whose()
_UNSAID = Owner()
_DEFAULT = Setup()
_LOOK_BYTES = 4_096
File: TypeAlias = Annotated[str, Parameter(allow_leading_hyphen=True)]

moving = App()


@moving.command
async def export(file: File, /, *, json: Json = False, whose: Whose = _ANYBODY, setup: Setup = _DEFAULT) -> None:
    """Write memories to a file of JSON lines that `import` reads, with vectors and histories. Needs no server.

    Args:
        file: The file, which is replaced where it exists; "-" is standard output.
    """
    async with open_offline(setup) as memory:
        if file == "-":
            async with aclosing(memory.export_lines(**whose.ids)) as lines:
                async for line in lines:
                    sys.stdout.write(line.decode())
            return
        count = await memory.export(await anyio.Path(file).expanduser(), **whose.ids)
    if json:
        show_json({"file": file, "memories": count})
    else:
        say(f"exported {plural(count, 'memory')} to {file}")


@moving.command(name="import")
def import_(
    file: File,
    /,
    *,
    format: FileFormat = "auto",
    skip_bad: Annotated[bool, Parameter(negative="")] = False,
    facts: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    whose: Owner = _UNSAID,
    setup: Setup = _DEFAULT,
) -> None:
    """Store what a file holds, with its dates. What was imported before is not stored again.

    Files of `export` keep whose memories they are. Of others, what names nobody belongs to --user, by default me.

    Args:
        file: A file of `export` (own); messages as JSON lines or a JSON list (chat); plain text with one message a
            line (text); conversations.json of ChatGPT (chatgpt); or what mem0's get_all() gave (mem0). "-" is standard
            input.
        format: Which of these it is, where looking does not tell.
        skip_bad: Leave out what is no message; without it, one such entry stops everything.
        facts: Extract facts with the chat model too, which takes long.
    """
    # Read before the event loop runs: Ctrl-C then ends a wait for standard input as it does everywhere.
    with as_file(file) as path:
        if format == "own" or (format == "auto" and is_own(_beginning(path))):
            if whose.ids != _UNSAID.ids:
                raise ConfigError(
                    "a file of `export` says itself whose memories they are: leave --user, --agent, --run out"
                )
            _run(_import_own(path, setup, json=json))
            return
        text = read_text(path)
    name = "standard input" if file == "-" else file
    found = recognised(text, name=name, format=format, now=datetime.now(UTC))
    additions = [_of(addition, whose) for addition in without_bad(found, skip_bad=skip_bad)]
    for problem in found.problems:
        note(f"left out: {problem}", style="yellow")
    _run(_import(additions, setup, format=found.format, facts=facts, json=json))


def _run(importing: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(importing)
    except KeyboardInterrupt:
        note("stopped; the same command goes on where it was", style="yellow")
        raise


def _beginning(path: str) -> bytes:
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(_LOOK_BYTES)
    except (OSError, RuntimeError, ValueError) as exc:  # RuntimeError is an unknown ~user, ValueError a NUL
        raise ConfigError(f"cannot read {path}: {getattr(exc, 'strerror', None) or exc}") from exc


def _of(addition: Addition, whose: Owner) -> Addition:
    """Say whose memory an addition is: what the options say, else what it says itself, else the default user's."""
    given = {name: value for name, value in whose.ids.items() if value is not None}
    merged = addition | given
    if "user_id" in merged or "agent_id" in merged or ("run_id" in given):
        return merged
    return merged | {"user_id": "me"}


async def _import_own(file: str, setup: Setup, *, json: bool) -> None:
    async with open_memory(setup, quiet=json) as memory:
        with count_bar("importing", quiet=json) as update:
            report = await memory.import_(await anyio.Path(file).expanduser(), on_progress=update)
        embedding = (await memory.statistics()).embedding
    _show_report(report, memory.store.location, embedding, json=json)


def _show_report(report: CopyReport, location: str, embedding: EmbeddingCounts | None, *, json: bool) -> None:
    if json:
        show_json({"format": "own", "store": location, **asdict(report), "embedding": embedding})
        return
    read = f"{plural(report.turns, 'turn')} and {plural(report.facts, 'fact')}"
    say(f"imported {read} into {location}, {report.new:,} of them new")
    _note_embedding(embedding)
    if report.differing:
        note(f"{report.differing:,} are there in another state, and were left as they are", style="yellow")


async def _import(additions: list[Addition], setup: Setup, *, format: str, facts: bool, json: bool) -> None:
    async with open_memory(setup, extract=facts, quiet=json) as memory:
        with count_bar("importing", quiet=json) as update:
            results = await memory.add_many(additions, infer="background" if facts else False, on_progress=update)
        if facts and not json:
            note("extracting facts ...")
        pending = await memory.flush() if facts else 0
        jobs = await queue(memory)
        embedding = (await memory.statistics()).embedding
    report = {"format": format, "store": memory.store.location, **_counted(results), "pending_jobs": pending}
    if json:
        show_json({**report, **jobs, "embedding": embedding})
        return
    say(f"imported {plural(report['turns'], 'message')} into {report['store']}, {report['new']:,} of them new")
    _note_embedding(embedding)
    if facts:
        say_reasons(jobs)


def _note_embedding(counts: EmbeddingCounts | None) -> None:
    """Say what the embedding took, where any was needed."""
    if counts and counts.requests:
        again = f", {plural(counts.retries, 'retry')}" if counts.retries else ""
        requests = plural(counts.requests, "request")
        note(f"embedded {plural(counts.sent, 'text')} in {requests}, {counts.seconds:.1f} s in sum{again}")


def _counted(results: Sequence[AddResult]) -> dict[str, Any]:
    return {
        "turns": sum(len(result.turns) for result in results),
        "new": sum(len(result.turns) for result in results if result.is_new),
    }
