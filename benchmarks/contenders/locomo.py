"""A memory that was told conversations of months, and is asked what was said in them. No language model is used.

The case names the embedder. First everything of a conversation is one run, then each session is a run of its own, and
last LoCoMo's observations are stored as facts beside the turns.
"""

import asyncio
import json
import os
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.footprint import report
from benchmarks.locomo_data import Conversation, coverage, marks, mean, read
from benchmarks.locomo_dates import score as score_dates
from benchmarks.locomo_models import LocalEmbedder, load
from ollama_async_mem import Memory
from ollama_async_mem.records import (
    Candidate,
    EmbeddingSpace,
    Fact,
    Hit,
    Message,
    Scope,
    Selection,
    StoredMemory,
    new_id,
)

CASE = json.loads(sys.argv[1])
DEPTH = 20  # where `mrr` no longer looks
USER = "somebody"


class Asked:
    """A memory that was told one conversation."""

    def __init__(self, conversation: Conversation, embedder: LocalEmbedder, file: Path) -> None:
        self.conversation = conversation
        self.embedder = embedder
        self.mem = Memory(file, embedder=embedder, extract_here=False)
        self.names: dict[str, str] = {}
        self.times: dict[str, datetime] = {}

    async def tell(self, *, runs: bool) -> None:
        """Add all turns; with `runs` each session is one."""
        for number, session in enumerate(self.conversation.sessions):
            messages = [Message(content=said.text, name=said.speaker) for said in session.turns]
            run = f"session-{number}" if runs else None
            added = await self.mem.add(messages, user_id=USER, run_id=run, timestamp=session.at, infer=False)
            self.names |= {turn.id: said.name for turn, said in zip(added.turns, session.turns, strict=True)}
            self.times |= {said.name: session.at for said in session.turns}

    async def tell_facts(self) -> None:
        """Store LoCoMo's observations as facts that are drawn from their turns."""
        ids = {name: turn_id for turn_id, name in self.names.items()}
        texts = [text for text, _ in self.conversation.observations]
        vectors = await self.embedder.embed_documents(texts)
        facts = [
            Fact(
                id=new_id(),
                scope=Scope(USER),
                text=text,
                at=self.times[names[0]],
                created_at=datetime.now(UTC),
                quote="",
                turn_ids=tuple(ids[name] for name in names),
            )
            for text, names in self.conversation.observations
        ]
        stored = [StoredMemory(memory=f, vector=v.tobytes()) for f, v in zip(facts, vectors, strict=True)]
        await self.mem.store.load(stored, space=EmbeddingSpace(self.embedder.model, len(vectors[0])))

    def told(self, hit: Hit | Candidate) -> frozenset[str]:
        """The turns that a hit tells."""
        memory = hit.memory
        ids = memory.turn_ids if isinstance(memory, Fact) else (memory.id,)
        return frozenset(self.names[i] for i in ids)

    async def ask(self) -> list[dict[str, float]]:
        """Score the hits of all questions."""
        rows = []
        for question in self.conversation.questions:
            found = await self.mem.search(question.text, user_id=USER, limit=DEPTH)
            rows.append(marks([self.told(hit) for hit in found.hits], question.evidence))
        return rows

    async def ask_words(self) -> list[dict[str, float]]:
        """Score the keyword index alone."""
        rows = []
        for question in self.conversation.questions:
            selection = Selection(scope=Scope(USER))
            found = await self.mem.store.keyword_candidates(selection, question.text, limit=DEPTH)
            rows.append(marks([self.told(candidate) for candidate in found], question.evidence))
        return rows

    async def ask_context(self) -> list[dict[str, float]]:
        """Score the block for a prompt by the words of the answers that stand in it."""
        rows = []
        for question in self.conversation.questions:
            if question.answer is not None:
                text = await self.mem.context(question.text, user_id=USER, max_tokens=CASE["max_tokens"])
                rows.append({"context_answer_coverage": coverage(question.answer, text)})
        return rows


async def measure(conversations: list[Conversation], embedder: LocalEmbedder, folder: Path) -> dict[str, float]:
    """All figures of one embedder, each the mean over all questions."""
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    low = 1.0
    for number, conversation in enumerate(conversations):
        one = Asked(conversation, embedder, folder / f"{number}.db")
        async with one.mem:
            await one.tell(runs=False)
            found = await one.ask()
            low = min(low, mean(found)["r_at_10"])
            rows[""] += found
            rows["bm25_"] += await one.ask_words()
            rows[" "] += await one.ask_context()
            await one.tell_facts()
            rows["facts_"] += await one.ask()
        runs = Asked(conversation, embedder, folder / f"{number}-runs.db")
        async with runs.mem:
            await runs.tell(runs=True)
            rows["runs_"] += await runs.ask()
    means = {name: value for prefix, of in rows.items() for name, value in mean(of, prefix.strip()).items()}
    return {**means, "lowest_r_at_10": low, "questions": len(rows[""])}


def main() -> None:
    """Report the figures of the case."""
    path = CASE.get("data") or os.environ.get("LOCOMO_PATH", "")
    if not path or not Path(path).exists():
        raise SystemExit(f"LoCoMo's data is not at {path!r}: give --data PATH, or set LOCOMO_PATH")
    raw = json.loads(Path(path).read_text(encoding="utf-8"))[: CASE["conversations"]]
    if CASE["embedder"] == "none":
        report(**score_dates(raw))
        return
    embedder = load(CASE["embedder"], Path(path))
    with TemporaryDirectory() as folder:
        figures = asyncio.run(measure([read(one) for one in raw], embedder, Path(folder)))
    report(**figures)


main()
