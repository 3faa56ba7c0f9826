"""The commands that store what was said, and have facts drawn from it. Each is one call of the library."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import App, Parameter

from ollama_async_mem.cli.files import parse_messages, read_text
from ollama_async_mem.cli.options import Json, Setup, Who
from ollama_async_mem.cli.output import count_bar, note, plural, say, show_json
from ollama_async_mem.cli.session import open_memory
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.memory.messages import as_messages

if TYPE_CHECKING:
    from ollama_async_mem.app import Memory
    from ollama_async_mem.records import Message

__all__ = ["queue", "say_reasons", "writing"]

_BATCH = 256
Format: TypeAlias = Literal["auto", "jsonl", "text"]
_NOBODY = Who()
_DEFAULT = Setup()

writing = App()


@writing.command
def add(
    text: str | None = None,
    /,
    *,
    file: Annotated[str | None, Parameter(name=["--file", "-f"])] = None,
    format: Format = "auto",
    skip_bad: Annotated[bool, Parameter(negative="")] = False,
    facts: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    who: Who = _NOBODY,
    setup: Setup = _DEFAULT,
) -> None:
    """Store a text, or the messages of a file or of standard input.

    Args:
        text: What to store. Without it and without --file, standard input is read.
        file: JSON lines like {"role": "user", "name": "Ann", "content": "...", "timestamp": "2026-05-01T18:30:00Z"},
            or plain text with one message a line; "-" is standard input.
        format: What the file is, where its name and first character do not say.
        skip_bad: Leave out the lines that are not messages; without it, one of them stops everything.
        facts: Extract facts with the chat model before returning; without it they are extracted later.
    """
    if text is not None and file is not None:
        raise ConfigError("give a text or --file, not both")
    # Read before the event loop runs: Ctrl-C then ends a wait for standard input as it does everywhere.
    messages = _messages(text, file, format, skip_bad)
    asyncio.run(_add(messages, who, setup, facts=facts, json=json))


async def _add(messages: list[Message], who: Who, setup: Setup, *, facts: bool, json: bool) -> None:
    async with open_memory(setup, extract=facts, quiet=json) as memory:
        turn_ids = await _add_all(memory, messages, who, quiet=json)
        pending = await memory.flush()
        jobs = await queue(memory)
        if json:
            show_json({"turn_ids": turn_ids, "pending_jobs": pending, **jobs})
            return
        say(f"stored {plural(len(turn_ids), 'turn')} in {memory.store.location}")
        if pending:
            note(f"{plural(pending, 'extraction job')} waiting; 'ollama-async-mem flush' works them off")
        if facts:
            say_reasons(jobs)


async def queue(memory: Memory) -> dict[str, Any]:
    """How many jobs were given up, and the reasons of these and of those that wait."""
    jobs = await memory.store.unfinished_jobs()
    reasons = sorted({job.error for job in jobs if job.error})
    return {"failed_jobs": sum(job.state == "dead" for job in jobs), "reasons": reasons}


def say_reasons(jobs: dict[str, Any]) -> None:
    """Tell of jobs that were given up, and why others wait."""
    if jobs["failed_jobs"]:
        note(f"{plural(jobs['failed_jobs'], 'job')} given up; the turns are stored", style="yellow")
    for reason in jobs["reasons"]:
        note(f"  {reason}", style="yellow")


def _messages(text: str | None, file: str | None, format: Format, skip_bad: bool) -> list[Message]:  # noqa: FBT001
    """Read what is to be added; without --file, a text is one message."""
    if text is not None:
        return as_messages(text)
    path = file or "-"
    name = "standard input" if path == "-" else path
    parsed = parse_messages(read_text(path), name=name, format=format, skip_bad=skip_bad)
    for problem in parsed.problems:
        note(f"left out: {problem}", style="yellow")
    return parsed.messages


async def _add_all(memory: Memory, messages: list[Message], who: Who, *, quiet: bool) -> list[str]:
    """Add in batches, so that a long file shows its progress; says how far it came when it is stopped."""
    turn_ids: list[str] = []
    try:
        with count_bar("adding", quiet=quiet or len(messages) <= _BATCH) as update:
            for start in range(0, len(messages), _BATCH):
                added = await memory.add(messages[start : start + _BATCH], **who.ids)
                turn_ids += [turn.id for turn in added.turns]
                update(len(turn_ids), len(messages))
    finally:
        if 0 < len(turn_ids) < len(messages):
            note(f"stopped: the first {len(turn_ids)} of {len(messages)} messages are stored", style="yellow")
    return turn_ids


@writing.command
async def flush(*, json: Json = False, setup: Setup = _DEFAULT) -> None:
    """Extract the facts of what was added, and wait until it is done."""
    async with open_memory(setup, extract=True, quiet=json) as memory:
        waiting = await memory.store.pending_jobs()
        if not json:
            note(f"{plural(waiting, 'job')} ...")
        pending = await memory.flush()
        counts = await memory.count()
        jobs = await queue(memory)
    if json:
        show_json({"pending_jobs": pending, "turns": counts.turns, "facts": counts.facts, **jobs})
        return
    say(
        f"{plural(counts.turns, 'turn')}, {plural(counts.facts, 'fact')}, "
        f"{plural(pending, 'job')} waiting for another try"
    )
    say_reasons(jobs)
    if waiting and not counts.facts and not jobs["reasons"]:
        note(f"{memory.llm_model} gave no fact that stands in the turns; a larger model finds more: --llm NAME")
