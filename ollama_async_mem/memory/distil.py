"""From the turns of some jobs to the facts that are to be stored: asks, checks, embeds and compares.

Owns the order of these steps and what goes over the network and to the store between them, not when they happen and
what becomes of failures.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec

from ollama_async_mem.errors import ExtractionFailed, ModelOutputError
from ollama_async_mem.filters import AllOf, Compare, Field
from ollama_async_mem.memory.courtesy import Courtesy
from ollama_async_mem.memory.extract import Extraction, Verdicts, left_out, portions, read_facts, read_verdicts
from ollama_async_mem.memory.ground import Grounded, Rejected, ground
from ollama_async_mem.memory.procedures import PROCEDURE
from ollama_async_mem.memory.prompts import extraction_messages, repair_messages, verdict_messages, verdict_portions
from ollama_async_mem.memory.reconcile import Plan, reconcile
from ollama_async_mem.records import Candidate, Fact, Selection, Turn, new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.filters import Condition
    from ollama_async_mem.memory.extract import Statement, Verdict
    from ollama_async_mem.ports import ChatModel, Embedder, MemoryStore, Vector
    from ollama_async_mem.records import Job, MemoryRecord, Scope

__all__ = ["Distiller", "Findings"]

MOST_FACTS = 50
"""Most facts of one request: more is a model that repeats itself."""
_EARLIER = 2
_NEAR = 12
_MOST_PAIRS = 20


class Findings(msgspec.Struct, frozen=True):
    """What was found in the turns of some jobs; `vectors[i]` belongs to `plan.added[i]`."""

    plan: Plan = Plan()
    vectors: tuple[Vector, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    repaired: int = 0


class Distiller:
    """Draws facts from turns, with a model, an embedder, and the facts that a store has."""

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        llm: ChatModel,
        *,
        instructions: str | None = None,
        courtesy: Courtesy | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._llm = llm
        self._instructions = instructions
        self._courtesy = courtesy or Courtesy()
        self._thinking = anyio.CapacityLimiter(1)  # threads: several would keep the event loop from the interpreter

    async def distil(self, jobs: Sequence[Job]) -> Findings:
        """Find the facts of jobs of one scope and one prompt, their turns taken together.

        Raises:
            ExtractionFailed: what the model answers does not fit, also not after one repair.
            OllamaError: the model or the embedder cannot be had.
            StoreError: the store cannot be read.
        """
        turns = await self._turns(jobs)
        earlier = await self._earlier(turns)
        grounded: list[Grounded] = []
        rejected = [Rejected("too long", turn) for turn in left_out(turns)]
        repaired = 0
        for portion in portions(turns):
            statements, was_repaired = await self._ask(portion, earlier, jobs[0].prompt or self._instructions)
            rest = [Rejected("too many")] * (len(statements) - MOST_FACTS)
            check = partial(ground, statements[:MOST_FACTS], portion, earlier=earlier)
            kept, dropped = await anyio.to_thread.run_sync(check, limiter=self._thinking)  # some 10 ms of words
            grounded += kept
            rejected += [*dropped, *rest]
            repaired += was_repaired
            earlier = portion[-_EARLIER:]
        plan, vectors = await self._compared(_facts(grounded, jobs[0].scope))
        return Findings(plan, vectors, tuple(rejected), repaired)

    async def _turns(self, jobs: Sequence[Job]) -> list[Turn]:
        """Fetch what was said by people and still counts: no system messages, nothing deleted or expired meanwhile."""
        now = datetime.now(UTC)
        ids = dict.fromkeys(turn_id for job in jobs for turn_id in job.turn_ids)
        found = await self._store.get_many(list(ids))
        turns = [memory for memory in found if isinstance(memory, Turn) and memory.role != "system"]
        return [turn for turn in turns if _is_alive(turn, now)]

    async def _earlier(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        if not turns:
            return ()
        around = await self._store.neighbours([turns[0].id], before=_EARLIER, after=0)
        return [turn for turn in around.get(turns[0].id, ()) if turn.role != "system"]

    async def _ask(
        self, turns: Sequence[Turn], earlier: Sequence[Turn], instructions: str | None
    ) -> tuple[list[Statement], bool]:
        """Ask for facts, and whether that took a second time: what cannot be read is shown to the model once."""
        messages = extraction_messages(turns, earlier=earlier, instructions=instructions)
        try:
            return await self._statements(messages), False
        except ModelOutputError as exc:
            try:
                return await self._statements(repair_messages(messages, exc)), True
            except ModelOutputError as again:
                raise ExtractionFailed(str(again), output=again.output) from again

    async def _statements(self, messages: Sequence[dict[str, str]]) -> list[Statement]:
        answer = await self._answer(messages, Extraction)
        return answer.facts if isinstance(answer, Extraction) else read_facts(answer)

    async def _answer(self, messages: Sequence[dict[str, str]], schema: type[Any]) -> Any:
        """Ask for an instance of a schema; where the answer is none, return its text.

        Raises:
            ModelOutputError: the model called a tool in place of an answer.
        """
        await self._courtesy.wait()
        try:
            answer = await self._llm.generate(messages, schema=schema)
        except ModelOutputError as exc:
            return exc.output
        if answer is None:
            raise ModelOutputError("the model called a tool in place of an answer")
        return answer

    async def _compared(self, facts: list[Fact]) -> tuple[Plan, tuple[Vector, ...]]:
        """Decide what becomes of facts; returns also the vectors of those that are to be added."""
        if not facts:
            return Plan(), ()
        vectors = await self._embedder.embed_documents([fact.text for fact in facts])
        near = [await self._near(fact, vector) for fact, vector in zip(facts, vectors, strict=True)]
        plan = await anyio.to_thread.run_sync(reconcile, facts, near, limiter=self._thinking)
        if plan.open:
            verdicts = await self._verdicts(plan.open[:_MOST_PAIRS])
            plan = await anyio.to_thread.run_sync(reconcile, facts, near, verdicts, limiter=self._thinking)
        by_id = {fact.id: vector for fact, vector in zip(facts, vectors, strict=True)}
        return plan, tuple(by_id[fact.id] for fact in plan.added)

    async def _near(self, fact: Fact, vector: Vector) -> list[Candidate]:
        """Find the owner's known facts that are nearest to a new one, also those that ended, but none that expired."""
        owner, model = fact.scope.owner, self._embedder.model
        facts = Selection(scope=owner, kinds=("fact",), everything=True)
        found = await self._store.dense_candidates(facts, vector, model=model, limit=_NEAR)
        if any(c.memory.scope.owner != owner for c in found):  # rare, and a filter takes many times longer
            facts = msgspec.structs.replace(facts, where=_without_others(owner))
            found = await self._store.dense_candidates(facts, vector, model=model, limit=_NEAR)
        now = datetime.now(UTC)
        return [c for c in found if _is_alive(c.memory, now) and PROCEDURE not in c.memory.metadata]

    async def _verdicts(self, pairs: Sequence[tuple[Fact, Fact]]) -> dict[tuple[str, str], Verdict]:
        """Ask about all open pairs, at once where they fit into one request."""
        verdicts: dict[tuple[str, str], Verdict] = {}
        for portion in verdict_portions(pairs):
            verdicts |= await self._judged(portion)
        return verdicts

    async def _judged(self, pairs: Sequence[tuple[Fact, Fact]]) -> dict[tuple[str, str], Verdict]:
        """Ask about some pairs. Where no answer can be read there is no verdict, and both facts stay."""
        try:
            answer = await self._answer(verdict_messages(pairs), Verdicts)
            found = answer.verdicts if isinstance(answer, Verdicts) else read_verdicts(answer)
        except ModelOutputError:
            return {}
        ids = {number: (old.id, new.id) for number, (old, new) in enumerate(pairs, 1)}
        return {ids[given.pair]: given.verdict for given in found if given.pair in ids}


def _is_alive(memory: MemoryRecord, now: datetime) -> bool:
    return memory.expires_at is None or memory.expires_at > now


def _without_others(owner: Scope) -> Condition:
    """A filter for a scope, which alone also means what a user has with any agent, and a run of anybody."""
    missing = [name for name in ("user_id", "agent_id") if getattr(owner, name) is None]
    return AllOf(tuple(Compare(Field(name), "exists", False) for name in missing))


def _facts(grounded: Sequence[Grounded], scope: Scope) -> list[Fact]:
    """Make facts; each lasts as long as the turn it comes from, and has its metadata."""
    now = datetime.now(UTC)
    return [
        Fact(
            id=new_id(),
            scope=scope,
            text=found.text,
            quote=found.quote,
            at=found.turn.at,
            created_at=now,
            turn_ids=(found.turn.id,),
            metadata=found.turn.metadata,
            expires_at=found.turn.expires_at,
            dates=found.dates,
        )
        for found in grounded
    ]
