"""What a store does, in plain Python: a dict that is looked through from end to end.

It is neither fast nor durable, and what a store refuses because it could not keep it, it does not know.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, Self

import msgspec
import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from ollama_async_mem.counts import Counts, ScopeCounts, Statistics
from ollama_async_mem.errors import RecordNotFound, StoreError
from ollama_async_mem.records import (
    Candidate,
    EmbeddingSpace,
    Event,
    Fact,
    Job,
    JobStatus,
    Page,
    Reinforcement,
    Scope,
    Selection,
    StoredJob,
    StoredMemory,
    Supersession,
    Turn,
    new_id,
)
from stores.meaning import place_of, selected, spoken, within

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Sequence

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Change, MemoryRecord, Sort

__all__ = ["ModelStore"]


class Row(msgspec.Struct):
    """A memory, its vector, and what happened to it since it was added. A higher `seq` was stored later."""

    seq: int
    memory: MemoryRecord
    vector: Vector
    events: list[Event]


class Task(msgspec.Struct):
    """A job; `due` is when it may be claimed, `claim` the number of the last claim, which may have ended."""

    id: str
    scope: Scope
    turn_ids: list[str]
    state: Literal["queued", "dead"] = "queued"
    attempts: int = 0
    due: datetime | None = None
    claim: int = 0
    is_held: bool = False
    error: str | None = None

    @property
    def status(self) -> JobStatus:
        due = None if self.state == "dead" else self.due
        return JobStatus(
            id=self.id, scope=self.scope, state=self.state, attempts=self.attempts, due_at=due, error=self.error
        )


class ModelStore:
    """All memories in a dict. `job_id` is the id of the next job, where a test wants it to be that of another store."""

    location = "a dict"

    def __init__(self) -> None:
        self.job_id: str | None = None
        self._rows: dict[str, Row] = {}
        self._past: dict[str, list[Event]] = {}
        self._jobs: dict[str, Task] = {}
        self._finished: set[str] = set()
        self._seq = 0
        self._space: EmbeddingSpace | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def embedding_space(self) -> EmbeddingSpace | None:
        return self._space

    async def add_turns(
        self,
        turns: Sequence[Turn],
        vectors: Sequence[Vector],
        *,
        model: str,
        extract: bool = False,
        prompt: str | None = None,
    ) -> str | None:
        self._insert(turns, [unit(vector) for vector in vectors], model)
        if not (extract and turns):
            return None
        job = Task(self.job_id or new_id(), turns[0].scope, [turn.id for turn in turns])
        self._jobs[job.id] = job
        return job.id

    def _insert(self, memories: Sequence[MemoryRecord], vectors: Sequence[Vector], model: str) -> None:
        if len({memory.id for memory in memories} - self._rows.keys()) < len(memories):
            raise StoreError("an id is taken")
        for memory, vector in zip(memories, vectors, strict=True):
            self._space = EmbeddingSpace(model, vector.size)
            self._seq += 1
            self._rows[memory.id] = Row(self._seq, self._linked(memory), vector, [])

    def _linked(self, memory: MemoryRecord) -> MemoryRecord:
        """A memory without the turns that are not there."""
        return replace(memory, turn_ids=self._present(memory.turn_ids)) if isinstance(memory, Fact) else memory

    def _present(self, turn_ids: Iterable[str]) -> tuple[str, ...]:
        return tuple(t for t in turn_ids if t in self._rows and self._rows[t].memory.kind == "turn")

    async def update(
        self,
        memory_id: str,
        change: Change,
        *,
        vector: Vector | None = None,
        model: str = "",
        extract: bool | None = False,
        actor: str | None = None,
        cause: str | None = None,
    ) -> MemoryRecord:
        row = self._row(memory_id)
        before = row.memory
        event = Event(memory_id=memory_id, kind="updated", at=datetime.now(UTC), actor=actor, cause=cause)
        if change.text is not UNSET:
            if vector is None:
                raise StoreError("a new text came without a vector")
            event = replace(event, old=row.memory.text, new=change.text)
            row.memory = replace(row.memory, text=change.text, dates=change.dates)
        if vector is not None:
            row.vector = unit(vector)
        if change.metadata is not UNSET:
            kept = {key: value for key, value in row.memory.metadata.items() if key not in change.metadata}
            added = {key: value for key, value in change.metadata.items() if value is not None}
            row.memory = replace(row.memory, metadata=kept | added)
        if change.expires_at is not UNSET:
            row.memory = replace(row.memory, expires_at=change.expires_at)
        row.events.append(event)
        if isinstance(before, Turn) and row.memory.text != before.text:
            extract = self._was_to_be_read(before) if extract is None else extract
            self._forget_in_facts(before.id, actor, "its message was changed")
            self._begin_anew(before, extract=extract)
        return row.memory

    def _was_to_be_read(self, turn: Turn) -> bool:
        told = [turn.id in r.memory.turn_ids for r in self._rows.values() if isinstance(r.memory, Fact)]
        return any(told) or any(turn.id in job.turn_ids for job in self._jobs.values())

    def _begin_anew(self, turn: Turn, *, extract: bool) -> None:
        waiting = [job for job in self._jobs.values() if job.state == "queued" and turn.id in job.turn_ids]
        for job in waiting:
            if job.is_held:
                job.attempts, job.due, job.is_held = job.attempts - 1, None, False
        if extract and not waiting:
            job = Task(self.job_id or new_id(), turn.scope, [turn.id])
            self._jobs[job.id] = job

    def _row(self, memory_id: str) -> Row:
        if memory_id not in self._rows:
            raise RecordNotFound(memory_id)
        return self._rows[memory_id]

    async def supersede(self, supersessions: Sequence[Supersession], *, actor: str | None = None) -> None:
        for said in supersessions:
            if not isinstance(self._row(said.fact_id).memory, Fact):
                raise RecordNotFound(said.fact_id)
        for said in supersessions:
            self._end(said, actor)

    def _end(self, said: Supersession, actor: str | None = None) -> None:
        row = self._rows.get(said.fact_id)
        if row is None or not isinstance(row.memory, Fact):
            return
        if row.memory.valid_to is None or row.memory.valid_to > said.valid_to:
            row.memory = replace(row.memory, valid_to=said.valid_to)
            event = Event(memory_id=said.fact_id, kind="superseded", at=datetime.now(UTC), actor=actor)
            row.events.append(replace(event, cause=said.cause, by=said.by))

    async def delete(self, memory_id: str, *, actor: str | None = None, cause: str | None = None) -> None:
        self._destroy(self._row(memory_id), actor, cause)

    def _destroy(self, row: Row, actor: str | None, cause: str | None) -> None:
        gone = row.memory.id
        del self._rows[gone]
        added = Event(memory_id=gone, kind="added", at=row.memory.created_at)
        deleted = Event(memory_id=gone, kind="deleted", at=datetime.now(UTC), actor=actor, cause=cause)
        blanked = [replace(event, old=None, new=None) for event in row.events]
        self._past[gone] = [*self._past.get(gone, []), added, *blanked, deleted]
        for job in self._jobs.values():
            job.turn_ids = [turn_id for turn_id in job.turn_ids if turn_id != gone]
        self._forget_in_facts(gone, actor, "its messages were deleted")

    def _forget_in_facts(self, gone: str, actor: str | None, cause: str) -> None:
        for other in [*self._rows.values()]:
            if isinstance(other.memory, Fact) and gone in other.memory.turn_ids:
                left = tuple(turn_id for turn_id in other.memory.turn_ids if turn_id != gone)
                is_said = any(other.memory.quote in self._rows[turn_id].memory.text for turn_id in left)
                other.memory = replace(other.memory, turn_ids=left, quote=other.memory.quote if is_said else "")
                if not left:
                    self._destroy(other, actor, cause)

    async def delete_all(self, selection: Selection, *, actor: str | None = None, cause: str | None = None) -> int:
        return self._destroy_all(self._selected(selection), actor, cause)

    def _destroy_all(self, doomed: Sequence[Row], actor: str | None, cause: str | None) -> int:
        for row in sorted(doomed, key=lambda row: row.memory.kind):  # facts go for this cause, not for their turns'
            self._destroy(row, actor, cause)
        return len(doomed)

    def _selected(self, selection: Selection) -> builtins.list[Row]:
        now = datetime.now(UTC)
        return [row for row in self._rows.values() if selected(row.memory, selection, now)]

    async def purge_expired(self, *, now: datetime) -> int:
        doomed = [row for row in self._rows.values() if row.memory.expires_at and row.memory.expires_at <= now]
        return self._destroy_all(doomed, None, "expired")

    async def dense_candidates(
        self, selection: Selection, vector: Vector, *, model: str, limit: int
    ) -> builtins.list[Candidate]:
        query = unit(vector)
        return best([(row.memory, float(row.vector @ query)) for row in self._selected(selection)], limit)

    async def keyword_candidates(self, selection: Selection, query: str, *, limit: int) -> builtins.list[Candidate]:
        rows, words = self._selected(selection), set(query.lower().split())
        shared = [(row.memory, float(len(words & set(spoken(row.memory).lower().split())))) for row in rows]
        return best([(memory, score) for memory, score in shared if score], limit)

    async def get(self, memory_id: str) -> MemoryRecord:
        return self._row(memory_id).memory

    async def get_many(self, memory_ids: Sequence[str]) -> builtins.list[MemoryRecord]:
        return [self._rows[memory_id].memory for memory_id in memory_ids if memory_id in self._rows]

    async def list(self, selection: Selection, *, limit: int, cursor: str | None = None, sort: Sort = "-at") -> Page:
        name, descending = sort.removeprefix("-"), sort.startswith("-")
        memories = [row.memory for row in self._selected(selection)]
        memories.sort(key=lambda memory: (getattr(memory, name), memory.id), reverse=descending)
        start = int(cursor or 0)
        more = str(start + limit) if len(memories) > start + limit else None
        return Page(tuple(memories[start : start + limit]), more)

    async def neighbours(
        self, turn_ids: Sequence[str], *, before: int = 1, after: int = 1
    ) -> dict[str, builtins.list[Turn]]:
        turns = [row.memory for row in self._rows.values() if isinstance(row.memory, Turn)]
        return {turn.id: around(turn, turns, before, after) for turn in turns if turn.id in turn_ids}

    async def history(self, memory_id: str) -> builtins.list[Event]:
        past = self._past.get(memory_id, [])
        if memory_id not in self._rows and not past:
            raise RecordNotFound(memory_id)
        if (row := self._rows.get(memory_id)) is None:
            return past
        said = next((event.old for event in row.events if event.old is not None), row.memory.text)
        added = Event(memory_id=memory_id, kind="added", at=row.memory.created_at, new=said)
        return [*past, added, *row.events]

    async def counts(self, scope: Scope) -> Counts:
        return Counts(*numbers(row.memory for row in self._rows.values() if within(row.memory.scope, scope)))

    async def scopes(self, scope: Scope, *, limit: int, after: Scope | None = None) -> builtins.list[ScopeCounts]:
        memories = [row.memory for row in self._rows.values() if within(row.memory.scope, scope)]
        found = sorted({memory.scope for memory in memories}, key=place_of)
        groups = {scope: [memory for memory in memories if memory.scope == scope] for scope in found}
        told = [ScopeCounts(scope, *numbers(them), max(m.at for m in them)) for scope, them in groups.items()]
        return [counts for counts in told if after is None or place_of(counts.scope) > place_of(after)][:limit]

    async def statistics(self) -> Statistics:
        now, memories = datetime.now(UTC), [row.memory for row in self._rows.values()]
        turns, facts = numbers(memories)
        states = [job.state for job in self._jobs.values()]
        return Statistics(
            turns=turns,
            facts=facts,
            superseded=sum(m.valid_to is not None and m.valid_to <= now for m in memories if isinstance(m, Fact)),
            expired=sum(m.expires_at is not None and m.expires_at <= now for m in memories),
            scopes=len({memory.scope for memory in memories}),
            jobs_queued=states.count("queued"),
            jobs_dead=states.count("dead"),
            size_bytes=1,
            schema_version=1,
            space=self._space,
        )

    async def claim_jobs(self, *, now: datetime, lease: timedelta, limit: int) -> builtins.list[Job]:
        waiting = [job for job in self._jobs.values() if job.due and job.due > now]
        held = {owner(job.scope) for job in waiting if job.is_held}
        queued = [job for job in self._jobs.values() if job.state == "queued" and job not in waiting]
        due = [job for job in queued if owner(job.scope) not in held]
        taken = [job for job in due if job.scope == due[0].scope][:limit]
        for job in taken:
            job.claim, job.attempts, job.due, job.is_held = job.claim + 1, job.attempts + 1, now + lease, True
        return [msgspec.convert(job, Job, from_attributes=True) for job in taken]

    async def renew_jobs(self, jobs: Sequence[Job], *, now: datetime, lease: timedelta) -> None:
        for held in [self._held(job) for job in jobs]:
            if held is not None:
                held.due = now + lease

    def _held(self, job: Job) -> Task | None:
        if job.id not in self._jobs and job.id not in self._finished:
            raise StoreError(f"no job has the id {job.id!r}")
        held = self._jobs.get(job.id)
        return held if held and held.is_held and held.claim == job.claim else None

    async def finish_jobs(
        self,
        jobs: Sequence[Job],
        facts: Sequence[Fact],
        vectors: Sequence[Vector],
        *,
        model: str,
        superseded: Sequence[Supersession] = (),
        reinforced: Sequence[Reinforcement] = (),
    ) -> bool:
        if None in [self._held(job) for job in jobs]:
            return False
        kept = [i for i, fact in enumerate(facts) if self._present(fact.turn_ids) or not fact.turn_ids]
        self._insert([facts[i] for i in kept], [unit(vectors[i]) for i in kept], model)
        skipped = {fact.id for fact in facts} - {facts[i].id for i in kept}
        for said in superseded:
            if said.by not in skipped:
                self._end(said)
        for again in reinforced:
            self._reinforce(again)
        for job in jobs:
            self._finish(job.id)
        return True

    def _reinforce(self, said: Reinforcement) -> None:
        row = self._rows.get(said.fact_id)
        if row is None or not isinstance(row.memory, Fact):
            return
        turn_ids = tuple(dict.fromkeys((*row.memory.turn_ids, *self._present(said.turn_ids))))
        if len(turn_ids) > len(row.memory.turn_ids):
            row.memory = replace(row.memory, turn_ids=turn_ids)
            row.events.append(Event(memory_id=said.fact_id, kind="reinforced", at=said.at, cause=said.cause))

    def _finish(self, job_id: str) -> None:
        del self._jobs[job_id]
        self._finished.add(job_id)

    async def release_jobs(self, jobs: Sequence[Job], *, error: str, retry_at: datetime | None) -> None:
        for held in [self._held(job) for job in jobs]:
            if held is not None:
                held.state, held.error = "dead" if retry_at is None else "queued", error
                held.due, held.is_held = retry_at, False

    async def return_jobs(self, jobs: Sequence[Job]) -> None:
        for held in [self._held(job) for job in jobs]:
            if held is not None:
                held.attempts, held.due, held.is_held = held.attempts - 1, None, False

    async def revive_jobs(self, *, dead: bool = True) -> int:
        given_up = [job for job in self._jobs.values() if dead and job.state == "dead"]
        put_off = [job for job in self._jobs.values() if job.state == "queued" and job.due and not job.is_held]
        for job in given_up:
            job.state, job.attempts = "queued", 0
        for job in (*given_up, *put_off):
            job.due = None
        return len(given_up) + len(put_off)

    async def pending_jobs(self) -> int:
        return [job.state for job in self._jobs.values()].count("queued")

    async def unfinished_jobs(self, *, limit: int = 100) -> builtins.list[JobStatus]:
        return [job.status for job in self._jobs.values()][:limit]

    async def job_status(self, job_id: str) -> JobStatus | None:
        if job_id not in self._jobs and job_id not in self._finished:
            raise StoreError(f"no job has the id {job_id!r}")
        return self._jobs[job_id].status if job_id in self._jobs else None

    async def dump(
        self, scope: Scope, *, limit: int, cursor: str | None = None
    ) -> tuple[builtins.list[StoredMemory], str | None]:
        after = int(cursor or 0)
        rows = [row for row in self._rows.values() if within(row.memory.scope, scope) and row.seq > after]
        stored = [StoredMemory(memory=r.memory, vector=r.vector.tobytes(), events=tuple(r.events)) for r in rows]
        return stored[:limit], str(rows[limit - 1].seq) if len(rows) > limit else None

    async def dump_jobs(self, scope: Scope) -> builtins.list[StoredJob]:
        jobs = [job for job in self._jobs.values() if within(job.scope, scope)]
        return [msgspec.convert(job, StoredJob, from_attributes=True) for job in jobs]

    async def load(
        self, memories: Sequence[StoredMemory], jobs: Sequence[StoredJob] = (), *, space: EmbeddingSpace
    ) -> int:
        new = [stored for stored in memories if stored.memory.id not in self._rows]
        vectors = [np.frombuffer(stored.vector, np.float32) for stored in new]
        self._insert([stored.memory for stored in new], vectors, space.model)
        for stored in new:
            self._rows[stored.memory.id].events = [*stored.events]
        drawn = {t for row in self._rows.values() if isinstance(row.memory, Fact) for t in row.memory.turn_ids}
        for job in jobs:
            turns = self._present(job.turn_ids)
            if turns and drawn.isdisjoint(turns):
                queued = msgspec.convert(job, Task, from_attributes=True)
                self._jobs.setdefault(job.id, replace(queued, turn_ids=[*turns]))
        return len(new)

    async def backup(self, path: str) -> None:
        raise StoreError("a dict is not backed up")

    async def optimize(self) -> None:
        pass

    async def check(self) -> builtins.list[str]:
        return []


def owner(scope: Scope) -> Scope:
    """Whose jobs are worked off one after the other."""
    return scope if scope.user_id is None and scope.agent_id is None else replace(scope, run_id=None)


def around(turn: Turn, turns: Iterable[Turn], before: int, after: int) -> list[Turn]:
    """The turns of the same scope next to one, but expired ones."""
    now = datetime.now(UTC)
    near = [t for t in turns if t.scope == turn.scope and (t is turn or not t.expires_at or t.expires_at > now)]
    near.sort(key=lambda t: (t.at, t.id))
    place = near.index(turn)
    return near[max(place - before, 0) : place] + near[place + 1 : place + 1 + after]


def unit(vector: Vector) -> Vector:
    """A vector of length one."""
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def best(scored: Iterable[tuple[MemoryRecord, float]], limit: int) -> list[Candidate]:
    """The best memories by their score."""
    return [Candidate(*pair) for pair in sorted(scored, key=lambda pair: -pair[1])[:limit]]


def numbers(memories: Iterable[MemoryRecord]) -> tuple[int, int]:
    """How many turns and facts there are."""
    kinds = [memory.kind for memory in memories]
    return kinds.count("turn"), kinds.count("fact")
