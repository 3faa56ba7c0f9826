"""Deterministic embeddings without a model: texts that share words get similar vectors."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@lru_cache(maxsize=20_000)
def word_vector(word: str, dimension: int) -> Vector:
    """A direction for a word, the same in every process."""
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)


def text_vector(text: str, dimension: int) -> Vector:
    """The unit vector of a text: the normalised sum of its words' directions."""
    words = re.findall(r"\w+", text.lower()) or [text]
    total = np.sum([word_vector(word, dimension) for word in words], axis=0, dtype=np.float32)
    return np.asarray(total / np.linalg.norm(total), dtype=np.float32)


def as_json(vector: Vector) -> list[float]:
    """The shortest decimals that read back as the same float32, as Go writes them."""
    return [float(str(value)) for value in vector]
