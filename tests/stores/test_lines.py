"""Memories as JSON lines: they come back as they were, and what is wrong with a file is told."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

from ollama_async_mem.counts import Counts
from ollama_async_mem.errors import ConfigError, SchemaTooNew, StoreError
from ollama_async_mem.records import DateRange, Event, Fact, MemoryRecord, Scope, StoredJob, StoredMemory, Turn
from ollama_async_mem.stores import open_store
from ollama_async_mem.stores.transfer import CopyReport
from stores.samples import ALICE, BOB, START, add, axis, dump_all, everything, turn
from stores.test_contract_transfer import assert_same, fill
from stores.test_transfer import OTHER_SPACE, SPACE, a_few, exported, imported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stores.samples import MakeStore, Vector


async def test_lines_hold_everything(make_store: MakeStore) -> None:
    """What was exported is imported as it was, by any kind of store, and only once."""
    async with open_store("sqlite://") as first, make_store() as second, open_store("sqlite://") as third:
        await fill(first)
        lines = await exported(first)
        report = await imported(second, lines)
        await assert_same(first, second, Scope())
        assert report.new == report.turns + report.facts == len(await dump_all(first))
        assert await imported(third, await exported(second)) == report
        await assert_same(first, third, Scope())
        assert await imported(third, lines) == replace(report, new=0)
        assert sorted(await exported(third)) == sorted(lines)
        assert await second.check() == await third.check() == []


async def test_lines_of_one_scope() -> None:
    """Only what belongs to the scope is written."""
    async with open_store("sqlite://") as source, open_store("sqlite://") as target:
        await fill(source)
        await imported(target, await exported(source, BOB))
        await assert_same(source, target, BOB)
        assert await target.counts(Scope()) == await source.counts(BOB)


async def test_the_format() -> None:
    """Each line, letter by letter: files that were written once must be read for ever."""
    at = datetime(2026, 5, 1, 18, 30, tzinfo=timezone(timedelta(hours=-5)))
    said = Turn(id="t", scope=Scope("ann"), role="user", text="tea", at=at, created_at=START, metadata={"a": [1.5]})
    known = Fact(
        id="f",
        scope=Scope("ann"),
        text="Tea.",
        at=START,
        created_at=START,
        quote="tea",
        turn_ids=("t",),
        dates=(DateRange(date(2026, 2, 23), date(2026, 3, 1), "week", "this week", (4, 13)),),
    )
    happened = (
        Event(memory_id="f", kind="reinforced", at=START, cause="said again"),
        Event(memory_id="f", kind="superseded", at=START, by="g"),
    )
    first = Turn(id="s", scope=Scope("ann"), role="user", text="Tea?", at=START, created_at=START, speaker="Bob")
    job = StoredJob(id="j", scope=Scope("ann"), turn_ids=("s",), state="dead", attempts=3, error="away")
    async with open_store("sqlite://") as store:
        stored = [StoredMemory(memory=one, vector=axis(1).tobytes()) for one in (first, said)]
        stored.append(StoredMemory(memory=known, vector=axis(0, 1).tobytes(), events=happened))
        await store.load(stored, [job], space=SPACE)
        assert b"".join(await exported(store)).decode() == FORMAT
    async with open_store("sqlite://") as store:
        await imported(store, FORMAT.encode().splitlines())
        assert [one.memory for one in await dump_all(store)] == [first, said, known]
        assert await store.history("f") == [Event(memory_id="f", kind="added", at=START, new="Tea."), *happened]


FORMAT = """\
{"format":"ollama-async-mem","version":1,"space":{"model":"embedder:1","dimension":8},"counts":{"turns":2,"facts":1}}
{"line":"memory","memory":{"kind":"turn","id":"s","scope":{"user_id":"ann","agent_id":null,"run_id":null},\
"role":"user","text":"Tea?","at":"2026-03-01T09:30:00Z","created_at":"2026-03-01T09:30:00Z","speaker":"Bob",\
"metadata":{},"expires_at":null,"dates":[]},"vector":"AACAPwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","events":[]}
{"line":"memory","memory":{"kind":"turn","id":"t","scope":{"user_id":"ann","agent_id":null,"run_id":null},\
"role":"user","text":"tea","at":"2026-05-01T18:30:00-05:00","created_at":"2026-03-01T09:30:00Z","speaker":null,\
"metadata":{"a":[1.5]},"expires_at":null,"dates":[]},"vector":"AACAPwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","events":[]}
{"line":"memory","memory":{"kind":"fact","id":"f","scope":{"user_id":"ann","agent_id":null,"run_id":null},\
"text":"Tea.","at":"2026-03-01T09:30:00Z","created_at":"2026-03-01T09:30:00Z","quote":"tea","turn_ids":["t"],\
"valid_to":null,"metadata":{},"expires_at":null,"dates":[{"start":"2026-02-23","end":"2026-03-01",\
"precision":"week","text":"this week","position":[4,13]}]},"vector":"AAAAAAAAgD8AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",\
"events":[{"memory_id":"f","kind":"reinforced","at":"2026-03-01T09:30:00Z","old":null,"new":null,"actor":null,\
"cause":"said again","by":null},{"memory_id":"f","kind":"superseded","at":"2026-03-01T09:30:00Z","old":null,\
"new":null,"actor":null,\
"cause":null,"by":"g"}]}
{"line":"job","id":"j","scope":{"user_id":"ann","agent_id":null,"run_id":null},"turn_ids":["s"],"state":"dead",\
"attempts":3,"error":"away","prompt":null}
{"line":"end","turns":2,"facts":1,"jobs":1}
"""


async def test_what_json_cannot_spell_at_once() -> None:
    """Clocks that are seconds off UTC keep their instant, halves of surrogate pairs and control characters stay."""
    said = turn("\0\x1b\u2028 花", Scope("\ud800", '"\\', "\udfff\ud800"), at=START.astimezone(LOCAL_MEAN_TIME))
    async with open_store("sqlite://") as source, open_store("sqlite://") as target:
        await add(source, said)
        lines = await exported(source)
        assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
        await imported(target, lines)
        assert await target.get(said.id) == said  # datetimes are equal where the instant is
        assert (await target.get(said.id)).at.utcoffset() == timedelta(minutes=53)


LOCAL_MEAN_TIME = timezone(timedelta(minutes=53, seconds=28))


async def test_nothing_is_exported_and_imported() -> None:
    """A store that is new gives a header and an end, which any store takes."""
    async with open_store("sqlite://") as source, open_store("sqlite://") as target:
        lines = await exported(source)
        assert [json.loads(line) for line in lines] == [
            {"format": "ollama-async-mem", "version": 1, "space": None, "counts": {"turns": 0, "facts": 0}},
            {"line": "end", "turns": 0, "facts": 0, "jobs": 0},
        ]
        assert await imported(target, lines) == CopyReport()
        assert await target.embedding_space() is None
        await add(target, turn())
        assert await imported(target, lines) == CopyReport()


async def test_lines_as_other_programs_write_them() -> None:
    """Blank lines, other line ends and no line end at all are read, and progress is told."""
    seen: list[tuple[int, int]] = []
    async with open_store("sqlite://") as source, open_store("sqlite://") as target:
        await a_few(source)
        lines = [part for line in await exported(source) for part in (line.strip() + b"\r\n", b"\r\n", b"")]
        report = await imported(target, lines, on_progress=lambda done, total: seen.append((done, total)))
        assert report == CopyReport(turns=5, jobs=1, new=5)
        assert seen == [(2, 5), (4, 5), (5, 5), (5, 5)]
        await assert_same(source, target, Scope())


def edited(text: bytes, /, **changes: Any) -> bytes:
    """A line with fields of it, or of its memory, changed."""
    value = json.loads(text)
    for name, change in changes.items():
        place = value if name in value else value["memory"]
        place[name] = change
    return json.dumps(value).encode()


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "no JSON": lambda line: line[:-20],
    "an array": lambda _: b"[]",
    "no UTF-8": lambda line: line.replace(b"peanut", b"\xff"),
    "half a surrogate pair and no JSON": lambda line: line.replace(b"peanut", b"\\ud800")[:-9],
    "deeply nested": lambda _: b"[" * 200_000 + b"\\ud800",
    "unknown line": lambda line: edited(line, line="memo"),
    "unknown kind": lambda line: edited(line, kind="guess"),
    "no id": lambda line: edited(line, id=None),
    "no time": lambda line: edited(line, at="yesterday"),
    "no base64": lambda line: edited(line, vector="*"),
    "no vector": lambda line: edited(line, vector=""),
    "short vector": lambda line: edited(line, vector="AAAA"),
    "event of another": lambda line: edited(
        line, events=[{"memory_id": "x", "kind": "updated", "at": "2026-03-01T09:30:00Z"}]
    ),
    "another header": lambda _: FORMAT.encode().splitlines()[0],
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_bad_line_is_named_and_its_batch_is_not_stored(wrong: str) -> None:
    """The error has the number of the line; what came in batches before it is stored, and the rest follows later."""
    async with open_store("sqlite://") as source, open_store("sqlite://") as target:
        await a_few(source)
        lines = await exported(source)
        bad = [*lines[:4], WRONG[wrong](lines[4]), *lines[5:]]
        with pytest.raises(ConfigError, match=r"^line 5: "):
            await imported(target, bad)
        assert sorted(await everything(target, ALICE)) == ["peanut 0", "peanut 1"]
        assert (await imported(target, lines)).new == 3
        await assert_same(source, target, Scope())


@pytest.mark.parametrize(
    "wrong", [{"vector": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}, {"at": "2026-03-01T09:30:00"}]
)
async def test_what_the_store_refuses_is_not_stored_with_its_batch(wrong: dict[str, str]) -> None:
    """A vector without direction, or a time without a zone, is the store's to refuse."""
    async with open_store("sqlite://") as source, open_store("sqlite://") as target:
        await a_few(source)
        lines = await exported(source)
        with pytest.raises(StoreError):
            await imported(target, [*lines[:4], edited(lines[4], **wrong), *lines[5:]])
        assert sorted(await everything(target, ALICE)) == ["peanut 0", "peanut 1"]


async def test_a_file_that_was_cut_off_is_never_taken_for_whole() -> None:
    """Wherever a file ends before its end, that is an error, and the whole file brings what is missing."""
    async with open_store("sqlite://") as source:
        await a_few(source)
        lines = await exported(source)
        for number, line in enumerate(lines):
            for rest in (b"", line[:1], line[: len(line) // 2], line[:-2]):
                async with open_store("sqlite://") as target:
                    with pytest.raises(ConfigError):
                        await imported(target, [*lines[:number], rest])
                    await imported(target, lines)
                    await assert_same(source, target, Scope())


@pytest.mark.parametrize("number", range(1, 7))
async def test_a_line_that_is_missing_or_too_much_is_seen(number: int) -> None:
    """The end counts what was before it, and nothing may come after it."""
    async with open_store("sqlite://") as source:
        await a_few(source)
        lines = await exported(source)
    for some in ([*lines[:number], *lines[number + 1 :]], [*lines[:number], *lines[number:][:1], *lines[number:]]):
        async with open_store("sqlite://") as target:
            with pytest.raises(ConfigError, match="the end counts 5 turns, 0 facts and 1 jobs"):
                await imported(target, some)
    async with open_store("sqlite://") as target:
        with pytest.raises(ConfigError, match="line 9 comes after the end"):
            await imported(target, [*lines, *lines])


@pytest.mark.parametrize(
    ("first", "error", "words"),
    [
        (b"", ConfigError, "header"),
        (b"{}", ConfigError, "header"),
        (b'{"role": "user", "content": "hello"}', ConfigError, "header"),
        (
            b'{"format": "another", "version": 1, "space": null, "counts": {"turns": 0, "facts": 0}}',
            ConfigError,
            "anoth",
        ),
        (
            b'{"format": "another", "version": 7, "space": null, "counts": {"turns": 0, "facts": 0}}',
            ConfigError,
            "anoth",
        ),
        (b'{"format": "ollama-async-mem", "version": 0}', ConfigError, "header"),
        (b'{"format": "ollama-async-mem", "version": 1}', ConfigError, "header"),
        (b'{"format": "ollama-async-mem", "version": 2, "new": []}', SchemaTooNew, "upgrade"),
    ],
)
async def test_other_files_are_refused(first: bytes, error: type[Exception], words: str) -> None:
    """What is not an export, or one of a newer version, is told apart before anything is stored."""
    async with open_store("sqlite://") as store:
        with pytest.raises(error, match=words):
            await imported(store, [first, *FORMAT.encode().splitlines()[1:]])
        assert await store.counts(Scope()) == Counts(0, 0)


def without_vectors(lines: Sequence[bytes]) -> list[bytes]:
    """Lines as a program writes them that knows no vectors."""
    return [
        edited(lines[0], space=None),
        *(edited(line, vector="") if b'"vector"' in line else line for line in lines[1:]),
    ]


async def test_lines_without_vectors_need_something_that_makes_them() -> None:
    """Without `embed` they are refused at the first memory."""
    async with open_store("sqlite://") as source, open_store("sqlite://") as target:
        await a_few(source)
        lines = await exported(source)
        with pytest.raises(ConfigError, match=r"line 2: .* no vector"):
            await imported(target, without_vectors(lines))
        with pytest.raises(ConfigError, match="together"):
            await imported(target, lines, space=OTHER_SPACE)
        assert await target.counts(Scope()) == Counts(0, 0)


@pytest.mark.parametrize("has_vectors", [True, False])
async def test_vectors_are_made_anew_for_what_is_new(has_vectors: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """Lines with no vectors, or those of another model, go into a store of this model; nothing is embedded twice."""
    asked: list[str] = []

    async def embed(memories: Sequence[MemoryRecord]) -> list[Vector]:
        asked.extend(memory.text for memory in memories)
        return [np.array([1, len(memory.text)], np.float32) for memory in memories]

    async with open_store("sqlite://") as source, open_store("sqlite://") as target:
        await fill(source)
        lines = await exported(source) if has_vectors else without_vectors(await exported(source))
        report = await imported(target, lines, space=OTHER_SPACE, embed=embed)
        texts = [one.memory.text for one in await dump_all(source)]
        assert sorted(asked) == sorted(texts)
        assert report.new == len(texts)
        assert await target.embedding_space() == OTHER_SPACE
        assert await everything(target, Scope()) == await everything(source, Scope())
        assert await target.dump_jobs(Scope()) == await source.dump_jobs(Scope())
        assert await target.check() == []
        assert (await imported(target, lines, space=OTHER_SPACE, embed=embed)).new == 0
        assert len(asked) == len(texts)


async def test_vectors_that_fit_are_taken_as_they_are() -> None:
    """Where the lines have vectors of the space that is asked for, nothing is embedded."""

    async def embed(_: Sequence[MemoryRecord]) -> list[Vector]:
        raise AssertionError("nothing needs to be embedded")

    async with open_store("sqlite://") as source, open_store("sqlite://") as target:
        await a_few(source)
        await imported(target, await exported(source), space=SPACE, embed=embed)
        await assert_same(source, target, Scope())
