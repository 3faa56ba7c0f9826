"""Extraction behind the adds: takes jobs from the store's queue and turns them into facts.

The queue is in the store: a job survives a restart, and every process on the store shares the work. A job that
fails is given back with a time to try again; one whose answers cannot be used is given up, with the reason, and
its turns stay. A job that outlasts its lease may be taken by another process: the store then ignores this one's end.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio

from ollama_async_mem.errors import ExtractionFailed, ModelOutputError, OllamaError, RecordNotFound, StoreError
from ollama_async_mem.memory.extract import Extraction, extraction_messages, portions, repair_messages
from ollama_async_mem.memory.ground import source_of
from ollama_async_mem.records import Fact, Turn, new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.ports import ChatModel, Embedder, MemoryStore, Vector
    from ollama_async_mem.records import Job

__all__ = ["Ingest"]

_log = logging.getLogger(__name__)
LEASE = timedelta(minutes=15)
POLL_S = 5.0
SAME_FACT = 0.97


class Ingest:
    """Works off extraction jobs; `run` belongs in the task group of whoever owns it."""

    def __init__(self, store: MemoryStore, embedder: Embedder, llm: ChatModel) -> None:
        self._store = store
        self._embedder = embedder
        self._llm = llm
        self._news = anyio.Event()
        self._changed = anyio.Condition()
        self._busy = False

    def wake(self) -> None:
        """Say that a job was queued."""
        self._news.set()

    async def settled(self) -> int:
        """Wait until no job is due; returns how many wait for another try or are held by other processes."""
        async with self._changed:
            while self._busy or self._news.is_set():
                await self._changed.wait()
        return await self._store.pending_jobs()

    async def run(self) -> None:
        """Work until cancelled."""
        self.wake()  # jobs of an earlier process may be waiting
        while True:
            with anyio.move_on_after(POLL_S):
                await self._news.wait()
            self._busy, self._news = True, anyio.Event()
            try:
                await self._work_off()
            finally:
                self._busy = False
            async with self._changed:
                self._changed.notify_all()

    async def _work_off(self) -> None:
        try:
            while job := await self._store.claim_job(now=datetime.now(UTC), lease=LEASE):
                await self._attempt(job)
        except StoreError:
            _log.exception("extraction could not reach its queue; trying again in %g s", POLL_S)

    async def _attempt(self, job: Job) -> None:
        try:
            await self._extract(job)
        except OllamaError as exc:
            wait = timedelta(seconds=min(600, 5 * 4 ** (job.attempts - 1)))
            _log.info("extraction is put off by %s: %s", wait, exc)
            await self._store.release_job(job, error=str(exc), retry_at=datetime.now(UTC) + wait)
        except ModelOutputError as exc:
            _log.warning("extraction of job %s is given up, its turns stay: %s", job.id, exc)
            await self._store.release_job(job, error=str(exc), retry_at=None)

    async def _extract(self, job: Job) -> None:
        facts: list[Fact] = []
        for portion in portions(await self._turns(job)):
            facts += await self._facts(portion, job)
        vectors = await self._embedder.embed_documents([fact.text for fact in facts]) if facts else []
        new = await self._unknown(facts, vectors, job)
        await self._store.finish_job(job, [f for f, _ in new], [v for _, v in new], model=self._embedder.model)

    async def _turns(self, job: Job) -> list[Turn]:
        """Fetch the turns of a job that have not been deleted meanwhile."""
        turns: list[Turn] = []
        for turn_id in job.turn_ids:
            with contextlib.suppress(RecordNotFound):
                turn = await self._store.get(turn_id)
                if isinstance(turn, Turn):
                    turns.append(turn)
        return turns

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
        for fact, vector in zip(facts, vectors, strict=True):
            known = await self._store.dense_candidates(job.scope, vector, kinds=("fact",), limit=1)
            scores = [c.score for c in known] + [float(vector @ other) for _, other in new]
            if max(scores, default=0.0) < SAME_FACT:
                new.append((fact, vector))
        return new
