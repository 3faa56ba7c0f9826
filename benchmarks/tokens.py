"""The tokens that a scripted model says, and how much text they are: the server and all contenders agree on it."""

from __future__ import annotations

MODEL = "llama3.2"
MESSAGES = [{"role": "user", "content": "Tell me about the sea."}]
TOKENS = (
    " The",
    " sea",
    " is",
    " wide",
    ",",
    " and",
    ' "blue"',
    " 🌊",
    " très",
    " bleu",
    ".",
    "\n",
    " Wellen",
    " 波",
    " <b>",
)


def token(number: int) -> str:
    """One token of an endless answer."""
    return TOKENS[number % len(TOKENS)]


def characters(count: int) -> int:
    """How many characters the first `count` tokens have."""
    rounds, rest = divmod(count, len(TOKENS))
    return rounds * sum(map(len, TOKENS)) + sum(map(len, TOKENS[:rest]))
