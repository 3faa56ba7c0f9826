"""How results look on a terminal and as JSON. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from ollama_async_mem.records import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ollama_async_mem.ollama.models import PullState
    from ollama_async_mem.ollama.schema import ModelInfo
    from ollama_async_mem.records import Hit, MemoryRecord

__all__ = [
    "count_bar",
    "note",
    "printable",
    "pull_bar",
    "say",
    "show_hits",
    "show_json",
    "show_memories",
    "show_models",
]

_MEGA = 1_000_000
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def _out() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _err() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Take out what would steer the terminal: stored text and models' answers are not to be trusted with that."""
    return _CONTROLS.sub("\ufffd", text)


def say(text: str = "", *, style: str = "", end: str = "\n") -> None:
    """Print a result."""
    _out().print(Text(printable(text), style=style), end=end)


def note(text: str, *, style: str = "dim") -> None:
    """Say what is going on, apart from the results."""
    _err().print(Text(printable(text), style=style))


def show_json(value: Any) -> None:
    """Print one JSON object on a line."""
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # what came from the command line may be no text at all
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False).encode(errors="replace").decode()
    sys.stdout.write(text + "\n")


def show_hits(hits: Iterable[Hit]) -> None:
    """Print what was found: score, date, who and what."""
    for hit in hits:
        _out().print(Text.assemble((f"{hit.score:4.2f}  ", "green"), _line(hit.memory)))


def show_memories(memories: Iterable[MemoryRecord], *, ids: bool = True) -> None:
    """Print memories: date, who and what, with the id that `delete` takes."""
    for memory in memories:
        _out().print(Text.assemble((f"{memory.id}  " if ids else "", "dim"), _line(memory)))


def _line(memory: MemoryRecord) -> Text:
    who = f"{memory.who}: " if isinstance(memory, Turn) else "fact: "
    return Text.assemble(
        (f"{memory.at:%Y-%m-%d}  ", "cyan"), (printable(who), "bold"), printable(" ".join(memory.text.split()))
    )


def show_models(models: Iterable[ModelInfo]) -> None:
    """Print installed models with size and quantization."""
    for model in models:
        details = f"{model.details.parameter_size} {model.details.quantization_level}".strip()
        size = f"{model.size / _MEGA:,.0f} MB"
        _out().print(Text.assemble((f"{model.name:<32}", "bold"), f"{size:>12}  ", (details, "dim")))


@contextmanager
def pull_bar(model: str, *, quiet: bool = False) -> Iterator[Callable[[PullState], None]]:
    """Show a download on standard error; yields what is called with each status line."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _bar(*columns, quiet=quiet) as progress:
        task = progress.add_task(f"pulling {model}", total=None)

        def update(line: PullState) -> None:
            if line.total:
                progress.update(task, total=line.total, completed=line.completed)
            progress.update(task, description=f"{model}: {line.status}", refresh=True)

        yield update


@contextmanager
def count_bar(what: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a count on standard error; yields what is called with the number that is done."""
    with _bar(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), quiet=quiet) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done, refresh=True)


def _bar(*columns: ProgressColumn, quiet: bool) -> Progress:
    # Redrawn when something changes, not by a thread of its own, whose end would block the event loop.
    return Progress(
        TextColumn("{task.description}"),
        *columns,
        console=_err(),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
        auto_refresh=False,
    )
