"""The built-in embedder: WordLlama's static vectors, whose weights come inside its wheel.

Vectors are computed here from its table and tokenizer, not by its own `embed`, which pads a batch to its
longest text and would need gigabytes for one long text among short ones.
"""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import numpy as np

from .faults import ApiError, bad_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

__all__ = ["StaticEmbedder", "shortened", "unit_rows"]

_BATCH = 256
_BLANK = " "  # has a token of its own; stands in for a text without any
_SMALLEST_NORM = 1e-12


class StaticEmbedder:
    """WordLlama in memory; made by `start`."""

    n_ctx: int
    slots = 1
    is_alive = True

    def __init__(self, table: Vectors, tokenizer: Any, n_ctx: int) -> None:
        self._table = table
        self._tokenizer = tokenizer
        self.n_ctx = n_ctx
        self._fallback = self._mean(self._tokens([_BLANK])[0])

    @classmethod
    async def start(cls, n_ctx: int) -> StaticEmbedder:
        """Load table and tokenizer, in about half a second. Raises ApiError when they are not there."""
        return await anyio.to_thread.run_sync(_load, n_ctx)

    async def close(self) -> None:
        """Nothing is held but memory, which goes with the object."""

    async def embed(self, texts: Sequence[str], *, truncate: bool) -> tuple[Vectors, int]:
        """Unit vectors of float32, one for each text, and the number of tokens."""
        return await anyio.to_thread.run_sync(self.embed_sync, texts, truncate)

    def embed_sync(self, texts: Sequence[str], truncate: bool) -> tuple[Vectors, int]:  # noqa: FBT001
        """The same, on the calling thread; the engine lets one in at a time."""
        vectors = np.empty((len(texts), self._table.shape[1]), dtype=np.float32)
        count = 0
        for start in range(0, len(texts), _BATCH):
            for row, ids in enumerate(self._tokens(texts[start : start + _BATCH]), start):
                if len(ids) > self.n_ctx and not truncate:
                    raise bad_request("the input length exceeds the context length")
                vectors[row] = self._mean(ids[: self.n_ctx])
                count += min(len(ids), self.n_ctx)
        return self._unit(vectors), count

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        # a lone surrogate has no UTF-8 form and the tokenizer would refuse the whole batch
        clean = [text.encode(errors="replace").decode() for text in texts]
        return [item.ids for item in self._tokenizer.encode_batch(clean, add_special_tokens=False)]

    def _mean(self, ids: Sequence[int]) -> Any:
        if not ids:
            return self._fallback
        return self._table[np.minimum(ids, len(self._table) - 1)].mean(axis=0)

    def _unit(self, vectors: Vectors) -> Vectors:
        vectors[np.linalg.norm(vectors, axis=1) < _SMALLEST_NORM] = self._fallback
        return unit_rows(vectors)


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first `dimensions` of each vector, of unit length again; too many or none leaves them as they are."""
    if not dimensions or dimensions < 0 or dimensions >= vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    return unit_rows(cut)


def unit_rows(vectors: Vectors) -> Vectors:
    """Each row with length 1, in float32; a row of zeros stays."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(norms, _SMALLEST_NORM)).astype(np.float32)
    return unit


def _load(n_ctx: int) -> StaticEmbedder:
    """Import and load, without WordLlama's own logging set-up and chatter."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = _wordllama()
    except (ImportError, OSError, ValueError) as exc:
        raise ApiError(500, f"the built-in embedder cannot be loaded: {exc}") from exc
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    model.tokenizer.no_padding()
    return StaticEmbedder(model.embedding, model.tokenizer, n_ctx)


def _wordllama() -> Any:
    """The model from the files inside the package; its own look-up misses the tokenizer's folder."""
    import wordllama  # noqa: PLC0415  the extra is needed only here

    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
