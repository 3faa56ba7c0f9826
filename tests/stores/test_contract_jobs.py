"""The queue of jobs in every store: claims with leases and fencing, what they bring, and those that are given up."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from ollama_async_mem.counts import Counts
from ollama_async_mem.errors import ConfigError, EmbeddingMismatch, StoreError
from ollama_async_mem.records import (
    Change,
    EmbeddingSpace,
    Event,
    Job,
    JobStatus,
    Reinforcement,
    Scope,
    Supersession,
    new_id,
)
from stores.samples import (
    ALICE,
    BOB,
    DIMENSION,
    LEASE,
    LONG_AGO,
    MODEL,
    NO_JOB,
    START,
    about,
    add,
    axis,
    claim,
    everything,
    fact,
    found,
    learn,
    near,
    turn,
)

if TYPE_CHECKING:
    from stores.samples import MakeStore


async def test_a_job_has_the_turns_it_was_queued_with(make_store: MakeStore) -> None:
    """`add_turns` with `extract` queues one job: the turns in order, their scope, the first attempt."""
    scope = Scope("alice", None, "run")
    said = [turn("one", scope), turn("two", scope)]
    async with make_store() as store:
        job_id = await add(store, *said, extract=True)
        assert await add(store, turn("three")) is None
        assert await store.pending_jobs() == 1
        job = await claim(store)
        assert (job.id, job.scope, job.attempts) == (job_id, scope, 1)
        assert job.turn_ids == (said[0].id, said[1].id)


async def test_a_job_keeps_its_own_prompt(make_store: MakeStore) -> None:
    """Until it is claimed, and when it is copied; whatever characters it has."""
    prompt = "Only what they eat\0, \U0001f95c."
    async with make_store() as store:
        await store.add_turns([turn("one")], [axis(1)], model=MODEL, extract=True, prompt=prompt)
        [stored] = await store.dump_jobs(Scope())
        claimed = await claim(store)
        assert stored.prompt == claimed.prompt == prompt
        await store.finish_jobs([claimed], [], [], model=MODEL)
        await store.load([], [replace(stored, id=new_id())], space=EmbeddingSpace(MODEL, DIMENSION))
        assert (await claim(store)).prompt == prompt


async def test_a_job_takes_turns_of_one_scope(make_store: MakeStore) -> None:
    """Turns of two scopes cannot be extracted as one; nothing is stored."""
    async with make_store() as store:
        with pytest.raises(StoreError, match="scope"):
            await add(store, turn("a"), turn("b", BOB), extract=True)
        assert await store.counts(Scope()) == Counts(0, 0)
        assert await store.pending_jobs() == 0


async def test_jobs_come_oldest_first_and_to_one_claimant(make_store: MakeStore) -> None:
    """Concurrent claims get different jobs, each once, and nothing when all are held."""
    async with make_store() as store:
        queued = [await add(store, turn(str(i), Scope(str(i))), extract=True) for i in range(5)]
        claims = await asyncio.gather(*(store.claim_jobs(now=START, lease=LEASE, limit=1) for _ in range(8)))
        assert sorted(job.id for jobs in claims for job in jobs) == queued
        assert claims.count([]) == 3
        assert await store.pending_jobs() == 5
        with pytest.raises(ConfigError, match="limit"):
            await store.claim_jobs(now=START, lease=LEASE, limit=0)


async def test_jobs_of_a_scope_come_together(make_store: MakeStore) -> None:
    """With the oldest that is due come others of exactly its scope, up to the limit, oldest first."""
    narrow = Scope("alice", None, "run")
    async with make_store() as store:
        scopes = (ALICE, BOB, ALICE, narrow, ALICE, ALICE)
        ids = [await add(store, turn(str(i), scope), extract=True) for i, scope in enumerate(scopes)]
        put_off = await claim(store)
        await store.release_jobs([put_off], error="away", retry_at=START + 9 * LEASE)
        claims = []
        while jobs := await store.claim_jobs(now=START, lease=LEASE, limit=2):
            claims.append(jobs)
            await store.finish_jobs(jobs, [], [], model=MODEL)
        assert [[job.id for job in jobs] for jobs in claims] == [[ids[1]], [ids[2], ids[4]], [ids[3]], [ids[5]]]
        assert [job.scope for job in claims[1]] == [ALICE, ALICE]


@pytest.mark.parametrize(
    ("held", "scope", "is_free"),
    [
        (ALICE, ALICE, False),
        (ALICE, Scope("alice", None, "monday"), False),
        (Scope("alice", None, "monday"), Scope("alice", None, "tuesday"), False),
        (Scope("alice", "cook", "monday"), Scope("alice", "cook"), False),
        (Scope(None, "cook", "monday"), Scope(None, "cook", "tuesday"), False),
        (Scope(None, None, "monday"), Scope(None, None, "monday"), False),
        (Scope(None, None, "monday"), Scope(None, None, "tuesday"), True),
        (Scope(None, None, "monday"), Scope("alice", None, "monday"), True),
        (Scope(None, None, "monday"), Scope(None, "cook", "monday"), True),
        (Scope("alice", "cook"), Scope("alice"), True),
        (Scope("alice", "cook"), Scope("alice", "pilot"), True),
        (Scope(None, "cook"), Scope("alice", "cook"), True),
        (Scope("alice"), Scope(None, "alice"), True),
        (Scope(), Scope(None, None, "monday"), True),
        (Scope("", None, "monday"), Scope("", None, "tuesday"), False),
        (Scope("", None, "monday"), Scope(None, None, "tuesday"), True),
    ],
)
async def test_jobs_of_an_owner_are_worked_off_one_after_the_other(
    make_store: MakeStore,
    held: Scope,
    scope: Scope,
    is_free: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """An owner is a user and an agent whatever the run, or a run without them; whoever claims first."""
    async with make_store() as store:
        for pair in ((held, scope), (scope, held)):
            ids = [await add(store, turn(scope=one), extract=True) for one in pair]
            one = await claim(store)
            others = await store.claim_jobs(now=START, lease=LEASE, limit=1)
            assert [one.id, *(job.id for job in others)] == (ids if is_free else ids[:1])
            await store.finish_jobs([one], [], [], model=MODEL)
            for job in others or [await claim(store)]:
                assert job.id == ids[1]
                await store.finish_jobs([job], [], [], model=MODEL)


async def test_claims_at_the_same_time_are_of_different_owners(make_store: MakeStore) -> None:
    """However many ask at once, each owner is worked for by one of them."""
    async with make_store() as store:
        for run in ("monday", "tuesday", "friday"):
            for scope in (Scope("alice", None, run), Scope("bob", "cook", run), Scope(None, None, run)):
                await add(store, turn(scope=scope), extract=True)
        claims = await asyncio.gather(*(store.claim_jobs(now=START, lease=LEASE, limit=9) for _ in range(9)))
        users = sorted(job.scope.user_id or "" for jobs in claims for job in jobs)
        assert users == ["", "", "", "alice", "bob"]


async def test_jobs_of_a_scope_are_worked_off_one_after_the_other(make_store: MakeStore) -> None:
    """While one is held under a lease no other of its scope is handed out, however the one before ends."""
    async with make_store() as store:
        ids = [await add(store, turn(str(i)), extract=True) for i in range(4)]
        first = await claim(store)
        assert await store.claim_jobs(now=START, lease=LEASE, limit=9) == []
        await store.finish_jobs([first], [], [], model=MODEL)
        second = await claim(store)
        assert await store.claim_jobs(now=START, lease=LEASE, limit=9) == []
        await store.release_jobs([second], error="away", retry_at=START + 9 * LEASE)
        third = await claim(store)
        assert await store.claim_jobs(now=START, lease=LEASE, limit=9) == []
        await store.return_jobs([third])
        jobs = await store.claim_jobs(now=START, lease=LEASE, limit=9)
        assert [job.id for job in jobs] == ids[2:]
        again = await store.claim_jobs(now=START + LEASE, lease=LEASE, limit=9)  # the leases ended
        assert [(job.id, job.attempts) for job in again] == [(ids[2], 2), (ids[3], 2)]
        assert not await store.finish_jobs(jobs, [], [], model=MODEL)
        assert await store.finish_jobs(again, [], [], model=MODEL)


async def test_leases_are_renewed(make_store: MakeStore) -> None:
    """A renewed lease ends later; a claim that ended is not brought back, and the others of the call are renewed."""
    now = START + LEASE / 2
    async with make_store() as store:
        await add(store, turn("a"), extract=True)
        await add(store, turn("b", BOB), extract=True)
        held, gone = await claim(store), await claim(store)
        await store.return_jobs([gone])
        await store.renew_jobs([gone, held], now=now, lease=LEASE)
        assert [job.scope for job in await store.claim_jobs(now=now, lease=LEASE, limit=9)] == [BOB]
        assert await store.claim_jobs(now=START + LEASE, lease=LEASE, limit=9) == []
        over = await claim(store, now + LEASE)
        assert (over.id, over.attempts) == (held.id, 2)
        await store.renew_jobs([held], now=now + LEASE, lease=9 * LEASE)
        assert (await claim(store, now + 2 * LEASE)).attempts == 3


async def test_jobs_end_together(make_store: MakeStore) -> None:
    """Unless all claims stand nothing is stored and none ends; those that stand can be ended by themselves."""
    known = fact("peanut")
    async with make_store() as store:
        for name in "abc":
            await add(store, turn(name), extract=True)
        jobs = await store.claim_jobs(now=START, lease=LEASE, limit=3)
        await store.return_jobs([jobs[1]])
        assert await store.finish_jobs(jobs, [known], [axis(1)], model=MODEL) is False
        assert await store.counts(Scope()) == Counts(3, 0)
        assert await store.pending_jobs() == 3
        await store.release_jobs(jobs[:2], error="away", retry_at=None)
        assert [(one.state, one.attempts) for one in await store.unfinished_jobs()] == [
            ("dead", 1),
            ("queued", 0),
            ("queued", 1),
        ]
        assert await store.finish_jobs(jobs[2:], [known], [axis(1)], model=MODEL) is True
        assert await store.finish_jobs(jobs[2:], [fact("late")], [axis(1)], model=MODEL) is False
        assert await store.counts(Scope()) == Counts(3, 1)
        with pytest.raises(StoreError, match="no job"):
            await store.return_jobs([jobs[1], NO_JOB])


async def test_a_lease_that_ends_gives_the_job_back(make_store: MakeStore) -> None:
    """A job that was claimed and neither finished nor released comes again after its lease, counted."""
    async with make_store() as store:
        await add(store, turn(), extract=True)
        first = await claim(store)
        assert await store.claim_jobs(now=START + LEASE - timedelta(microseconds=1), lease=LEASE, limit=1) == []
        again = await claim(store, START + LEASE)
        assert (again.id, again.attempts) == (first.id, 2)


async def test_finishing_stores_facts_and_ends_the_job(make_store: MakeStore) -> None:
    """Facts are found once their job is finished; finishing again changes nothing, whatever it brings."""
    async with make_store() as store:
        said = turn("I love peanuts")
        await add(store, said, extract=True)
        job = await claim(store)
        known = fact("Alice loves peanuts", turn_ids=(said.id,))
        for brought in (known, fact("Alice hates peanuts", turn_ids=(said.id,))):
            await store.finish_jobs([job], [brought], [axis(0, 1)], model=MODEL)
        assert await near(store, ALICE, axis(0, 1)) == [known.text, said.text]
        assert sorted(await about(store, ALICE, "peanuts")) == sorted([known.text, said.text])
        assert await store.get(known.id) == known
        assert await store.pending_jobs() == 0
        assert await store.claim_jobs(now=START + LEASE, lease=LEASE, limit=1) == []
        await store.release_jobs([job], error="too late", retry_at=START)
        await store.return_jobs([job])
        assert await store.pending_jobs() == 0


async def test_a_job_whose_facts_cannot_be_stored_stays(make_store: MakeStore) -> None:
    """When one fact is refused none is stored and the job is not done."""
    async with make_store() as store:
        await add(store, turn(), extract=True)
        job = await claim(store)
        facts = [fact("fine"), fact("lost")]
        with pytest.raises(StoreError):
            await store.finish_jobs([job], facts, [axis(1), axis(1) * 0], model=MODEL)
        with pytest.raises(EmbeddingMismatch):
            await store.finish_jobs([job], facts, [axis(1), axis(1)], model="other")
        with pytest.raises(StoreError, match="2 facts came with 1 vectors"):
            await store.finish_jobs([job], facts, [axis(1)], model=MODEL)
        assert await store.counts(Scope()) == Counts(1, 0)
        assert await store.pending_jobs() == 1
        await store.finish_jobs([job], [], [], model=MODEL)
        assert await store.pending_jobs() == 0


async def test_a_released_job_waits_for_its_time_or_is_given_up(make_store: MakeStore) -> None:
    """A job comes again at `retry_at` and not before; with None it never does."""
    later = START + timedelta(seconds=30)
    async with make_store() as store:
        await add(store, turn(), extract=True)
        await store.release_jobs([await claim(store)], error="model away \ud800", retry_at=later)
        assert await store.pending_jobs() == 1
        assert await store.claim_jobs(now=START, lease=LEASE, limit=1) == []
        await store.release_jobs([await claim(store, later)], error="hopeless", retry_at=None)
        assert await store.claim_jobs(now=later + LEASE, lease=LEASE, limit=1) == []
        assert await store.pending_jobs() == 0


async def test_a_stale_claimant_changes_nothing(make_store: MakeStore) -> None:
    """Whoever's job was claimed again can neither finish nor release it; the new claimant can."""
    async with make_store() as store:
        said = turn("I love peanuts")
        await add(store, said, extract=True)
        stale = await claim(store)
        held = await claim(store, START + LEASE)
        late, known = (fact(text, turn_ids=(said.id,)) for text in ("late", "known"))
        await store.finish_jobs([stale], [late], [axis(1)], model=MODEL)
        await store.release_jobs([stale], error="too late", retry_at=START)
        await store.release_jobs([stale], error="too late", retry_at=None)
        assert await store.counts(Scope()) == Counts(1, 0)
        assert await store.pending_jobs() == 1
        assert await store.claim_jobs(now=START + LEASE, lease=LEASE, limit=1) == []  # the new lease was not ended
        await store.finish_jobs([held], [known], [axis(1)], model=MODEL)
        await store.finish_jobs([stale], [late], [axis(1)], model=MODEL)
        assert sorted(await everything(store, ALICE)) == [said.text, known.text]
        assert await store.pending_jobs() == 0


async def test_a_stale_claimant_does_not_undo_a_release(make_store: MakeStore) -> None:
    """The time to try again that the new claimant has set is kept, and so is that it gave the job up."""
    later = START + 5 * LEASE
    async with make_store() as store:
        await add(store, turn(), extract=True)
        stale = await claim(store)
        await store.release_jobs([await claim(store, START + LEASE)], error="model away", retry_at=later)
        await store.release_jobs([stale], error="too late", retry_at=START)
        await store.finish_jobs([stale], [fact("late")], [axis(1)], model=MODEL)
        assert await store.claim_jobs(now=later - LEASE, lease=LEASE, limit=1) == []
        last = await claim(store, later)
        assert last.attempts == 3
        await store.release_jobs([last], error="hopeless", retry_at=None)
        for job in (stale, last):
            await store.release_jobs([job], error="too late", retry_at=START)
            await store.finish_jobs([job], [fact("late")], [axis(1)], model=MODEL)
        assert await store.claim_jobs(now=later + LEASE, lease=LEASE, limit=1) == []
        assert await store.counts(Scope()) == Counts(1, 0)
        assert await store.pending_jobs() == 0


async def test_a_returned_job_is_due_at_once_and_not_counted(make_store: MakeStore) -> None:
    """A job that was given back untouched can be claimed in the same moment, as if it had not been claimed."""
    async with make_store() as store:
        await add(store, turn(), extract=True)
        await store.release_jobs([await claim(store)], error="model away", retry_at=START)
        for _ in range(3):
            job = await claim(store)
            assert job.attempts == 2
            await store.return_jobs([job])
            (status,) = await store.unfinished_jobs()
            assert (status.attempts, status.due_at, status.error) == (1, None, "model away")
        await store.finish_jobs([await claim(store)], [], [], model=MODEL)
        assert await store.pending_jobs() == 0


async def test_a_returned_job_cannot_be_ended_by_who_returned_it(make_store: MakeStore) -> None:
    """Giving back ends the claim for good, also when the next one counts as the same attempt."""
    later = START + 5 * LEASE
    async with make_store() as store:
        said = turn()
        await add(store, said, extract=True)
        given = await claim(store)
        await store.return_jobs([given])
        held: Job | None = None
        for _ in range(2):
            await store.return_jobs([given])
            await store.release_jobs([given], error="too late", retry_at=None)
            await store.finish_jobs([given], [fact("late", turn_ids=(said.id,))], [axis(1)], model=MODEL)
            assert await store.counts(Scope()) == Counts(1, 0)
            held = held or await claim(store)
            assert await store.claim_jobs(now=START, lease=LEASE, limit=1) == []
        assert held is not None
        assert held.attempts == given.attempts
        await store.release_jobs([held], error="model away", retry_at=later)
        await store.return_jobs([held])  # the time to try again stays
        assert await store.claim_jobs(now=later - LEASE, lease=LEASE, limit=1) == []
        assert (await claim(store, later)).attempts == 2


async def test_a_return_gives_nobody_an_older_claim_back(make_store: MakeStore) -> None:
    """Who was overtaken stays so when the one who overtook returns the job."""
    async with make_store() as store:
        await add(store, turn(), extract=True)
        stale = await claim(store)
        await store.return_jobs([await claim(store, START + LEASE)])
        await store.release_jobs([stale], error="too late", retry_at=None)
        assert await store.pending_jobs() == 1
        assert (await claim(store)).attempts == 2


async def test_unfinished_jobs_say_why_they_wait(make_store: MakeStore) -> None:
    """Jobs that wait, are held, are put off and were given up are listed oldest first, those that are done are not."""
    later = START + timedelta(hours=1)
    async with make_store() as store:
        scopes = [Scope(name) for name in ("done", "dead", "put off", "held", "new")]
        ids = [str(await add(store, turn(scope=scope), extract=True)) for scope in scopes]
        done, dead, put_off, _ = [await claim(store) for _ in range(4)]
        await store.finish_jobs([done], [], [], model=MODEL)
        await store.release_jobs([dead], error="hopeless \ud800", retry_at=None)
        await store.release_jobs([put_off], error="model away", retry_at=later)
        expected = [
            JobStatus(id=ids[1], scope=scopes[1], state="dead", attempts=1, error="hopeless \ufffd"),
            JobStatus(id=ids[2], scope=scopes[2], state="queued", attempts=1, due_at=later, error="model away"),
            JobStatus(id=ids[3], scope=scopes[3], state="queued", attempts=1, due_at=START + LEASE),
            JobStatus(id=ids[4], scope=scopes[4], state="queued", attempts=0),
        ]
        assert await store.unfinished_jobs() == expected
        assert await store.unfinished_jobs(limit=2) == expected[:2]
        assert [await store.job_status(job_id) for job_id in ids] == [None, *expected]
        with pytest.raises(ConfigError, match="limit"):
            await store.unfinished_jobs(limit=0)


async def test_unknown_jobs_are_an_error(make_store: MakeStore) -> None:
    """Finishing, releasing, returning or asking for a job that never was is a StoreError."""
    async with make_store() as store:
        await add(store, turn(), extract=True)
        for jobs in ([NO_JOB], [await claim(store), NO_JOB]):
            with pytest.raises(StoreError, match="no job"):
                await store.finish_jobs(jobs, [], [], model=MODEL)
            with pytest.raises(StoreError, match="no job"):
                await store.release_jobs(jobs, error="", retry_at=None)
            with pytest.raises(StoreError, match="no job"):
                await store.return_jobs(jobs)
            with pytest.raises(StoreError, match="no job"):
                await store.renew_jobs(jobs, now=START, lease=9 * LEASE)
        assert await store.claim_jobs(now=START, lease=LEASE, limit=1) == []  # nothing was changed
        assert (await claim(store, START + LEASE)).attempts == 2
        for unknown in ("nope", "\ud800"):
            with pytest.raises(StoreError, match="no job"):
                await store.job_status(unknown)


async def test_a_changed_turn_is_read_if_it_was_to_be(make_store: MakeStore) -> None:
    """With `extract` None a job is queued for a turn that has a fact or whose job was given up, and for no other."""
    told, dead, empty, never = (turn(text) for text in ("told", "dead", "empty", "never"))
    known = fact("x", turn_ids=(told.id,))
    async with make_store() as store:
        for said in (told, dead, empty):
            await add(store, said, extract=True)
        await add(store, never)
        await store.finish_jobs([await claim(store)], [known], [axis(1)], model=MODEL)
        await store.release_jobs([await claim(store)], error="hopeless", retry_at=None)
        await store.finish_jobs([await claim(store)], [], [], model=MODEL)
        for said in (told, dead, empty, never):
            await store.update(said.id, Change(text=f"{said.text} anew"), vector=axis(1), model=MODEL, extract=None)
        queued = [job.turn_ids for job in await store.dump_jobs(ALICE) if job.state == "queued"]
        assert queued == [(told.id,), (dead.id,)]


async def test_deleted_turns_leave_their_job_and_bring_no_facts(make_store: MakeStore) -> None:
    """A job comes without turns that were deleted, and a fact whose turns are all gone is not stored."""
    said = [turn("secret"), turn("public")]
    async with make_store() as store:
        await add(store, *said, extract=True)
        await store.delete(said[0].id)
        job = await claim(store)
        assert job.turn_ids == (said[1].id,)
        facts = [
            fact("a secret", turn_ids=(said[0].id,)),
            fact("both", turn_ids=(said[0].id, said[1].id)),
        ]
        await store.finish_jobs([job], facts, [axis(1), axis(1)], model=MODEL)
        assert sorted(await everything(store, ALICE)) == ["both", "public"]


async def test_jobs_that_were_given_up_come_back_to_life(make_store: MakeStore) -> None:
    """`revive_jobs` queues them in their old order, due at once and never tried; those put off are only due at once."""
    later = START + 5 * LEASE
    async with make_store() as store:
        assert await store.revive_jobs() == 0
        ids = [await add(store, turn(str(i), Scope(str(i))), extract=True) for i in range(4)]
        for job in (dead := [await claim(store) for _ in range(2)]):
            await store.release_jobs([job], error="hopeless", retry_at=None)
        await store.release_jobs([await claim(store)], error="model away", retry_at=later)
        assert await store.revive_jobs(dead=False) == 1
        await store.release_jobs([await claim(store)], error="model away", retry_at=later)
        assert await store.revive_jobs() == 3
        assert await store.revive_jobs() == 0
        statuses = await store.unfinished_jobs()
        assert [(status.state, status.attempts, status.due_at) for status in statuses] == [
            ("queued", 0, None),
            ("queued", 0, None),
            ("queued", 2, None),
            ("queued", 0, None),
        ]
        await store.finish_jobs([dead[0]], [fact("late")], [axis(1)], model=MODEL)
        revived = await claim(store)
        assert (revived.id, revived.attempts) == (ids[0], 1)
        await store.finish_jobs([dead[0]], [fact("late")], [axis(1)], model=MODEL)
        await store.release_jobs([dead[0]], error="late", retry_at=None)
        await store.return_jobs([dead[0]])
        assert await store.pending_jobs() == 4
        await store.finish_jobs([revived], [fact("in time")], [axis(1)], model=MODEL)
        assert (await store.counts(Scope())) == Counts(4, 1)
        assert [(await claim(store)).id for _ in range(3)] == ids[1:]


async def test_jobs_that_are_held_are_not_hastened(make_store: MakeStore) -> None:
    """`revive_jobs` leaves claims and leases as they are, also of a job that was put off before."""
    async with make_store() as store:
        await add(store, turn(), extract=True)
        await store.release_jobs([await claim(store)], error="away", retry_at=START)
        held = await claim(store)
        assert await store.revive_jobs() == 0
        assert await store.claim_jobs(now=START, lease=LEASE, limit=1) == []
        assert await store.finish_jobs([held], [], [], model=MODEL) is True


async def test_jobs_of_a_changed_turn_begin_anew(make_store: MakeStore) -> None:
    """Whoever read the old text cannot end them; without one that waits, `extract` queues one. No other change does."""
    said, other = turn("I like nuts"), turn("other")
    drawn = fact("likes nuts", turn_ids=(said.id,))
    async with make_store() as store:
        job_id = await add(store, said, other, extract=True)
        held = await claim(store)
        same = Change(text=said.text, metadata={"a": 1})
        await store.update(said.id, same, vector=axis(1), model=MODEL, extract=True)
        await store.renew_jobs([held], now=START, lease=LEASE)
        assert (await store.unfinished_jobs())[0].due_at == START + LEASE
        await store.update(said.id, Change(text="I hate nuts"), vector=axis(1), model=MODEL, extract=True)
        assert await store.finish_jobs([held], [drawn], [axis(1)], model=MODEL) is False
        again = await claim(store)
        assert (again.id, again.attempts, again.turn_ids) == (job_id, 1, (said.id, other.id))
        assert await store.finish_jobs([again], [], [], model=MODEL) is True
        await store.update(said.id, Change(text="I eat nuts"), vector=axis(1), model=MODEL)
        assert await store.pending_jobs() == 0
        await store.update(said.id, Change(text="I love nuts"), vector=axis(1), model=MODEL, extract=True)
        new = await claim(store)
        assert (new.scope, new.turn_ids, new.attempts) == (said.scope, (said.id,), 1)


async def test_finishing_supersedes_facts(make_store: MakeStore) -> None:
    """The facts that a job supersedes end with it, as `supersede` ends them; those that are gone are skipped."""
    old, ended, gone = fact("peanut old"), fact("peanut ended", valid_to=LONG_AGO), fact("peanut gone")
    new = fact("peanut new")
    said = [
        Supersession(fact_id=f.id, valid_to=START, by=new.id, cause="contradicted") for f in (old, ended, gone, old)
    ]
    async with make_store() as store:
        await learn(store, old, ended, gone)
        await store.delete(gone.id)
        await add(store, turn("cashew"), extract=True)
        job = await claim(store)
        for _ in range(2):
            await store.finish_jobs([job], [new], [axis(1)], model=MODEL, superseded=said)
        assert await about(store, ALICE, "peanut") == ["peanut new"]
        assert await store.get_many([old.id, ended.id]) == [replace(old, valid_to=START), ended]
        (_, superseded) = await store.history(old.id)
        assert (superseded.kind, superseded.by, superseded.cause) == ("superseded", new.id, "contradicted")
        assert [event.kind for event in await store.history(gone.id)] == ["added", "deleted"]


async def test_what_cannot_be_finished_supersedes_nothing(make_store: MakeStore) -> None:
    """A stale claimant, and facts that cannot be stored, leave the others as they were."""
    old = fact("peanut old")
    said = [Supersession(fact_id=old.id, valid_to=LONG_AGO)]
    async with make_store() as store:
        await learn(store, old)
        await add(store, turn("cashew"), extract=True)
        stale = await claim(store)
        job = await claim(store, START + LEASE)
        await store.finish_jobs([stale], [], [], model=MODEL, superseded=said)
        with pytest.raises(StoreError):
            await store.finish_jobs([job], [fact("peanut", id=old.id)], [axis(1)], model=MODEL, superseded=said)
        assert await store.get(old.id) == old
        assert len(await store.history(old.id)) == 1
        assert await store.pending_jobs() == 1
        await store.finish_jobs([job], [], [], model=MODEL, superseded=said)
        assert await store.get(old.id) == replace(old, valid_to=LONG_AGO)


async def test_what_was_deleted_supersedes_nothing(make_store: MakeStore) -> None:
    """A fact that is skipped, for its turns are gone, does not end the one that it would have superseded."""
    said, old, secret = turn("secret"), fact("peanut old"), fact("peanut secret")
    async with make_store() as store:
        await learn(store, old)
        await add(store, said, extract=True)
        job = await claim(store)
        await store.delete(said.id)
        facts = [replace(secret, turn_ids=(said.id,)), fact("peanut other")]
        ends = [Supersession(fact_id=old.id, valid_to=LONG_AGO, by=secret.id)]
        await store.finish_jobs([job], facts, [axis(1), axis(1)], model=MODEL, superseded=ends)
        assert await found(store) == ["peanut old", "peanut other"]
        assert await store.get(old.id) == old


async def test_finishing_reinforces_facts(make_store: MakeStore) -> None:
    """Turns that say a fact again join its turns, once each; it is noted, and the fact stays as it was otherwise."""
    first, second, gone = turn("one"), turn("two"), turn("gone")
    known, deleted = fact("peanut", turn_ids=(first.id,), quote="one"), fact("deleted")
    later = START + timedelta(days=1)
    ids = (gone.id, second.id, first.id, second.id, "nope")
    said = [Reinforcement(fact_id=f.id, turn_ids=ids, at=later, cause="said again") for f in (known, deleted)]
    async with make_store() as store:
        await add(store, first)
        await learn(store, known, deleted)
        await add(store, second, gone, extract=True)
        await store.delete(deleted.id)
        await store.delete(gone.id)
        job = await claim(store)
        assert await store.finish_jobs([job], [], [], model=MODEL, reinforced=said) is True
        assert await store.finish_jobs([job], [], [], model=MODEL, reinforced=said) is False
        assert await store.get(known.id) == replace(known, turn_ids=(first.id, second.id))
        (_, event) = await store.history(known.id)
        assert event == Event(memory_id=known.id, kind="reinforced", at=later, cause="said again")
        assert await about(store, ALICE, "peanut") == ["peanut"]
        await store.delete(second.id)
        assert await store.get(known.id) == known
        assert await store.check() == []


async def test_what_adds_nothing_reinforces_nothing(make_store: MakeStore) -> None:
    """Turns that are known to say it, or are gone, are no news; a turn is no fact; a stale claim adds nothing."""
    said, new = turn("one"), turn("two")
    known = fact("peanut", turn_ids=(said.id,))
    again = [
        Reinforcement(fact_id=known.id, turn_ids=(said.id, "nope"), at=START),
        Reinforcement(fact_id=known.id, turn_ids=(), at=START),
        Reinforcement(fact_id=known.id, turn_ids=(known.id,), at=START),
        Reinforcement(fact_id=said.id, turn_ids=(new.id,), at=START),
    ]
    async with make_store() as store:
        await add(store, said)
        await learn(store, known)
        await add(store, new, extract=True)
        job = await claim(store)
        await store.return_jobs([job])
        more = [Reinforcement(fact_id=known.id, turn_ids=(new.id,), at=START)]
        assert await store.finish_jobs([job], [], [], model=MODEL, reinforced=more) is False
        assert await store.finish_jobs([await claim(store)], [], [], model=MODEL, reinforced=again) is True
        assert await store.get(known.id) == known
        assert [event.kind for event in await store.history(known.id)] == ["added"]


async def test_facts_are_reinforced_by_turns_in_order(make_store: MakeStore) -> None:
    """What a job brings is reinforced by what the same job says again; each time adds to the end."""
    said = [turn(str(i)) for i in range(4)]
    known = fact("peanut", turn_ids=(said[3].id,))
    ids = [(said[2].id, said[0].id), (said[1].id,)]
    again = [Reinforcement(fact_id=known.id, turn_ids=turn_ids, at=START) for turn_ids in ids]
    async with make_store() as store:
        await add(store, *said, extract=True)
        await store.finish_jobs([await claim(store)], [known], [axis(1)], model=MODEL, reinforced=again)
        expected = replace(known, turn_ids=tuple(said[i].id for i in (3, 2, 0, 1)))
        assert await store.get(known.id) == expected
        assert [event.kind for event in await store.history(known.id)] == ["added", "reinforced", "reinforced"]


async def test_a_job_without_turns_is_still_a_job(make_store: MakeStore) -> None:
    """When all its turns were deleted, a job is handed out without any, and can be finished."""
    said = [turn("a"), turn("b")]
    async with make_store() as store:
        job_id = await add(store, *said, extract=True)
        for one in said:
            await store.delete(one.id)
        job = await claim(store)
        assert (job.id, job.turn_ids, job.scope) == (job_id, (), ALICE)
        await store.finish_jobs([job], [], [], model=MODEL)
        assert await store.pending_jobs() == 0


async def test_a_finished_job_is_known_to_be_so(make_store: MakeStore) -> None:
    """However many jobs are finished, each is told from one that never was."""
    async with make_store() as store:
        ids = [str(await add(store, turn(str(i)), extract=True)) for i in range(30)]
        for _ in ids[:-1]:
            await store.finish_jobs([await claim(store)], [], [], model=MODEL)
        await store.optimize()
        assert [await store.job_status(job_id) for job_id in ids[:-1]] == [None] * 29
        (left,) = await store.unfinished_jobs()
        assert left.id == ids[-1]
        with pytest.raises(StoreError, match="no job"):
            await store.job_status(ids[0][:-1])
