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

from ollama_async_mem.records import Fact, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ollama_async_mem.ollama.models import PullState
    from ollama_async_mem.ollama.schema import ModelInfo, RunningModel
    from ollama_async_mem.records import Event, Hit, MemoryRecord

__all__ = [
    "count_bar",
    "note",
    "plural",
    "printable",
    "pull_bar",
    "say",
    "show_events",
    "show_fields",
    "show_hits",
    "show_json",
    "show_memories",
    "show_models",
    "show_running",
    "without_passwords",
]

_MEGA = 1_000_000
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_PASSWORD = re.compile(r"(:/{1,2}[^\s/:@]*:)\S+(?=@)|(password=)[^\s&]+")


def _out() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _err() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Take out what would steer the terminal: stored text and models' answers are not to be trusted with that."""
    return _CONTROLS.sub("\ufffd", text)


def without_passwords(text: str) -> str:
    """Hide the passwords of URLs."""
    return _PASSWORD.sub(r"\1\2***", text)


def plural(number: int, what: str) -> str:
    """Write a number of things, such as "2 facts" or "2 memories"."""
    many = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {what if number == 1 else many}"


def say(text: str = "", *, style: str = "", end: str = "\n") -> None:
    """Print a result."""
    _out().print(Text(printable(text), style=style), end=end)


def note(text: str, *, style: str = "dim", wrap: bool = False) -> None:
    """Say what is going on, apart from the results; with `wrap`, a terminal's lines end between words."""
    _err().print(Text(printable(text), style=style), soft_wrap=not (wrap and sys.stderr.isatty()))


def show_json(value: Any) -> None:
    """Print one JSON object on a line."""
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # what came from the command line may be no text at all
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False).encode(errors="replace").decode()
    sys.stdout.write(text + "\n")


def show_hits(hits: Iterable[Hit], *, ids: bool = True) -> None:
    """Print what was found: score, id, date, who and what, and what the score is made of where that was asked for."""
    for hit in hits:
        _out().print(Text.assemble((f"{hit.score:4.2f}  ", "green"), _line(hit.memory, ids=ids)))
        if hit.parts:
            say("      " + "  ".join(f"{name} {value:+.2f}" for name, value in hit.parts.items()), style="dim")


def show_memories(memories: Iterable[MemoryRecord]) -> None:
    """Print memories: id, date, who and what."""
    for memory in memories:
        _out().print(_line(memory, ids=True))


def _line(memory: MemoryRecord, *, ids: bool) -> Text:
    who = f"{memory.who}: " if isinstance(memory, Turn) else "fact: "
    ended = memory.valid_to if isinstance(memory, Fact) else None
    return Text.assemble(
        (f"{memory.id}  " if ids else "", "dim"),
        (f"{memory.at:%Y-%m-%d}  ", "cyan"),
        (printable(who), "bold"),
        printable(" ".join(memory.text.split())),
        (f"  (until {ended:%Y-%m-%d})" if ended else "", "dim"),
    )


def show_fields(fields: Mapping[str, Any]) -> None:
    """Print names and values, one a line, but those that are empty."""
    width = max(map(len, fields), default=0) + 2
    for name, value in fields.items():
        if value not in (None, "", [], (), {}):
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            _out().print(Text.assemble((f"{name:<{width}}", "bold"), printable(text)))


def show_events(events: Iterable[Event]) -> None:
    """Print what happened to a memory: when, what, by whom and why."""
    for event in events:
        by = "".join(f" {word} {who}" for word, who in (("by", event.actor), ("to", event.by)) if who)
        said = " -> ".join(f'"{" ".join(text.split())}"' for text in (event.old, event.new) if text is not None)
        _out().print(
            Text.assemble(
                (f"{event.at:%Y-%m-%d %H:%M}  ", "cyan"),
                (printable(f"{event.kind}{by}"), "bold"),
                printable(f"  {said}" if said else ""),
                (printable(f"  ({event.cause})" if event.cause else ""), "dim"),
            )
        )


def show_models(models: Iterable[ModelInfo]) -> None:
    """Print installed models with size and quantization."""
    for model in models:
        details = f"{model.details.parameter_size} {model.details.quantization_level}".strip()
        size = f"{model.size / _MEGA:,.0f} MB"
        _out().print(Text.assemble((f"{model.name:<32}", "bold"), f"{size:>12}  ", (details, "dim")))


def show_running(models: Iterable[RunningModel]) -> None:
    """Print loaded models with size, share in the GPU's memory, context, and until when they stay."""
    for model in models:
        stays = f"{model.expires:%Y-%m-%d %H:%M}" if model.expires else ""
        details = f"GPU {model.gpu_share:4.0%}  context {model.context_length:,}  until {stays}"
        _out().print(
            Text.assemble((f"{model.name:<32}", "bold"), f"{model.size / _MEGA:>9,.0f} MB  ", (details, "dim"))
        )


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
def count_bar(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a count on standard error; yields what is called with the number that is done, and of how many."""
    with _bar(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), quiet=quiet) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total, refresh=True)


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
