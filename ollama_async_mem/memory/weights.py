"""How much each sign counts in the ranking. Names and numbers only."""

from __future__ import annotations

import msgspec

__all__ = ["DEFAULT", "RankingWeights"]


class RankingWeights(msgspec.Struct, frozen=True, kw_only=True):
    """How much each sign that a memory fits counts.

    The defaults are round numbers from the middle of where five conversations of LoCoMo are answered best, with two
    embedding models; leaving out any of the five, or changing any number by a half, changes little.

    - listed: that it is among the most similar by vector. dense: how much more similar it is than the last of those,
      from 0 to 1. dense_before: the same of the turn before it.
    - words: the share of the query's words that it has, the rarer the more, from 0 to 1 and a little above where
      words come again in what is around it. A word that it does not have itself counts by `words_before` in the turn
      before, `words_after` in the one after, and `words_linked` between a fact and its turns; `saturation` is how
      slowly a word that is found several times comes to count no more, as k1 of BM25.
    - speaker: that the query names who said it, or names someone in a fact.
    - statement: the share of its words that are not in questions: who asks does not tell.
    - when: that it names days where the query asks when. dates: that it was said on days that the query names, or names
      such days.
    - recency: that it was said now; half of that after `half_life_days`.
    """

    listed: float = 0.2
    dense: float = 0.8
    dense_before: float = 0.25
    words: float = 1.8
    words_before: float = 0.7
    words_after: float = 0.3
    words_linked: float = 0.6
    saturation: float = 0.4
    speaker: float = 0.2
    statement: float = 0.5
    when: float = 0.25
    dates: float = 0.6
    recency: float = 0.0
    half_life_days: float = 30.0
    neighbour_gap_s: float = 3600.0
    middle: float = 1.6
    """The sum that is a score of 0.5, about as likely to fit as not."""
    slope: float = 3.5


DEFAULT = RankingWeights()
