"""English sentences, and questions that none of them equals: varied, the same for the same seed, from no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["questions", "sentences"]

# The words of a list come less often the later they stand, as words do in English.
_WORDS = {
    "who": """my sister|the gardener|our neighbour|Anna|the new teacher|my grandfather|Karim|the plumber|a colleague
        |Mei|the landlord|my cousin|the dentist|Olga|the baker downstairs|our accountant|Pedro|the coach|my flatmate
        |the vet|Ingrid|a friend from school|the mechanic|Tomas|the librarian|my boss|Yusuf|the nurse|our guide|Priya""",
    "did": """bought|repaired|lost|found|borrowed|painted|sold|ordered|cleaned|forgot|recommended|returned|photographed
        |hid|donated|replaced|carried|measured|unpacked|wrapped|described|inherited|broke|tested|labelled|hung up""",
    "kind": """old|blue|wooden|broken|expensive|small|heavy|red|borrowed|handmade|foldable|rusty|silver|noisy|empty
        |antique|waterproof|striped|electric|spare|folding|velvet|cracked|portable|golden|leaking|secondhand|plastic
        |transparent|woollen|dented|magnetic|inflatable|fireproof|crooked|embroidered""",
    "thing": """bicycle|piano|coffee machine|laptop|umbrella|sofa|tent|guitar|passport|kettle|camera|bookshelf|lamp
        |suitcase|telescope|violin|fridge|printer|necklace|carpet|wheelchair|canoe|drill|mirror|typewriter|clock|oven
        |snowboard|backpack|globe|microscope|hammock|chessboard|trumpet|sewing machine|ladder|lawnmower|thermometer
        |kayak|accordion|blender|projector|cello|aquarium|barometer|surfboard|harmonica|toaster|wardrobe|compass|stroller
        |helmet|radio|cupboard|loom|easel|greenhouse|sledge|anvil|metronome""",
    "where": """at the market|in Lisbon|near the station|in the kitchen|at work|in the old town|behind the church
        |on the ferry|in Nairobi|at the flea market|beside the river|in the garage|at the airport|in Kyoto
        |on the third floor|at the university|in the mountains|by the lake|at the hospital|in the attic|in Warsaw
        |outside the cinema|in the basement|at the harbour|under the bridge|in Montreal|on the balcony|at the embassy""",
    "when": """yesterday|last week|on Monday|in the summer|two days ago|before breakfast|last winter|after the concert
        |on her birthday|in the evening|at Easter|during the storm|last year|over the weekend|in the morning|in October
        |before the wedding|right after lunch|when the power failed|on the way home|at midnight|during the holidays""",
    "why": """because it was cheap|for the children|to save time|as a present|without telling anybody|for the exhibition
        |to make room|out of boredom|with the help of a friend|for a neighbour who was ill|to win a bet|by mistake
        |although it rained|for half the price|to please the landlord|in spite of the advice|for the theatre group""",
}
_STATEMENTS = (
    "{who} {did} the {kind} {thing} {where} {when} {why}.",
    "{when} {who} {did} a {kind} {thing} {where} {why}.",
    "I heard that {who} {did} a {kind} {thing} {when}, {why}.",
    "{where} {who} finally {did} that {kind} {thing}.",
    "Did you know that {when} {who} {did} the {thing} {where}? It was {kind}.",
)
_QUESTIONS = (
    "Who {did} the {kind} {thing} {where}?",
    "What was it that {who} {did} {where} {when}?",
    "When was the {kind} {thing} {did} by {who}?",
    "Why would {who} want a {kind} {thing}?",
)


def sentences(count: int, rng: np.random.Generator) -> list[str]:
    """Statements, of which hardly ever two are equal: there are some 10 to the power of 11."""
    return _texts(_STATEMENTS, count, rng)


def questions(count: int, rng: np.random.Generator) -> list[str]:
    """Questions about such things."""
    return _texts(_QUESTIONS, count, rng)


def _texts(templates: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    columns = {name: _chosen(words, count, rng) for name, words in _LISTS.items()}
    shapes = rng.integers(0, len(templates), count)
    rows = zip(*columns.values(), strict=True)
    written = (templates[shape].format(**dict(zip(columns, row, strict=True))) for shape, row in zip(shapes, rows, strict=True))
    return [text[0].upper() + text[1:] for text in written]


def _chosen(words: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    places = rng.random(count) ** 2 * len(words)
    return [words[place] for place in places.astype(np.intp)]


_LISTS = {name: [word.strip() for word in words.split("|")] for name, words in _WORDS.items()}
