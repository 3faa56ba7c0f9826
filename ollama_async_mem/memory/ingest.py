"""Extraction behind the adds: takes jobs from the store's queue and turns them into facts.

The queue is in the store: a job survives a restart, and every process on the store shares the work. A job that fails
is put off; one that cannot succeed is given up, with the reason, and its turns stay. Whatever goes wrong becomes a
record of its job and never ends the memory.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio

from ollama_async_mem.errors import (
    ExtractionFailed,
    ModelNotFound,
    ModelOutputError,
    OllamaError,
    StatusError,
    StoreClosed,
    StoreError,
)
from ollama_async_mem.memory.extract import Extraction, extraction_messages, portions, repair_messages
from ollama_async_mem.memory.ground import source_of
from ollama_async_mem.records import Fact, Selection, Turn, new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.ports import ChatModel, Embedder, MemoryStore, Vector
    from ollama_async_mem.records import Job

__all__ = ["Ingest"]

_log = logging.getLogger(__name__)
LEASE = timedelta(minutes=5)
POLL_S = 5.0
SAME_FACT = 0.97
_REFUSALS = 3
_GIVE_BACK_S = 2.0


class Ingest:
    """Works off extraction jobs; `run` belongs in the task group of whoever owns it."""

    def __init__(self, store: MemoryStore, embedder: Embedder, llm: ChatModel) -> None:
        self._store = store
        self._embedder = embedder
        self._llm = llm
        self._news = anyio.Event()
        self._news.set()  # jobs of an earlier process may be waiting
        self._round = anyio.Event()  # set when all jobs that were due have been tried
        self._busy = False
        self._ended = False

    def wake(self) -> None:
        """Say that a job was queued."""
        self._news.set()

    async def settled(self) -> None:
        """Wait until no job is due.

        Raises:
            StoreClosed: the memory was closed meanwhile.
        """
        while not self._ended and (self._busy or self._news.is_set()):
            await self._round.wait()
        if self._ended:
            raise StoreClosed("the memory was closed; what was queued goes on when it is opened again")

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                with anyio.move_on_after(POLL_S):
                    await self._news.wait()
                self._busy, self._news = True, anyio.Event()
                await self._work_off()
                self._busy = False
                self._end_round()
        finally:
            self._ended = True
            self._end_round()

    def _end_round(self) -> None:
        over, self._round = self._round, anyio.Event()
        over.set()

    async def _work_off(self) -> None:
        try:
            while job := await self._store.claim_job(now=datetime.now(UTC), lease=LEASE):
                await self._hold(job)
        except StoreError as exc:
            _log.warning("extraction could not reach its queue, trying again in %g s: %s", POLL_S, exc)

    async def _hold(self, job: Job) -> None:
        """Try a job. Whoever is cancelled meanwhile gives it back, so that the next one need not wait for the lease."""
        tried = False
        try:
            await self._attempt(job)
            tried = True
        finally:
            if not tried:
                with anyio.move_on_after(_GIVE_BACK_S, shield=True):
                    await self._store.return_job(job)

    async def _attempt(self, job: Job) -> None:
        try:
            await self._extract(job)
        except (OllamaError, StoreError) as exc:
            await self._put_off(job, exc)
        except Exception as exc:  # noqa: BLE001 - it becomes the job's record
            kind = "" if isinstance(exc, ModelOutputError) else f"{type(exc).__name__}: "
            _log.warning("extraction of job %s is given up, its turns stay: %s%s", job.id, kind, exc)
            await self._store.release_job(job, error=f"{kind}{exc}", retry_at=None)

    async def _put_off(self, job: Job, exc: OllamaError | StoreError) -> None:
        """Try later; what the server refuses again and again is given up, but for a model that may yet be pulled."""
        is_refusal = isinstance(exc, StatusError) and not (exc.retryable or isinstance(exc, ModelNotFound))
        if is_refusal and job.attempts >= _REFUSALS:
            _log.warning("extraction of job %s is given up, its turns stay: %s", job.id, exc)
            await self._store.release_job(job, error=str(exc), retry_at=None)
            return
        wait = timedelta(seconds=min(600, 5 * 4 ** min(job.attempts - 1, 9)))
        _log.info("extraction is put off by %s: %s", wait, exc)
        await self._store.release_job(job, error=str(exc), retry_at=datetime.now(UTC) + wait)

    async def _extract(self, job: Job) -> None:
        facts: list[Fact] = []
        for portion in portions(await self._turns(job)):
            facts += await self._facts(portion, job)
        vectors = await self._embedder.embed_documents([fact.text for fact in facts]) if facts else []
        new = await self._unknown(facts, vectors, job)
        await self._store.finish_job(job, [f for f, _ in new], [v for _, v in new], model=self._embedder.model)

    async def _turns(self, job: Job) -> list[Turn]:
        """Fetch the turns of a job that have not been deleted meanwhile."""
        return [turn for turn in await self._store.get_many(job.turn_ids) if isinstance(turn, Turn)]

    async def _facts(self, turns: Sequence[Turn], job: Job) -> list[Fact]:
        answer = await self._ask(extraction_messages(turns))
        now = datetime.now(UTC)
        grounded = [(statement, source_of(statement, turns)) for statement in answer.facts]
        return [
            Fact(
                id=new_id(),
                scope=job.scope,
                text=" ".join(statement.text.split()),
                quote=statement.quote,
                at=turn.at,
                created_at=now,
                turn_ids=(turn.id,),
            )
            for statement, turn in grounded
            if turn
        ]

    async def _ask(self, messages: list[dict[str, str]]) -> Extraction:
        """Ask for facts; an answer that does not fit is shown to the model once, with what is wrong."""
        try:
            answer: Extraction = await self._llm.generate(messages, schema=Extraction)
        except ModelOutputError as exc:
            try:
                answer = await self._llm.generate(repair_messages(messages, exc), schema=Extraction)
            except ModelOutputError as again:
                raise ExtractionFailed(str(again), output=again.output) from again
        return answer

    async def _unknown(self, facts: Sequence[Fact], vectors: Sequence[Vector], job: Job) -> list[tuple[Fact, Vector]]:
        """Leave out what is known already, in the store or earlier in the same answer."""
        new: list[tuple[Fact, Vector]] = []
        facts_of_scope = Selection(scope=job.scope, kinds=("fact",))
        for fact, vector in zip(facts, vectors, strict=True):
            known = await self._store.dense_candidates(facts_of_scope, vector, model=self._embedder.model, limit=1)
            scores = [c.score for c in known] + [float(vector @ other) for _, other in new]
            if max(scores, default=0.0) < SAME_FACT:
                new.append((fact, vector))
        return new
