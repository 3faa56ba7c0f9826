"""Moving memories: from store to store and through JSON lines, whole, stopped in the middle, and while others write."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from ollama_async_mem.errors import ConfigError, EmbeddingMismatch, SchemaTooNew, StoreError
from ollama_async_mem.records import (
    Change,
    Counts,
    EmbeddingSpace,
    Event,
    Fact,
    MemoryRecord,
    Scope,
    Selection,
    StoredJob,
    StoredMemory,
    Turn,
)
from ollama_async_mem.stores import open_store
from ollama_async_mem.stores.transfer import CopyReport, copy_store, export_lines, import_lines
from stores.samples import (
    ALICE,
    BOB,
    DIMENSION,
    LEASE,
    MODEL,
    START,
    add,
    axis,
    claim,
    dump_all,
    everything,
    fact,
    learn,
    turn,
)
from stores.test_contract_lifetime import cancelled_at
from stores.test_contract_transfer import assert_same, by_id, fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from ollama_async_mem.ports import MemoryStore
    from stores.samples import MakeStore, Vector

SPACE = EmbeddingSpace(MODEL, DIMENSION)
OTHER_SPACE = EmbeddingSpace("other", 2)


async def stream(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Lines as a file gives them."""
    for line in lines:
        yield line


async def exported(store: MemoryStore, scope: Scope = Scope(), batch: int = 4) -> list[bytes]:  # noqa: B008 - frozen
    """All lines of a scope."""
    return [line async for line in export_lines(store, scope, batch=batch)]


async def imported(store: MemoryStore, lines: Iterable[bytes], **options: Any) -> CopyReport:
    """Store lines, two in a batch."""
    return await import_lines(store, stream(lines), batch=2, **options)


async def a_few(store: MemoryStore, count: int = 5) -> list[Turn]:
    """Add some turns, and a job for the last two."""
    said = [turn(f"peanut {i}", minute=i) for i in range(count)]
    await add(store, *said[:-2])
    await add(store, *said[-2:], extract=True)
    return said


# From store to store


@pytest.mark.parametrize(("scope", "batch"), [(Scope(), 1), (Scope(), 500), (ALICE, 4)])
async def test_there_and_back_everything_is_the_same(make_store: MakeStore, scope: Scope, batch: int) -> None:
    """A copy of a copy by way of another kind of store has all of a scope, with hostile texts, and nothing else."""
    async with open_store("sqlite://") as first, make_store() as second, open_store("sqlite://") as third:
        await fill(first)
        there = await copy_store(first, second, scope=scope, batch=batch)
        back = await copy_store(second, third, scope=scope, batch=batch)
        await assert_same(first, second, scope)
        await assert_same(first, third, scope)
        assert by_id(await dump_all(third)) == by_id(await dump_all(first, scope))
        counts = await first.counts(scope)
        assert (there.turns, there.facts, there.new) == (counts.turns, counts.facts, counts.turns + counts.facts)
        assert there.jobs == len(await first.dump_jobs(scope)) > 0
        assert back == there
        assert await second.check() == await third.check() == []


async def test_again_it_copies_what_is_missing_only(make_store: MakeStore) -> None:
    """What is in the target, also when it was changed there, is left as it is; what came since is added."""
    async with open_store("sqlite://") as source, make_store() as target:
        said = await a_few(source)
        mine = turn("my own", BOB)
        await add(target, mine)
        assert (await copy_store(source, target)).new == 5
        changed = await target.update(said[0].id, Change(text="walnut"), vector=axis(0, 1), model=MODEL)
        await add(source, turn("later", minute=9))
        assert await copy_store(source, target, batch=2) == CopyReport(turns=6, jobs=1, new=1)
        assert await target.get(said[0].id) == changed
        assert await everything(target, BOB) == ["my own"]
        assert await everything(target, ALICE) == ["later", *(f"peanut {i}" for i in range(4, 0, -1)), "walnut"]


@settings(max_examples=30, deadline=None, suppress_health_check=[*HealthCheck])
@given(batch=st.integers(1, 12), cuts=st.lists(st.integers(1, 120), max_size=4))
def test_stopped_anywhere_it_goes_on(batch: int, cuts: list[int]) -> None:
    """However often a copy is cancelled, wherever it waits, the next one brings the rest."""

    async def check() -> None:
        async with open_store("sqlite://") as source, open_store("sqlite://") as target:
            await fill(source)
            for cut in cuts:
                await cancelled_at(cut, copy_store(source, target, batch=batch))
                assert await target.check() == []
            await copy_store(source, target, batch=batch)
            await assert_same(source, target, Scope())

    asyncio.run(check())


async def test_five_thousand_with_progress(tmp_path: Path) -> None:
    """From file to file; the count rises to the total, and what the second try finds there is not new."""
    seen: list[tuple[int, int]] = []
    async with open_store(tmp_path / "a.db") as source, open_store(tmp_path / "b.db") as target:
        said = [turn(f"peanut {i}", Scope(f"u{i % 7}")) for i in range(5000)]
        vectors = list(np.random.default_rng(1).standard_normal((5000, DIMENSION)).astype(np.float32))
        await source.add_turns(said, vectors, model=MODEL)
        report = await copy_store(source, target, on_progress=lambda done, total: seen.append((done, total)))
        assert report == CopyReport(turns=5000, new=5000)
        assert seen == [(done, 5000) for done in range(500, 5001, 500)]
        assert (await copy_store(source, target)).new == 0
        assert by_id(await dump_all(source, limit=5000)) == by_id(await dump_all(target, limit=5000))


async def test_a_store_that_holds_nothing(make_store: MakeStore) -> None:
    """Nothing is copied from a store that is new, or was emptied, or has nothing of the scope."""
    async with make_store() as source, open_store("sqlite://") as target:
        assert await copy_store(source, target) == CopyReport()
        await add(source, turn())
        assert await copy_store(source, target, scope=BOB) == CopyReport()
        await source.delete_all(Selection(everything=True))
        assert await copy_store(source, target) == CopyReport()
        assert await target.counts(Scope()) == Counts(0, 0)


@pytest.mark.parametrize("other", [EmbeddingSpace("other", DIMENSION), EmbeddingSpace(MODEL, 3)])
async def test_vectors_of_another_space_are_refused(make_store: MakeStore, other: EmbeddingSpace) -> None:
    """A target that is bound to another model or dimension is told before anything is written."""
    async with open_store("sqlite://") as source, make_store() as target:
        await fill(source)
        theirs = turn()
        await target.add_turns([theirs], [np.ones(other.dimension, np.float32)], model=other.model)
        await target.delete(theirs.id)
        for move in (copy_store(source, target), imported(target, await exported(source))):
            with pytest.raises(EmbeddingMismatch, match=MODEL):
                await move
        assert await target.counts(Scope()) == Counts(0, 0)


async def test_what_has_other_vectors_there_is_not_passed_over(make_store: MakeStore) -> None:
    """Where the target has the same memories, but with vectors of another model, there is nothing to go on with."""

    async def embed(memories: Sequence[MemoryRecord]) -> list[Vector]:
        return [np.ones(OTHER_SPACE.dimension, np.float32) for _ in memories]

    async with open_store("sqlite://") as source, make_store() as target:
        await a_few(source)
        lines = await exported(source)
        await imported(target, lines, space=OTHER_SPACE, embed=embed)
        for move in (copy_store(source, target), imported(target, lines)):
            with pytest.raises(EmbeddingMismatch, match="other with 2"):
                await move


async def test_what_does_not_arrive_is_told(make_store: MakeStore) -> None:
    """Where another scope has an id already, that memory is not copied, and the error has both counts."""
    async with open_store("sqlite://") as source, make_store() as target:
        said = await a_few(source)
        await add(target, replace(said[1], scope=BOB))
        with pytest.raises(StoreError, match=r"5 turns and 0 facts .* has 4 and 0"):
            await copy_store(source, target, scope=ALICE)


async def test_others_write_meanwhile(make_store: MakeStore) -> None:
    """What stays while a copy runs arrives, whatever comes, changes and goes; and what arrives is sound."""
    async with make_store() as source, open_store("sqlite://") as target:
        said = [turn(f"peanut {i}", minute=i) for i in range(40)]
        await add(source, *said)
        done = asyncio.Event()

        async def write() -> None:
            for i in range(0, 40, 2):
                await source.delete(said[i].id)
                await add(source, turn(f"new {i}", minute=i), extract=True)
                await source.update(said[i + 1].id, Change(metadata={"seen": True}))
            done.set()

        writing = asyncio.create_task(write())
        report = await copy_store(source, target, batch=2)
        await writing
        assert {one.id for one in said[1::2]} <= {one.memory.id for one in await dump_all(target)}
        assert report.turns == report.new == (await target.counts(Scope())).turns
        assert await target.check() == []


async def test_no_turn_is_left_without_its_facts(make_store: MakeStore) -> None:
    """The job of a turn comes along where its facts came too late to be read, and where it came late with the turn."""
    async with make_store() as source, open_store("sqlite://") as target:
        await learn(source, fact("known", at=START + LEASE))
        early, late = turn("early"), turn("late", minute=1)
        await add(source, early, extract=True)
        lines: list[bytes] = []
        async with aclosing(export_lines(source, batch=1)) as moving:
            async for line in moving:
                lines.append(line)
                if b"early" in line:
                    await add(source, late, extract=True)
                if b"known" in line:
                    missed = fact("missed", turn_ids=(early.id,))  # it lies before the one that was just read
                    await source.finish_job(await claim(source), [missed], [axis(1)], model=MODEL)
        assert len(await source.dump_jobs(Scope())) == 1
        await imported(target, lines)
        assert sorted(await everything(target, ALICE)) == ["early", "known", "late"]
        assert [job.turn_ids for job in await target.dump_jobs(Scope())] == [(early.id,), (late.id,)]


# Through JSON lines


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
    known = Fact(id="f", scope=Scope("ann"), text="Tea.", at=START, created_at=START, quote="tea", turn_ids=("t",))
    happened = Event(memory_id="f", kind="superseded", at=START, by="g")
    job = StoredJob(id="j", scope=Scope("ann"), turn_ids=("t",), state="dead", attempts=3, error="away")
    async with open_store("sqlite://") as store:
        # The job first: turns that have facts need none
        await store.load([StoredMemory(memory=said, vector=axis(1).tobytes())], [job], space=SPACE)
        await store.load([StoredMemory(memory=known, vector=axis(0, 1).tobytes(), events=(happened,))], space=SPACE)
        assert b"".join(await exported(store)).decode() == FORMAT
    async with open_store("sqlite://") as store:
        await imported(store, FORMAT.encode().splitlines())
        assert [one.memory for one in await dump_all(store)] == [said, known]
        assert await store.history("f") == [Event(memory_id="f", kind="added", at=START, new="Tea."), happened]


FORMAT = """\
{"format":"ollama-async-mem","version":1,"space":{"model":"embedder:1","dimension":8},"counts":{"turns":1,"facts":1}}
{"line":"memory","memory":{"kind":"turn","id":"t","scope":{"user_id":"ann","agent_id":null,"run_id":null},\
"role":"user","text":"tea","at":"2026-05-01T18:30:00-05:00","created_at":"2026-03-01T09:30:00Z","speaker":null,\
"metadata":{"a":[1.5]},"expires_at":null},"vector":"AACAPwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","events":[]}
{"line":"memory","memory":{"kind":"fact","id":"f","scope":{"user_id":"ann","agent_id":null,"run_id":null},\
"text":"Tea.","at":"2026-03-01T09:30:00Z","created_at":"2026-03-01T09:30:00Z","quote":"tea","turn_ids":["t"],\
"valid_to":null,"metadata":{},"expires_at":null},"vector":"AAAAAAAAgD8AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",\
"events":[{"memory_id":"f","kind":"superseded","at":"2026-03-01T09:30:00Z","old":null,"new":null,"actor":null,\
"cause":null,"by":"g"}]}
{"line":"job","id":"j","scope":{"user_id":"ann","agent_id":null,"run_id":null},"turn_ids":["t"],"state":"dead",\
"attempts":3,"error":"away"}
{"line":"end","turns":1,"facts":1,"jobs":1}
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
