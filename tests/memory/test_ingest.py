"""The extraction behind the adds, on a real store and a scripted Ollama on a real socket."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from fakes import STALL, Hold, Raw, ScriptedOllama
from msgspec.structs import replace

from ollama_async_mem.counts import ExtractionCounts
from ollama_async_mem.events import FactAdded, FactReinforced, FactRejected, FactSuperseded, JobDone, JobFailed
from ollama_async_mem.records import Scope, Selection

from .bench import CHAT, asked, bench, copied, held, lines, told, turn

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_async_mem.records import Turn


async def test_what_is_found_is_stored_told_and_counted(server: ScriptedOllama, tmp_path: Path) -> None:
    """Facts with quote, turn, days, metadata and expiry; events once they are durable; counts of all."""
    said = {"I adopted a cat last Friday": "Mia adopted a cat on 2026-04-24.", "I like": "Mia owns a yacht in Monaco."}
    server.settings.answer = told(said)
    until = datetime(2100, 1, 1, tzinfo=UTC)
    async with bench(server, tmp_path / "m.db") as at:
        source = turn("I adopted a cat last Friday! I like her.", metadata={"app": "x"}, expires_at=until)
        job_id = await at.add(source)
        (fact,) = await at.facts()
        assert (fact.text, fact.quote) == ("Mia adopted a cat on 2026-04-24.", "I adopted a cat last Friday")
        assert (fact.turn_ids, fact.at, fact.metadata, fact.expires_at) == (
            (source.id,),
            source.at,
            {"app": "x"},
            until,
        )
        assert [str(day.start) for day in fact.dates] == ["2026-04-24"]
        assert at.events == [
            FactRejected("name", Scope("u"), (source.id,)),
            FactAdded(fact),
            JobDone(job_id, Scope("u"), 1),
        ]
        assert at.ingest.counts == ExtractionCounts(jobs_done=1, facts_added=1, rejected={"name": 1})
        assert await at.store.job_status(job_id) is None


async def test_what_piles_up_goes_into_one_request(server: ScriptedOllama, tmp_path: Path) -> None:
    """While the model is busy with a user, their further adds gather; then one request serves them all."""
    hold = Hold()
    server.enqueue(CHAT, held(hold, copied))
    server.settings.answer = copied
    async with bench(server, tmp_path / "m.db") as at:
        await at.queue(turn("I own boat 0"))
        await server.wait_until(lambda: len(server.requests_to(CHAT)) == 1)
        for n in range(1, 10):
            await at.queue(turn(f"I own boat {n}", day=n))
        assert len(server.requests_to(CHAT)) == 1  # one request at a time for each user
        hold.release()
        await at.ingest.settled()
        assert len(server.requests_to(CHAT)) == 2
        assert len(lines(server.requests_to(CHAT)[1].json)) == 9
        assert await at.texts() == [f"Mia own boat {n}" for n in range(10)]
        assert sorted(event.facts for event in at.told_of(JobDone)) == [1] * 10


async def test_users_do_not_wait_for_each_other(server: ScriptedOllama, tmp_path: Path) -> None:
    """Sixty-four users have sixty-four requests under way at the same time."""
    hold = Hold()
    server.enqueue(CHAT, held(hold, copied), repeat=True)
    async with bench(server, tmp_path / "m.db") as at:
        for n in range(64):
            await at.queue(turn("I own a boat", user=f"u{n}"))
        await server.wait_until(lambda: len(server.requests_to(CHAT)) == 64, timeout_s=10)
        hold.release()
        await at.ingest.settled()
        assert (await at.store.counts(Scope())).facts == 64


async def test_no_more_than_so_many_at_a_time(server: ScriptedOllama, tmp_path: Path) -> None:
    """`concurrency` is a limit, and the rest follows."""
    hold = Hold()
    server.enqueue(CHAT, held(hold, copied), held(hold, copied))
    server.settings.answer = copied
    async with bench(server, tmp_path / "m.db", concurrency=2) as at:
        for n in range(5):
            await at.queue(turn("I own a boat", user=f"u{n}"))
        await server.wait_until(lambda: len(server.requests_to(CHAT)) == 2)
        await anyio.sleep(0.05)
        assert len(server.requests_to(CHAT)) == 2
        hold.release()
        await at.ingest.settled()
        assert (await at.store.counts(Scope())).facts == 5


async def test_a_burst_is_waited_for_unless_somebody_waits(server: ScriptedOllama, tmp_path: Path) -> None:
    """The model is left alone until it is quiet for `idle_s`; `settled` cuts that short."""
    server.settings.answer = copied
    async with bench(server, tmp_path / "m.db", idle_s=0.2) as at:
        await at.ingest.settled()  # what was there at the start
        for n in range(4):
            await at.queue(turn(f"I own boat {n}", day=n))
            await anyio.sleep(0.02)
        assert server.requests_to(CHAT) == []
        await server.wait_until(lambda: len(server.requests_to(CHAT)) == 1)
        assert len(lines(server.requests_to(CHAT)[0].json)) == 4
    async with bench(server, tmp_path / "n.db", idle_s=60) as at:
        await at.ingest.settled()
        await at.queue(turn("I own a boat"))
        with anyio.fail_after(5):
            await at.ingest.settled()
        assert await at.texts() == ["Mia own a boat"]


async def test_one_job_is_not_waited_for_longer_than_it_takes(server: ScriptedOllama, tmp_path: Path) -> None:
    """`settled` with an id returns when that job was tried, whatever becomes of others."""
    server.enqueue(CHAT, Raw([STALL]))
    server.settings.answer = copied
    async with bench(server, tmp_path / "m.db") as at:
        await at.queue(turn("I own a boat", user="slow"))
        await server.wait_until(lambda: len(server.requests_to(CHAT)) == 1)
        job_id = await at.queue(turn("I own a boat", user="quick"))
        with anyio.fail_after(5):
            await at.ingest.settled(job_id)
        assert await at.texts("quick") == ["Mia own a boat"]


async def test_contradictions_end_what_was_known_and_keep_it(server: ScriptedOllama, tmp_path: Path) -> None:
    """A move, a retraction and a correction; `as_of` still sees what held, and the history says why it ended."""
    server.settings.answer = told(
        {
            "I live in Berlin": "Mia lives in Berlin.",
            "I moved to Rome": "Mia moved to Rome.",
            "I like tea": "Mia likes tea.",
            "I don't like tea": "Mia does not like tea.",
            "gate 4": "Mia's flight leaves from gate 4.",
            "actually it's gate 9": "Mia's flight leaves from gate 9.",
        }
    )
    async with bench(server, tmp_path / "m.db") as at:
        await at.add(turn("I live in Berlin and I like tea."), turn("My flight leaves from gate 4."))
        before = {fact.text: fact for fact in await at.facts()}
        await at.add(turn("I moved to Rome. I don't like tea any more.", day=5))
        await at.add(turn("Sorry, my flight, actually it's gate 9.", day=5))
        assert await at.texts() == ["Mia moved to Rome.", "Mia does not like tea.", "Mia's flight leaves from gate 9."]
        home = before["Mia lives in Berlin."]
        (rome,) = [fact for fact in await at.facts() if "Rome" in fact.text]
        assert (await at.store.get(home.id)).valid_to == rome.at  # type: ignore[union-attr]
        assert [(e.kind, e.by) for e in await at.store.history(home.id)][1:] == [("superseded", rome.id)]
        then = Selection(scope=Scope("u"), kinds=("fact",), as_of=rome.at - timedelta(days=1))
        assert {m.text for m in (await at.store.list(then, limit=9)).items} == set(before)
        assert FactSuperseded(home.id, rome.scope, rome.id, rome.at) in at.events
        assert at.ingest.counts.superseded == 3


async def test_an_import_of_the_past_does_not_end_the_present(server: ScriptedOllama, tmp_path: Path) -> None:
    """What was said earlier and comes later is stored as ended."""
    server.settings.answer = told({"I live in Berlin": "Mia lives in Berlin.", "I live in Rome": "Mia lives in Rome."})
    async with bench(server, tmp_path / "m.db") as at:
        await at.add(turn("I live in Rome", day=9))
        await at.add(turn("I live in Berlin", day=1))
        assert await at.texts() == ["Mia lives in Rome."]
        assert await at.texts(holding=False) == ["Mia lives in Berlin.", "Mia lives in Rome."]


async def test_the_same_said_again_is_one_fact_of_all_its_turns(server: ScriptedOllama, tmp_path: Path) -> None:
    """Paraphrases one after the other, and at once, from many tasks."""
    server.settings.answer = told({"I like tea": "Mia likes tea.", "I love tea": "Mia loves TEA!"})
    async with bench(server, tmp_path / "m.db") as at:
        first, again = turn("I like tea"), turn("I love tea", day=1)
        await at.add(first)
        await at.add(again)
        (fact,) = await at.facts()
        assert (fact.text, fact.turn_ids) == ("Mia likes tea.", (first.id, again.id))
        assert at.told_of(FactReinforced) == [FactReinforced(fact.id, again.scope, (again.id,))]
        await asyncio.gather(*(at.queue(turn("I like tea", user="v", day=n % 3)) for n in range(30)))
        await at.ingest.settled()
        (fact,) = await at.facts("v")
        assert len(fact.turn_ids) == 30


def within(text: str, *ids: str | None, day: int = 0) -> Turn:
    """A turn of a scope."""
    return replace(turn(text, day=day), scope=Scope(*ids))


async def test_a_contradiction_in_another_run_ends_what_was_known(server: ScriptedOllama, tmp_path: Path) -> None:
    """Each fact stays in the run where it was said, with its history."""
    server.settings.answer = told(
        {"I live in Berlin": "Mia lives in Berlin.", "I moved to Paris": "Mia moved to Paris."}
    )
    async with bench(server, tmp_path / "m.db") as at:
        await at.add(within("I live in Berlin", "u", None, "monday"))
        await at.add(within("I moved to Paris", "u", None, "tuesday", day=1))
        assert await at.texts() == ["Mia moved to Paris."]
        berlin, paris = await at.facts(holding=False)
        assert (berlin.scope, paris.scope) == (Scope("u", None, "monday"), Scope("u", None, "tuesday"))
        assert (berlin.valid_to, paris.valid_to) == (paris.at, None)
        assert [(e.kind, e.by) for e in await at.store.history(berlin.id)] == [
            ("added", None),
            ("superseded", paris.id),
        ]
        assert [e.kind for e in await at.store.history(paris.id)] == ["added"]
        assert at.told_of(FactSuperseded) == [FactSuperseded(berlin.id, paris.scope, paris.id, paris.at)]


async def test_the_same_in_another_run_is_said_again(server: ScriptedOllama, tmp_path: Path) -> None:
    """One fact has the turns of all the runs; the deletion of one run leaves it those of the others."""
    server.settings.answer = copied
    async with bench(server, tmp_path / "m.db") as at:
        turns = [within("I own a boat", "u", None, f"run {n}", day=n) for n in range(3)]
        for said in turns:
            await at.add(said)
        (fact,) = await at.facts()
        assert (fact.scope, fact.turn_ids) == (turns[0].scope, tuple(said.id for said in turns))
        assert at.told_of(FactReinforced) == [FactReinforced(fact.id, said.scope, (said.id,)) for said in turns[1:]]
        await at.store.delete_all(Selection(scope=turns[2].scope))
        (fact,) = await at.facts()
        assert fact.turn_ids == (turns[0].id, turns[1].id)


async def test_runs_of_a_user_at_the_same_time_give_one_fact(server: ScriptedOllama, tmp_path: Path) -> None:
    """The model is asked for one run after the other, so that the second knows what the first brought."""
    hold = Hold()
    server.enqueue(CHAT, held(hold, copied))
    server.settings.answer = copied
    async with bench(server, tmp_path / "m.db") as at:
        turns = [within("I own a boat", "u", "cook", f"run {n}") for n in range(5)]
        await asyncio.gather(*map(at.queue, turns))
        await server.wait_until(lambda: len(server.requests_to(CHAT)) == 1)
        assert await at.store.claim_jobs(now=datetime.now(UTC), lease=timedelta(), limit=1) == []
        hold.release()
        await at.ingest.settled()
        (fact,) = await at.facts()
        assert set(fact.turn_ids) == {said.id for said in turns}
        assert len(server.requests_to(CHAT)) == 5


async def test_runs_of_nobody_have_nothing_to_do_with_each_other(server: ScriptedOllama, tmp_path: Path) -> None:
    """Without user and agent, each run has its own facts, and none waits for another."""
    hold = Hold()
    server.enqueue(CHAT, held(hold, copied), repeat=True)
    async with bench(server, tmp_path / "m.db") as at:
        scopes = [Scope(None, None, "monday"), Scope(None, None, "tuesday"), Scope("u", None, "monday")]
        for scope in scopes:
            await at.queue(replace(turn("I own a boat"), scope=scope))
        await server.wait_until(lambda: len(server.requests_to(CHAT)) == 3)
        hold.release()
        await at.ingest.settled()
        assert sorted(added.fact.scope.run_id for added in at.told_of(FactAdded)) == ["monday", "monday", "tuesday"]
        assert at.told_of(FactReinforced) == []


async def test_what_a_user_told_agents_is_left_alone(server: ScriptedOllama, tmp_path: Path) -> None:
    """It belongs to others, and however much there is of it, it does not hide what the user said without one."""
    server.settings.answer = copied
    async with bench(server, tmp_path / "m.db") as at:
        for n in range(15):
            await at.queue(within("I own a boat", "u", f"agent {n}"))
        first, again = within("I own a boat", "u"), within("I own a boat", "u", None, "later", day=1)
        await at.add(first)
        await at.add(again)
        (mine,) = [fact for fact in await at.facts() if fact.scope == Scope("u")]
        assert mine.turn_ids == (first.id, again.id)
        assert len(await at.facts()) == 16


async def test_people_are_not_mixed_up(server: ScriptedOllama, tmp_path: Path) -> None:
    """Two users with the same name, two people in one conversation, and the assistant keep their own facts."""
    server.settings.answer = lambda body: json.dumps(
        {"facts": [{"line": n, "quote": said, "text": f"{who} {said[2:]}"} for n, who, said in lines(body)]}
    )
    async with bench(server, tmp_path / "m.db") as at:
        await at.add(turn("I lives in Berlin", "Anna", user="a"))
        await at.add(turn("I lives in Rome", "Anna", user="b", day=1))
        assert (await at.texts("a"), await at.texts("b")) == (["Anna lives in Berlin"], ["Anna lives in Rome"])
        mine, its = turn("I like tea", "user", user="c"), turn("I like tea", "assistant", user="c", role="assistant")
        await at.add(mine, its)
        facts = {fact.text: fact.turn_ids for fact in await at.facts("c")}
        assert facts == {"user like tea": (mine.id,), "assistant like tea": (its.id,)}


async def test_what_was_said_before_is_shown(server: ScriptedOllama, tmp_path: Path) -> None:
    """An answer is understood from the turns before it, which are not extracted again."""
    server.settings.answer = lambda body: json.dumps(
        {"facts": [{"line": 1, "quote": "Yes, very much", "text": "Mia likes hiking in Norway."}]}
        if "Yes" in asked(body)
        else {"facts": []}
    )
    async with bench(server, tmp_path / "m.db") as at:
        await at.add(turn("Do you like hiking in Norway?", "Ben"))
        await at.add(turn("Yes, very much", day=1))
        assert await at.texts() == ["Mia likes hiking in Norway."]
    assert "Ben: Do you like hiking in Norway?" in asked(server.requests_to(CHAT)[1].json)


async def test_a_caller_may_say_what_to_keep(server: ScriptedOllama, tmp_path: Path) -> None:
    """`prompt` replaces the instructions."""
    server.settings.answer = copied
    async with bench(server, tmp_path / "m.db", prompt="Only boats.") as at:
        await at.add(turn("I own a boat"))
    assert server.requests_to(CHAT)[0].json["messages"][0]["content"].startswith("Only boats.\n")


@pytest.mark.parametrize(
    ("verdict", "texts"),
    [
        ('{"verdicts": [{"pair": 1, "verdict": "same"}]}', ["Mia bought an old red bike in Rome."]),
        ('{"verdicts": [{"pair": 1, "verdict": "replaces"}]}', ["Mia purchased an old red bike in Rome."]),
        ("well, both", ["Mia bought an old red bike in Rome.", "Mia purchased an old red bike in Rome."]),
        ("{}", ["Mia bought an old red bike in Rome.", "Mia purchased an old red bike in Rome."]),
    ],
)
async def test_what_rules_cannot_tell_the_model_is_asked(
    server: ScriptedOllama, tmp_path: Path, verdict: str, texts: list[str]
) -> None:
    """Once for all pairs; where its answer cannot be read, both facts stay."""
    facts = told({t.removeprefix("Mia ").removesuffix("."): t for t in (
        "Mia bought an old red bike in Rome.", "Mia purchased an old red bike in Rome.")})  # fmt: skip

    def answer(body: dict[str, Any]) -> str:
        return verdict if "older and a newer" in body["messages"][0]["content"] else facts(body)

    server.settings.answer = answer
    async with bench(server, tmp_path / "m.db") as at:
        await at.add(turn("I bought an old red bike in Rome"))
        await at.add(turn("I purchased an old red bike in Rome", day=1))
        assert await at.texts() == texts
        assert at.told_of(JobFailed) == []
    assert len(server.requests_to(CHAT)) == 3
    pair = server.requests_to(CHAT)[2].json["messages"][1]["content"]
    assert '[2026-05-01] Mia bought an old red bike in Rome. said: "bought an old red bike in Rome"' in pair
    assert '[2026-05-02] Mia purchased an old red bike in Rome. said: "purchased an old red bike in Rome"' in pair


async def test_all_that_is_open_is_asked_about(server: ScriptedOllama, tmp_path: Path) -> None:
    """In several requests where one would be too long, and each answer counts for its own pairs."""
    homes = [f"I live in {'Upper ' * 30}Town{letter}" for letter in "ABCDEFGH"]
    requests: list[int] = []

    def answer(body: dict[str, Any]) -> str:
        if "older and a newer" not in body["messages"][0]["content"]:
            return copied(body)
        requests.append(body["messages"][1]["content"].count("older:"))
        verdict = "replaces" if "2026-05-20" in body["messages"][1]["content"] else "both"
        return json.dumps({"verdicts": [{"pair": n + 1, "verdict": verdict} for n in range(requests[-1])]})

    server.settings.answer = answer
    async with bench(server, tmp_path / "m.db") as at:
        for day, home in enumerate(homes[:-1]):
            await at.add(turn(home, day=day))
        assert len(await at.texts()) == len(homes) - 1
        requests.clear()
        await at.add(turn(homes[-1], day=19))
        assert len(requests) > 1
        assert sum(requests) == len(homes) - 1
        assert await at.texts() == [homes[-1].replace("I", "Mia", 1)]


async def test_system_messages_and_expired_turns_are_not_asked_about(server: ScriptedOllama, tmp_path: Path) -> None:
    """Where nothing else is in a job, there is no request."""
    async with bench(server, tmp_path / "m.db") as at:
        system = turn("I am the system", "system", role="system")
        expired = turn("I own a boat", expires_at=datetime(2020, 1, 1, tzinfo=UTC))
        job_id = await at.add(system, expired)
        assert await at.store.job_status(job_id) is None
    assert server.requests_to(CHAT) == []
