"""The English words that comparing statements needs, with the negations of some other languages. Pure."""

from __future__ import annotations

import re

from ollama_async_mem.memory.dates.words import listed

__all__ = ["DISLIKES", "IRREGULAR", "NEGATING", "NEGATIONS", "NEGATIVE_RUN", "NOT_NEGATING", "NUMBERS", "STOP"]

STOP = frozenset(
    listed(
        """a about after again all also always am an and any are as at be been before being but by can could d did do
        does doing for from get gets got had has have having he her hers herself him himself his how i if in into is it
        its itself just ll m me mine more most much my myself nd now of off oh on one or our ours out over own rd re
        really s said say says she should so some st still such t than that th the their theirs them themselves then
        there these they this those through to too up us ve very was we well were what when where which while who whom
        whose why will with would yeah yes you your yours"""
    )
)
"""Words that are everywhere."""

DISLIKES = frozenset(listed("dislike dislikes disliked hate hates hated detest detests"))
"""Words that say that somebody does not like something."""

NEGATIONS = DISLIKES | frozenset(
    listed(
        """not no never none nobody nothing neither nor without hardly barely cannot stopped quit quits refuse refuses
        refused formerly unable unlike except
        nicht kein keine keinen nie niemals nein nunca jamais pas non nao nem ne niet geen
        не нет никогда לא אין لا ليس لم لن"""
    )
)
"""Words that say that something is not, or is no more."""

NEGATING = re.compile(
    r"\b(?:no longer|any ?more|used to|gave up|giv\w+ up|instead of|rather than)\b",
)
"""Several words that say so together."""

NOT_NEGATING = re.compile(
    r"\b(?:(?:ca|can|could) ?not (?:wait|believe|help|stop|get enough)|not (?:only|just|long ago|to mention|bad)|"
    r"no (?:doubt|problem|worries|matter|wonder)|why not|or not|could not agree|"
    r"(?:never|not) (?:been )?(?:happier|better|more \w+)|nothing (?:better|like|beats)|"
    r"(?:is|are|am|was|were|gets?|got) used to)\b"
)
"""Words that only look as if they said so."""

NEGATIVE_RUN = re.compile(
    "不(?![错過过同仅但管论])|[没沒](?!关系)|[无無勿]|非(?!常)|[别別](?![人的])|再也|ない|ません|なかっ|ไม่"
)
"""What says so in scripts without spaces."""

_SMALL = """zero - two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""  # "one" is more often a pronoun
_TENS = "thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {word: str(number) for number, word in enumerate(listed(_SMALL))} | {
    word: str(10 * tens) for tens, word in enumerate(listed(_TENS), 3)
}
"""Number words, with the digits they stand for."""

_FORMS = """went gone goes going go|bought buy|made make|took taken take|saw seen see|ran run|began begun begin|
wrote written write|ate eaten eat|met meet|taught teach|thought think|felt feel|kept keep|left leave|lost lose|
found find|told tell|gave given give|grew grown grow|knew known know|drove driven drive|flew flown fly|won win|
sold sell|sang sung sing|swam swum swim|spoke spoken speak|broke broken break|chose chosen choose|came come|
became become|built build|spent spend|slept sleep|brought bring|caught catch|held hold|heard hear|rode ridden ride|
fell fallen fall|drew drawn draw|paid pay|sent send|wore worn wear|woke wake|children kids kid child|men man|
women woman|people person|mom mum mother|dad father|lives live|wives wife|died dying die|lying lie"""
IRREGULAR = {form: forms[-1] for line in _FORMS.split("|") for forms in [listed(line)] for form in forms}
"""Forms that no rule cuts, with the word that stands for them."""
