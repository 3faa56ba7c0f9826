"""Extraction behind the adds: takes jobs from the store's queue and turns them into facts.

The queue is in the store: a job survives a restart, and every process on the store shares the work. A job that fails
is put off; one that cannot succeed is given up, with the reason, and its turns stay. Whatever goes wrong becomes a
record of its job and never ends the memory. Knows nothing of how facts are found.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from ollama_async_mem.counts import ExtractionCounts
from ollama_async_mem.errors import ModelNotFound, ModelOutputError, OllamaError, StatusError, StoreClosed, StoreError
from ollama_async_mem.events import FactAdded, FactReinforced, FactRejected, FactSuperseded, JobDone, JobFailed
from ollama_async_mem.memory.distil import Distiller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anyio.abc import TaskGroup

    from ollama_async_mem.events import MemoryEvent
    from ollama_async_mem.memory.courtesy import Courtesy
    from ollama_async_mem.memory.distil import Findings
    from ollama_async_mem.ports import ChatModel, Embedder, MemoryStore
    from ollama_async_mem.records import Job

__all__ = ["Ingest"]

_log = logging.getLogger(__name__)
LEASE = timedelta(seconds=60)
"""How long the jobs of a process that died stay with it. A living one renews it three times as often."""
FIRST_WAIT = timedelta(seconds=5)
"""When a job that failed is tried again; each time it waits four times as long."""
LONGEST_WAIT = timedelta(minutes=10)
POLL_S = 5.0
MOST_JOBS = 50
_LONGEST_BURST_S = 10.0
_REFUSALS = 3
_GIVE_BACK_S = 2.0


class Ingest:
    """Works off extraction jobs; `run` belongs in the task group of whoever owns it.

    The jobs of one scope are taken together: what piles up while the model is busy with a user goes into the next
    request, and no user ever has more than one.

    Args:
        store: has the queue, and takes the facts.
        embedder: makes their vectors.
        llm: is asked for them.
        on_event: is told what happens, once it is durable. It must neither block nor raise.
        prompt: replaces the instructions to the model, all but the shape of the answer.
        idle_s: how long to wait for the end of a burst of adds, so that the model stays free for a chat.
        concurrency: for how many scopes the model is asked at the same time. The default is high on purpose: an
            application with one user never has more than one request under way, and one with many users needs a server
            that is parallel. Ollama itself queues what it cannot take, up to OLLAMA_MAX_QUEUE, by default 512.
    """

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        llm: ChatModel,
        *,
        on_event: Callable[[MemoryEvent], None] | None = None,
        prompt: str | None = None,
        idle_s: float = 1.0,
        concurrency: int = 64,
        courtesy: Courtesy | None = None,
    ) -> None:
        self._store = store
        self._distiller = Distiller(store, embedder, llm, instructions=prompt, courtesy=courtesy)
        self._model = embedder
        self._tell = on_event or (lambda _: None)
        self._idle_s = idle_s
        self._free = concurrency
        self._held = 0
        self._wakes = 1  # jobs of an earlier process may be waiting
        self._seen = 0  # the wakes after which nothing was due any more
        self._is_freed = False  # a scope was, of which jobs may have piled up
        self._newest_s = 0.0
        self._changed = anyio.Event()
        self._waiting = 0
        self._untried: set[str] = set()
        self._ended = False
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()

    @property
    def counts(self) -> ExtractionCounts:
        """What became of the extraction so far."""
        return ExtractionCounts(**self._counts, rejected=dict(self._rejected))

    def wake(self) -> None:
        """Say that a job was queued."""
        self._newest_s = anyio.current_time()
        self._change(is_due=True)

    async def settled(self, job_id: str | None = None) -> None:
        """Wait until no job is due, or until this one was tried. Meanwhile nothing waits for the end of a burst.

        Raises:
            StoreClosed: the memory was closed meanwhile.
        """
        if job_id:
            self._untried.add(job_id)
        self._waiting += 1
        self._change()
        try:
            while not self._ended and (self._held or self._is_due) and (job_id is None or job_id in self._untried):
                await self._changed.wait()
        finally:
            self._waiting -= 1
            self._untried.discard(job_id or "")
        if self._ended:
            raise StoreClosed("the memory was closed; what was queued goes on when it is opened again")

    async def run(self) -> None:
        """Work until cancelled. What was put off before is tried at once, for what it waited for may be back."""
        try:
            await self._hasten()
            async with anyio.create_task_group() as tasks:
                while True:
                    await self._claim(tasks)
                    await self._wait()
        finally:
            self._ended = True
            self._change()

    async def _hasten(self) -> None:
        try:
            await self._store.revive_jobs(dead=False)
        except StoreError as exc:
            _log.warning("jobs that were put off stay so until their time: %s", exc)

    @property
    def _is_due(self) -> bool:
        """Whether there may be jobs to claim."""
        return self._seen < self._wakes

    def _change(self, *, is_due: bool = False) -> None:
        self._wakes += is_due
        before, self._changed = self._changed, anyio.Event()
        before.set()

    async def _wait(self) -> None:
        """Wait for jobs, and then for the end of the burst unless somebody is in a hurry."""
        with anyio.move_on_after(POLL_S):
            while not (self._is_due and self._free):
                await self._changed.wait()
        with anyio.move_on_after(_LONGEST_BURST_S):
            while not (self._waiting or self._is_freed) and self._quiet_s() > 0:
                with anyio.move_on_after(self._quiet_s()):
                    await self._changed.wait()
        self._is_freed = False

    def _quiet_s(self) -> float:
        """How long it must stay quiet yet."""
        return self._newest_s + self._idle_s - anyio.current_time()

    async def _claim(self, tasks: TaskGroup) -> None:
        """Take what is due, as long as there is room, and start working on it."""
        while self._free:
            wakes = self._wakes
            if not (jobs := await self._claimed()):
                self._seen = wakes
                break
            self._free -= 1
            self._held += 1
            tasks.start_soon(self._hold, jobs)
            await anyio.lowlevel.checkpoint()  # the claim cannot be cancelled, this can
        self._change()

    async def _claimed(self) -> Sequence[Job]:
        """Claim the jobs of a scope. Cancelled on the way, they would be nobody's until their lease ends."""
        jobs: Sequence[Job] = ()
        with anyio.CancelScope(shield=True):
            try:
                jobs = await self._store.claim_jobs(now=datetime.now(UTC), lease=LEASE, limit=MOST_JOBS)
            except StoreError as exc:
                _log.warning("extraction could not reach its queue, trying again in %g s: %s", POLL_S, exc)
        return jobs

    async def _hold(self, jobs: Sequence[Job]) -> None:
        """Try jobs. Whoever is cancelled meanwhile gives them back, so that the next need not wait for the lease."""
        tried = False
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._renew, jobs)
                for alike in _by_prompt(jobs):
                    await self._attempt(alike)
                tried = True
                tasks.cancel_scope.cancel()
        finally:
            if not tried:
                await self._give_back(jobs)
            self._free += 1
            self._held -= 1
            self._untried -= {job.id for job in jobs}
            self._is_freed = True
            self._change(is_due=True)

    async def _renew(self, jobs: Sequence[Job]) -> None:
        while True:
            await anyio.sleep(LEASE.total_seconds() / 3)
            try:
                await self._store.renew_jobs(jobs, now=datetime.now(UTC), lease=LEASE)
            except StoreError as exc:
                _log.warning("a lease could not be renewed; the work goes on: %s", exc)

    async def _give_back(self, jobs: Sequence[Job]) -> None:
        with anyio.move_on_after(_GIVE_BACK_S, shield=True):
            try:
                await self._store.return_jobs(jobs)
            except StoreError as exc:
                _log.warning("jobs could not be given back; they are due again in %s: %s", LEASE, exc)

    async def _attempt(self, jobs: Sequence[Job]) -> None:
        """Try jobs together. Where one of them may be to blame for a failure, each is tried alone."""
        try:
            await self._extract(jobs)
        except (OllamaError, StoreError) as exc:
            if _is_refusal(exc) and len(jobs) > 1:
                await self._attempt_each(jobs)
            else:
                await self._put_off(jobs, exc)
        except Exception as exc:  # noqa: BLE001 - it becomes the job's record
            if len(jobs) > 1:
                await self._attempt_each(jobs)
            else:
                await self._give_up(jobs, exc)

    async def _attempt_each(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            await self._attempt([job])

    async def _put_off(self, jobs: Sequence[Job], exc: OllamaError | StoreError) -> None:
        """Try later; what the server refuses again and again is given up, but for a model that may yet be pulled."""
        attempts = max(job.attempts for job in jobs)
        if _is_refusal(exc) and attempts >= _REFUSALS:
            await self._give_up(jobs, exc)
            return
        wait = min(LONGEST_WAIT, FIRST_WAIT * 4 ** min(attempts - 1, 9))
        _log.info("extraction is put off by %s: %s", wait, exc)
        await self._release(jobs, str(exc), datetime.now(UTC) + wait)

    async def _give_up(self, jobs: Sequence[Job], exc: Exception) -> None:
        known = isinstance(exc, ModelOutputError | OllamaError)
        error = str(exc) if known else f"{type(exc).__name__}: {exc}"
        _log.warning("extraction of job %s is given up, its turns stay: %s", jobs[0].id, error)
        self._counts["jobs_failed"] += len(jobs)
        await self._release(jobs, error, None)

    async def _release(self, jobs: Sequence[Job], error: str, retry_at: datetime | None) -> None:
        try:
            await self._store.release_jobs(jobs, error=error, retry_at=retry_at)
        except StoreError as exc:
            _log.warning("a failure could not be noted; the jobs are due again in %s: %s", LEASE, exc)
        for job in jobs:
            self._tell(JobFailed(job.id, job.scope, error, retry_at is None))

    async def _extract(self, jobs: Sequence[Job]) -> None:
        found = await self._distiller.distil(jobs)
        stands = await self._store.finish_jobs(
            jobs,
            found.plan.added,
            found.vectors,
            model=self._model.model,
            superseded=found.plan.superseded,
            reinforced=found.plan.reinforced,
        )
        if stands:
            self._count(jobs, found)
            for event in _events(jobs, found):
                self._tell(event)
        else:  # one of the turns was changed meanwhile, say; whatever claim still stands need not wait for its end
            await self._give_back(jobs)

    def _count(self, jobs: Sequence[Job], found: Findings) -> None:
        self._counts.update(
            jobs_done=len(jobs),
            facts_added=len(found.plan.added),
            reinforced=len(found.plan.reinforced),
            superseded=len(found.plan.superseded),
            repaired=found.repaired,
        )
        self._rejected.update(rejected.reason for rejected in found.rejected)


def _by_prompt(jobs: Sequence[Job]) -> list[list[Job]]:
    """Part jobs by what the model is to be told, each part in the order in which they came."""
    parts: dict[str | None, list[Job]] = {}
    for job in jobs:
        parts.setdefault(job.prompt, []).append(job)
    return list(parts.values())


def _is_refusal(exc: Exception) -> bool:
    """Whether the server will not take this request, now or later."""
    return isinstance(exc, StatusError) and not (exc.retryable or isinstance(exc, ModelNotFound))


def _events(jobs: Sequence[Job], found: Findings) -> Iterator[MemoryEvent]:
    for rejected in found.rejected:
        yield FactRejected(rejected.reason, jobs[0].scope, (rejected.turn.id,) if rejected.turn else ())
    yield from map(FactAdded, found.plan.added)
    for again in found.plan.reinforced:
        yield FactReinforced(again.fact_id, jobs[0].scope, again.turn_ids)
    for ended in found.plan.superseded:
        yield FactSuperseded(ended.fact_id, jobs[0].scope, ended.by, ended.valid_to)
    for job in jobs:
        new = sum(not set(job.turn_ids).isdisjoint(fact.turn_ids) for fact in found.plan.added)
        yield JobDone(job.id, job.scope, new)
