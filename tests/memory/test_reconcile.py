"""What becomes of new facts beside those that are known."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem.memory.reconcile import Plan, reconcile
from ollama_async_mem.records import Candidate, Fact, Scope, new_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def fact(text: str, day: int = 0, *, scope: str = "u", quote: str = "", **fields: Any) -> Fact:
    """A fact that was said some days after the first of May; of herself Mia says "I"."""
    at = NOON + timedelta(days=day)
    return Fact(
        id=new_id(), scope=Scope(scope), text=text, at=at, created_at=NOON, quote=quote or text.replace("Mia", "I", 1),
        turn_ids=(new_id(),), **fields,
    )  # fmt: skip


def outcome(known: str, new: str, *, days: int = 1, score: float = 0.5, quote: str = "") -> str:
    """What happens to a new fact beside one that is known: one word."""
    old, late = fact(known), fact(new, days, quote=quote)
    plan = reconcile([late], [[Candidate(old, score)]])
    if plan.reinforced:
        assert (plan.added, plan.superseded, plan.reinforced[0].turn_ids) == ((), (), late.turn_ids)
        return "reinforce"
    assert plan.added == (late,)
    if not plan.superseded:
        return "open" if plan.open else "add"
    (ended,) = plan.superseded
    assert ended.valid_to == max(old.at, late.at)
    return "supersede" if (ended.fact_id, ended.by) == (old.id, late.id) else "too late"


@pytest.mark.parametrize(
    ("known", "new"),
    [
        ("Mia lives in Berlin.", "mia lives in BERLIN"),
        ("Mia lives in Berlin.", "Mia: I live in Berlin!"),
        ("Mia lives in Berlin with Ben.", "Mia is living in Berlin."),
        ("Mia lives in Berlin.", "Mia is used to living in Berlin."),
        ("Mia likes tea.", "Mia loves tea!"),
        ("Mia likes tea.", "Mia likes the tea"),
        ("Mia's cat is named Pixel.", "Mia's cat is called Pixel."),
        ("Mia works at Google as an engineer.", "Mia works at Google."),
        ("Mia adopted a cat on 2026-03-01.", "Mia adopted a cat."),
        ("\u6211\u559c\u6b22\u8336", "\u6211\u559c\u6b22\u8336\u3002"),
    ],
)
def test_what_is_known_is_said_again(known: str, new: str) -> None:
    """The same in other case, punctuation and words, or with less to it."""
    assert outcome(known, new) == "reinforce"


@pytest.mark.parametrize(
    ("known", "new"),
    [
        ("Mia lives in Berlin.", "Mia lives in Munich."),
        ("Mia lives in Berlin.", "Mia moved to Munich."),
        ("Mia lives in Berlin.", "Mia: I moved from Berlin to Munich."),
        ("Mia lives in Berlin.", "Mia no longer lives in Berlin."),
        ("Mia works at Google.", "Mia started a new job at Acme."),
        ("Mia works at Google.", "Mia left Google."),
        ("Mia works at Google.", "Mia quit her job at Google."),
        ("Mia works as a nurse.", "Mia works as a teacher."),
        ("Mia is 30 years old.", "Mia is 31 years old."),
        ("Mia is 30 years old.", "Mia turned 31."),
        ("Mia's favourite color is red.", "Mia's favorite color is blue."),
        ("Mia's email is a@example.org.", "Mia's email is b@example.org."),
        ("Mia's boss is Ann.", "Mia's new boss is Zoe."),
        ("Mia is married to Ben.", "Mia is divorced."),
        ("Mia is dating Ben.", "Mia broke up with Ben."),
        ("Mia likes tea.", "Mia does not like tea."),
        ("Mia likes tea.", "Mia hates tea."),
        ("Mia does not like tea.", "Mia likes tea."),
        ("Mia plays tennis.", "Mia stopped playing tennis."),
        ("Mia plays tennis.", "Mia does not play tennis any more."),
        ("Mia has a car.", "Mia sold her car."),
        ("Mia is allergic to peanuts.", "Mia is not allergic to peanuts."),
        ("Mia likes coffee.", "Mia can't stand coffee."),
        ("Mia likes green tea.", "Mia does not like tea."),
        ("Mia is fond of tea.", "Mia is not a big fan of tea."),
        ("Mia lives in Berlin.", "Mia moved back to Hamburg."),
        ("Mia lives in San Francisco.", "Mia lives in San Diego."),
        ("Mia lives in Germany.", "Mia lives in France."),
        ("Mia works at Google.", "Mia got fired from Google."),
        ("Mia works at Google.", "Mia lost her job at Google."),
        ("Mia works at Google.", "Mia quit her job."),
        ("Mia works as a nurse.", "Mia is retired."),
        ("Mia is married to Ben.", "Mia left Ben."),
        ("Mia's husband is Ben.", "Mia divorced Ben."),
        ("Mia's husband is Ben.", "Mia's husband is Tom."),
        ("Mia is 30 years old.", "Mia is 31."),
        ("Mia's phone number is 123.", "Mia's phone number is 124."),
        ("The meeting is on Friday.", "The meeting is on Thursday."),
        ("The meeting is on 2026-06-05.", "The meeting was moved to 2026-06-04."),
        ("\u6211\u559c\u6b22\u8336", "\u6211\u4e0d\u559c\u6b22\u8336"),
    ],
)
def test_a_contradiction_ends_what_was_known(known: str, new: str) -> None:
    """Another value of what one has one of, a denial, a retraction; said earlier, it is the one that ended."""
    assert outcome(known, new) == "supersede"
    assert outcome(known, new, days=0) == "supersede"
    assert outcome(known, new, days=-5) == "too late"


@pytest.mark.parametrize(
    ("known", "new"),
    [
        ("Mia lives in Berlin.", "Ben lives in Munich."),
        ("Mia likes tea.", "Ben likes tea."),
        ("User likes tea.", "Assistant likes tea."),
        ("Anna lives in Berlin.", "Mia's sister Anna lives in Paris."),
        ("Mia likes tea.", "Mia likes coffee."),
        ("Mia has a cat.", "Mia has a dog."),
        ("Mia has a cat.", "Mia has a cat allergy."),
        ("Mia told Ben.", "Ben told Mia."),
        ("Mia works as a nurse.", "Mia works at Charit\u00e9."),
        ("Mia's favorite food is pizza.", "Mia's favorite color is blue."),
        ("Mia does not live in Berlin.", "Mia lives in Munich."),
        ("Mia lives in Berlin.", "Mia lives in Berlin with her husband Ben."),
        ("Mia lives in Berlin.", "Mia lives in a small flat."),
        ("Mia went to the gym on 2026-03-01.", "Mia went to the gym on 2026-03-08."),
        ("Mia visited Rome in 2024.", "Mia visited Rome in 2025."),
        ("Mia ran 5 km.", "Mia ran 10 km."),
        ("Mia is married.", "Mia is married to Ben."),
        ("Mia left Google.", "Mia works at Acme."),
        ("Mia lives in Berlin.", "Mia used to live in Rome."),
        ("Mia lives in Berlin.", "Mia was living in Rome."),
        ("Mia lives in Berlin.", "Mia will move to Paris."),
        ("Mia works at Google.", "Mia also works at Acme."),
        ("Mia works at Google.", "Mia has never left Google."),
        ("Mia works at Google.", "Mia is not retired."),
        ("Mia has a house.", "Mia left the house."),
        ("Mia owns a house in Rome.", "Mia left Rome."),
        ("Mia has a dog named Rex.", "Mia has a dog named Max."),
        ("Mia's husband is Ben.", "Mia's husband is 40 years old."),
        ("Mia's boss is Ann.", "Mia's boss is on vacation."),
        ("Mia's boss is Zoe.", "Mia's boss was Ann."),
        ("Mia's address is 5 Main St.", "Mia's address is outdated."),
        ("Mia is married.", "Mia is engaged in politics."),
        ("Mia is married.", "Mia is a single mother."),
        ("Mia likes tea.", "Mia does not like green tea."),
        ("Mia does not like spicy food.", "Mia likes food."),
        ("Mia is allergic to peanuts.", "Mia is allergic to shrimp."),
        ("Mia is 30 years old.", "Mia turned down an offer."),
        ("Mia is 30 years old.", "Mia's shoe size is 38."),
        ("Mia leaves on Friday.", "Mia starts on Monday."),
        ("Mia will visit Rome.", "Mia visited Rome."),
    ],
)
def test_what_fits_together_stays_together(known: str, new: str) -> None:
    """Other people, other values of what one has many of, more detail, other days and numbers."""
    for days in (-1, 0, 1):
        assert outcome(known, new, days=days) == "add"


def told(*said: tuple[str, str], verdict: Any = None) -> str:
    """What happens to the second of two facts, each given as its text and its quote."""
    old, new = (fact(text, day, quote=quote) for day, (text, quote) in enumerate(said))
    plan = reconcile([new], [[Candidate(old, 0.9)]], {(old.id, new.id): verdict} if verdict else None)
    return "supersede" if plan.superseded else "open" if plan.open else "add" if plan.added else "reinforce"


SISTER = ("Ann lives in Berlin.", "my sister Ann lives in Berlin")
BARE = ("Ann lives in Berlin.", "Ann lives in Berlin")


@pytest.mark.parametrize(
    ("known", "new", "what"),
    [
        (SISTER, ("Ann lives in Rome.", "my boss Ann lives in Rome"), "add"),
        (SISTER, ("Ann lives in Rome.", "Ann, my old boss, lives in Rome"), "add"),
        (SISTER, ("Ann lives in Rome.", "Ann is my boss, she lives in Rome"), "add"),
        (SISTER, ("Ann lives in Rome.", "my friend Ann lives in Rome"), "open"),
        (SISTER, ("Ann lives in Berlin.", "our boss Ann lives in Berlin"), "add"),
        (SISTER, ("Ann lives in Berlin.", "my big sister Ann lives in Berlin"), "reinforce"),
        (SISTER, ("Ann lives in Rome.", "my sister Ann lives in Rome now"), "supersede"),
        (BARE, ("Ann lives in Rome.", "Ann lives in Rome"), "open"),
        (BARE, ("Ann moved to Rome.", "Ann moved to Rome"), "supersede"),
        (BARE, ("Ann lives in Rome.", "Actually Ann lives in Rome"), "supersede"),
        (BARE, ("Ann lives in Rome.", "I'm Ann and I live in Rome"), "supersede"),
        (BARE, ("Ann lives in Rome.", "I live in Rome"), "supersede"),
        (("Ann works at Acme.", "Ann works at Acme"), ("Ann left Acme.", "Ann left Acme"), "supersede"),
        (("User lives in Berlin.", "user lives in Berlin"), ("User lives in Rome.", "user lives in Rome"), "supersede"),
    ],
)
def test_two_people_may_have_one_name(known: tuple[str, str], new: tuple[str, str], what: str) -> None:
    """Where they are something else to the speaker they are two; where nothing tells of a change it is left open."""
    assert told(known, new) == what


def test_a_verdict_tells_whether_it_is_the_same_person() -> None:
    """What a rule leaves open is decided by it."""
    rome = ("Ann lives in Rome.", "Ann lives in Rome")
    assert told(BARE, rome, verdict="replaces") == "supersede"
    assert told(BARE, rome, verdict="both") == "add"


def test_a_correction_takes_the_place_of_what_it_corrects() -> None:
    """The words that were said tell that it is one; "also" tells that it is none."""
    known, new = "Mia's flight leaves from gate 4.", "Mia's flight leaves from gate 9."
    assert outcome(known, new, quote="Sorry, actually it's gate 9") == "supersede"
    assert outcome(known, new, quote="Actually there is also one from gate 9") == "add"


@pytest.mark.parametrize(
    ("known", "new", "quote"),
    [
        ("Kreuzberg", "Berlin", ""),
        ("Berlin", "Kreuzberg", ""),
        ("Berlin", "Germany", ""),
        ("Soho", "New York", ""),
        ("Brooklyn", "New York", "I just love it here in New York"),
        ("Germany", "Europe", ""),
        ("Scotland", "the United Kingdom", ""),
        ("Berlin", "Kreuzberg", "Actually I live in Kreuzberg"),
        ("Berlin", "Kreuzberg", "I live in Kreuzberg since I was born"),
        ("Kreuzberg", "Berlin", "I live in Berlin since 2019"),
        ("Avignon", "Nimes", ""),
    ],
)
def test_a_place_may_lie_in_another(known: str, new: str, quote: str) -> None:
    """Whether now or months later: without words of a move nothing is ended, and a verdict is asked for."""
    for days in (0, 1, 200):
        assert outcome(f"Mia lives in {known}.", f"Mia lives in {new}.", days=days, quote=quote) == "open"


@pytest.mark.parametrize(
    ("known", "new", "quote"),
    [
        ("Mia lives in Paris.", "Mia moved to Lyon.", ""),
        ("Mia lives in Avignon.", "Mia moved to Nimes.", ""),
        ("Mia lives in Avignon.", "Mia relocated to Nimes.", ""),
        ("Mia lives in Avignon.", "Mia now lives in Nimes.", ""),
        ("Mia lives in Avignon.", "Mia lives in Nimes.", "these days I live in Nimes"),
        ("Mia lives in Avignon.", "Mia lives in Nimes.", "I used to live in Avignon, I live in Nimes"),
        ("Mia lives in Avignon.", "Mia lives in Nimes.", "I no longer live there but in Nimes"),
        ("Mia lives in Avignon.", "Mia lives in Nimes.", "I live in Nimes instead"),
        ("Mia lives in Avignon.", "Mia lives in Nimes.", "I live in Nimes since I married"),
        ("Mia lives in Avignon.", "Mia lives in Nimes since 2026-05-02.", ""),
        ("Mia lives in Avignon.", "Mia lives in Nimes.", "sorry, I meant Nimes"),
        ("Mia lives in Berlin.", "Mia moved to Canada.", ""),
        ("Mia lives in Paris.", "Mia lives in Lyon.", ""),
        ("Mia lives in New York.", "Mia lives in Los Angeles.", ""),
        ("Mia lives in France.", "Mia lives in New Zealand.", ""),
    ],
)
def test_a_home_ends_by_a_move(known: str, new: str, quote: str) -> None:
    """The words tell of it, or both are cities, or countries: they do not lie in each other."""
    assert outcome(known, new, days=2, quote=quote) == "supersede"


def test_where_somebody_moved_before_tells_nothing_of_later_words() -> None:
    """Who moved to Berlin and lives in Kreuzberg did not move again, whichever is heard first."""
    assert outcome("Mia moved to Berlin.", "Mia lives in Kreuzberg.") == "open"
    assert outcome("Mia lives in Kreuzberg.", "Mia moved to Berlin.", days=-1) == "open"


def test_a_move_that_is_told_late_is_history() -> None:
    """Where somebody moved years ago does not end where they are known to live since."""
    assert outcome("Mia lives in Munich.", "Mia moved to Berlin in 2019.") == "add"


def test_a_high_cosine_alone_is_not_enough() -> None:
    """Nothing may differ that counts."""
    assert outcome("Mia adopted a little grey cat.", "Mia adopted a cat.", score=0.98) == "reinforce"
    assert outcome("Mia adopted a little grey cat.", "Mia adopted a cat.", score=0.5) == "add"
    assert outcome("Mia adopted 2 cats.", "Mia adopted 3 cats.", score=0.99) != "reinforce"
    assert outcome("Mia adopted a cat.", "Mia adopted a dog.", score=0.99) != "reinforce"
    assert outcome("Mia trusts Ben.", "Ben trusts Mia.", score=0.99) == "add"


@pytest.mark.parametrize(
    ("known", "new"),
    [
        ("Mia has two cats.", "Mia has three cats."),
        ("Mia works at a bakery.", "Mia works at a hospital."),
        ("Mia purchased an old bike.", "Mia bought an old bike."),
    ],
)
def test_what_may_be_the_same_is_left_open(known: str, new: str) -> None:
    """Numbers of things, kinds of places and other words for it, where the vectors are near."""
    assert outcome(known, new, score=0.9) == "open"
    assert outcome(known, new) == "add"


def test_different_people_are_not_asked_about() -> None:
    """However near they are, and allergies are not mixed up either."""
    assert outcome("Mia's son is 5 years old.", "Mia's daughter is 7 years old.", score=0.95) == "add"
    assert outcome("Mia is allergic to peanuts.", "Mia is severely allergic to shrimp.", score=0.95) == "add"


def test_what_rules_cannot_tell_is_left_to_a_verdict() -> None:
    """Both stay without one; a verdict cannot equate what differs in numbers, and ends what was said earlier."""
    old = fact("Mia bought an old bike.")
    new, late = fact("Mia purchased an old bicycle.", 1), fact("Mia purchased 2 old bicycles.", 1)
    near = [[Candidate(old, 0.9)]]
    assert reconcile([new], near).open == ((old, new),)
    assert reconcile([new], near, {(old.id, new.id): "same"}).reinforced
    assert reconcile([new], near, {(old.id, new.id): "replaces"}).superseded[0].fact_id == old.id
    both = reconcile([new], near, {(old.id, new.id): "both"})
    assert (both.added, both.superseded, both.open) == ((new,), (), ())
    assert reconcile([late], near, {(old.id, late.id): "same"}).added == (late,)
    early = fact(new.text, -1)
    (ended,) = reconcile([early], near, {(old.id, early.id): "replaces"}).superseded
    assert (ended.fact_id, ended.by, ended.valid_to) == (early.id, old.id, old.at)
    over = [[Candidate(fact(old.text, valid_to=new.at), 0.9)]]
    assert reconcile([new], over).open == ()  # it had ended by then


def test_facts_of_one_answer_are_compared_too() -> None:
    """Twins are one fact of both turns, and a later word ends an earlier one."""
    one, two, three = fact("Mia lives in Berlin."), fact("mia lives in Berlin", 1), fact("Mia lives in Rome.", 2)
    plan = reconcile([three, two, one], [[], [], []])
    assert [f.text for f in plan.added] == ["Mia lives in Berlin.", "Mia lives in Rome."]
    assert plan.added[0].turn_ids == (*one.turn_ids, *two.turn_ids)
    assert [(s.fact_id, s.by, s.valid_to) for s in plan.superseded] == [(one.id, three.id, three.at)]


def test_what_comes_true_again_is_new() -> None:
    """An ended fact is not revived; one that is only told again from the time it held is."""
    ended = fact("Mia lives in Berlin.", 0, valid_to=NOON + timedelta(days=5))
    again, earlier = fact("Mia lives in Berlin.", 9), fact("Mia lives in Berlin.", 2)
    assert reconcile([again], [[Candidate(ended, 1.0)]]).added == (again,)
    assert reconcile([earlier], [[Candidate(ended, 1.0)]]).reinforced[0].fact_id == ended.id


def test_what_lasts_longer_is_not_given_to_what_expires() -> None:
    """A fact that expires does not take in one that does not."""
    short = fact("Mia likes tea.", expires_at=NOON + timedelta(days=9))
    plan = reconcile([fact("Mia likes tea.", 1)], [[Candidate(short, 1.0)]])
    assert len(plan.added) == 1
    assert reconcile([fact("Mia likes tea.", 1, expires_at=short.expires_at)], [[Candidate(short, 1.0)]]).reinforced


@pytest.mark.parametrize(
    ("known", "new", "is_same"),
    [
        (Scope("u", None, "monday"), Scope("u", None, "tuesday"), True),
        (Scope("u", "cook", "monday"), Scope("u", "cook"), True),
        (Scope(None, "cook", "monday"), Scope(None, "cook", "tuesday"), True),
        (Scope("u"), Scope("v"), False),
        (Scope("u"), Scope("u", "cook"), False),
        (Scope("u"), Scope(None, "u"), False),
        (Scope(None, "cook"), Scope("u", "cook"), False),
        (Scope(None, None, "monday"), Scope(None, None, "tuesday"), False),
        (Scope(None, None, "monday"), Scope("u", None, "monday"), False),
    ],
)
def test_others_are_left_alone(known: Scope, new: Scope, is_same: bool) -> None:  # noqa: FBT001 - a parameter
    """A fact of another owner is neither said again nor ended, also where a wider scope finds it; one of a run is."""
    for one, other in ((known, new), (new, known)):
        near = [[Candidate(msgspec.structs.replace(fact("Mia lives in Berlin."), scope=one), 1.0)]]
        again, moved = (
            reconcile([msgspec.structs.replace(fact(text, 1), scope=other)], near)
            for text in ("Mia lives in Berlin.", "Mia lives in Rome.")
        )
        assert (len(again.added), len(again.reinforced)) == ((0, 1) if is_same else (1, 0))
        assert (len(moved.added), len(moved.superseded), moved.open) == (1, int(is_same), ())


SAID = ("Mia lives in Berlin.", "Mia moved to Rome.", "Mia likes tea.", "Mia hates tea.", "Ben lives in Berlin.",
        "Mia no longer lives in Rome.", "Mia has a cat.", "mia likes TEA")  # fmt: skip


class Kept:
    """A store of facts in a list."""

    def __init__(self) -> None:
        self.facts: dict[str, Fact] = {}

    def take(self, new: Sequence[Fact]) -> Plan:
        """Reconcile facts with those that are kept, and keep what comes of it."""
        plan = reconcile(new, [[Candidate(known, 0.5) for known in self.facts.values()]] * len(new))
        self.facts |= {added.id: added for added in plan.added}
        for ended in plan.superseded:
            known = self.facts[ended.fact_id]
            until = min(known.valid_to or ended.valid_to, ended.valid_to)
            self.facts[known.id] = msgspec.structs.replace(known, valid_to=until)
        for again in plan.reinforced:
            known = self.facts[again.fact_id]
            self.facts[known.id] = msgspec.structs.replace(known, turn_ids=(*known.turn_ids, *again.turn_ids))
        return plan

    def state(self) -> set[tuple[str, datetime, datetime | None]]:
        """What is kept, without ids."""
        return {(f.text, f.at, f.valid_to) for f in self.facts.values()}


def taken(batches: Iterable[Sequence[Fact]]) -> Kept:
    """A store that took these."""
    kept = Kept()
    for batch in batches:
        kept.take(batch)
    return kept


statements = st.lists(st.sampled_from(SAID), min_size=1, max_size=6)


@given(statements)
def test_taking_the_same_again_changes_nothing(texts: list[str]) -> None:
    """The second time everything is known, whatever was ended meanwhile."""
    facts = [fact(text, day) for day, text in enumerate(texts)]
    kept = taken([facts])
    before = kept.state()
    again = [msgspec.structs.replace(f, id=new_id()) for f in facts]
    plan = kept.take(again)
    assert plan.added == ()
    assert plan.reinforced == ()  # these turns are known
    assert kept.state() == before


@given(statements)
def test_one_by_one_is_as_good_as_together(texts: list[str]) -> None:
    """What was said in order gives the same in one batch as in many."""
    facts = [fact(text, day) for day, text in enumerate(texts)]
    assert taken([facts]).state() == taken([[f] for f in facts]).state()


@given(st.sampled_from(SAID), st.integers(2, 6))
def test_identical_adds_give_one_fact_in_any_order(text: str, count: int) -> None:
    """Whichever comes first, there is one fact, and it has all the turns."""
    facts = [fact(text) for _ in range(count)]
    for order in itertools.islice(itertools.permutations(facts), 6):
        (only,) = taken([[f] for f in order]).facts.values()
        assert set(only.turn_ids) == {id_ for f in facts for id_ in f.turn_ids}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_homes_end_where_the_next_begins_in_any_order_of_import(order: tuple[int, ...]) -> None:
    """An old conversation that is imported late gives the same history."""
    facts = [fact(f"Mia lives in {place}.", day) for day, place in enumerate(("Berlin", "Rome", "Oslo"))]
    ends = {f.text: f.valid_to for f in taken([[facts[n]] for n in order]).facts.values()}
    assert ends == {facts[0].text: facts[1].at, facts[1].text: facts[2].at, facts[2].text: None}


PIECES = ("Mia", "Mia's", "the", "is", "not", "has", "lives in", "Berlin", "@", "3", "tea", "left", "her job", "boss",
          "favorite", "on Friday", "retired", "'", "likes", "turned", ":", "\u8336", "also", "used to")  # fmt: skip
anything = st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=7).map(" ".join)


@given(anything, anything, st.floats(-1, 1))
def test_any_words_can_be_compared(known: str, new: str, score: float) -> None:
    """Whatever a fact says, there is an outcome; and what is said twice at the same time is known."""
    assert outcome(known, new, score=score) in {"add", "open", "reinforce", "supersede", "too late"}
    assert outcome(known, known, days=0, score=score) == "reinforce"


@given(statements, statements)
def test_facts_of_others_are_never_touched(mine: list[str], theirs: list[str]) -> None:
    """Whatever is said in one scope, what another has stays as it is."""
    kept = taken([[fact(text, day, scope="v") for day, text in enumerate(theirs)]])
    before = kept.state()
    kept.take([fact(text, day) for day, text in enumerate(mine)])
    assert {(f.text, f.at, f.valid_to) for f in kept.facts.values() if f.scope == Scope("v")} == before
