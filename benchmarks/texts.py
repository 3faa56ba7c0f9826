"""English statements and questions, made up from lists of words: the same ones for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["questions", "sentences"]

SKEW = 1.5  # the words of a list come less often the later they stand, as words do in English
_WORDS = {
    "who": """my sister|the gardener|our neighbour|Anna|the teacher|my grandfather|Karim|the plumber|a colleague|Mei
        |the landlord|my cousin|the dentist|Olga|the baker|our accountant|Pedro|the coach|my flatmate|the vet|Ingrid
        |a classmate|the mechanic|Tomas|the librarian|my boss|Yusuf|the nurse|the guide|Amara|Bjorn|Chiara|Dmitri
        |Elif|Farid|Greta|Hiroshi|Ines|Jakub|Kwame|Leila|Mateo|Nadia|Omar|Paula|Quentin|Rosa|Sanjay|Tereza|Ulrich
        |Vera|Wanda|Xavier|Yuki|Zeynep|the tailor|my uncle|the notary|my niece|the pilot|the carpenter|a stranger
        |the conductor|the surgeon|my godmother|the beekeeper|the translator|my nephew|the electrician|the sculptor
        |our tenant|the astronomer|the cobbler|the referee|my stepfather|the florist|the geologist|the janitor
        |the optician|the sailor""",
    "did": """bought|repaired|lost|found|borrowed|painted|sold|ordered|cleaned|forgot|recommended|returned
        |photographed|hid|donated|replaced|carried|measured|unpacked|wrapped|described|inherited|broke|tested
        |labelled|polished|smuggled|auctioned|dismantled|admired|rented|stole|insured|varnished|dropped|weighed
        |sketched|buried|welded|refused|catalogued|assembled|shipped|restored|scratched|traded|engraved|rescued
        |destroyed|registered|exhibited|misplaced|sharpened|swapped|patented|upholstered|flooded|decorated|examined
        |pawned""",
    "kind": """old|blue|wooden|broken|expensive|small|heavy|red|borrowed|handmade|foldable|rusty|silver|noisy|empty
        |antique|waterproof|striped|electric|spare|folding|velvet|cracked|portable|golden|leaking|secondhand|plastic
        |transparent|woollen|dented|magnetic|inflatable|fireproof|crooked|embroidered|purple|enormous|faded|ceramic
        |tiny|orange|marble|wobbly|bamboo|elegant|greasy|muddy|checked|copper|turquoise|hollow|padded|sturdy
        |mechanical|frozen|scented|dusty|solar|ornate|lacquered|beige|wireless|rectangular|leather|ugly|fragile
        |brass|mouldy|paisley|triangular|grey|squeaky|polished|counterfeit|medieval|crimson|rubber|floating|knitted""",
    "thing": """bicycle|piano|coffee machine|laptop|umbrella|sofa|tent|guitar|passport|kettle|camera|bookshelf|lamp
        |suitcase|telescope|violin|fridge|printer|necklace|carpet|wheelchair|canoe|drill|mirror|typewriter|clock
        |oven|snowboard|backpack|globe|microscope|hammock|chessboard|trumpet|sewing machine|ladder|lawnmower
        |thermometer|kayak|accordion|blender|projector|cello|aquarium|barometer|surfboard|harmonica|toaster|wardrobe
        |compass|stroller|helmet|radio|cupboard|loom|easel|greenhouse|sledge|anvil|metronome|saddle|candlestick
        |motorcycle|mattress|scarf|banjo|wallet|dishwasher|tractor|vase|curtain|stapler|parachute|rowing boat
        |keyboard|armchair|bracelet|chandelier|flute|calculator|teapot|scooter|generator|doorbell|birdcage|trombone
        |sundial|pushchair|cash register|fountain pen|wheelbarrow|hairdryer|bathtub|sculpture|tapestry|speaker
        |battery|lantern|skateboard|shovel|bagpipe|coat|ring|envelope|rocking horse|staircase|telephone|tripod
        |whistle|windmill|wristwatch|xylophone|stove|pendulum|pillow|tambourine|ukulele|crib|gramophone""",
    "where": """at the market|in Lisbon|near the station|in the kitchen|at work|in the old town|behind the church
        |on the ferry|in Nairobi|at the flea market|beside the river|in the garage|at the airport|in Kyoto
        |on the third floor|at the university|in the mountains|by the lake|at the hospital|in the attic|in Warsaw
        |outside the cinema|in the basement|at the harbour|under the bridge|in Montreal|at the embassy
        |on the balcony|in Bogota|in Tallinn|at the zoo|in Marrakesh|in the vineyard|at the stadium|in Oslo
        |on the island|in Hanoi|at the laundrette|in the tunnel|in Chicago|at the monastery|in Palermo
        |near the lighthouse|in Adelaide|on the motorway|in the orchard|at the casino|in Cracow|at the quarry
        |in Tbilisi|on the pier|in Dakar|at the bakery|in Porto|in the desert|at the observatory|in Reykjavik
        |at the barracks|in Lima|in the swamp|at the fairground|in Zagreb|at the courthouse|in Cairo|in the forest
        |on the roof|in Vilnius|at the sawmill|in Antwerp|near the volcano""",
    "when": """yesterday|last week|on Monday|in the summer|two days ago|before breakfast|last winter
        |after the concert|on her birthday|in the evening|at Easter|during the storm|last year|over the weekend
        |in the morning|in October|before the wedding|right after lunch|when the power failed|on the way home
        |at midnight|during the holidays|on Thursday|in February|after the funeral|before the exam|at dawn
        |during the strike|in the autumn|on Sunday|ten years ago|after the flood|in December|before the move
        |during the match|on Tuesday|at noon|last spring|after the rehearsal|in July""",
    "why": """because it was cheap|for the children|to save time|as a present|without telling anybody
        |for the exhibition|to make room|out of boredom|with the help of a friend|for a neighbour who was ill
        |to win a bet|by mistake|although it rained|for half the price|to please the landlord|in spite of the advice
        |for the theatre group|out of pity|for a film|to annoy the committee|on credit|for the orphanage|as a joke
        |under protest|to impress the jury|for science|instead of a refund|with great care|for the archive
        |to pay the rent""",
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
    """Statements, of which hardly ever one is there twice."""
    return _texts(_STATEMENTS, count, rng)


def questions(count: int, rng: np.random.Generator) -> list[str]:
    """Questions about such things."""
    return _texts(_QUESTIONS, count, rng)


def _texts(templates: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    shapes = [templates[shape] for shape in rng.integers(0, len(templates), count)]
    columns = [_chosen(words, count, rng) for words in _LISTS.values()]
    rows = (dict(zip(_LISTS, row, strict=True)) for row in zip(*columns, strict=True))
    texts = [shape.format(**row) for shape, row in zip(shapes, rows, strict=True)]
    return [text[0].upper() + text[1:] for text in texts]


def _chosen(words: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    places = rng.random(count) ** SKEW * len(words)
    return [words[place] for place in places.astype(np.intp)]


_LISTS = {name: [word.strip() for word in words.split("|")] for name, words in _WORDS.items()}
