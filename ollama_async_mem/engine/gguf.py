"""What the header of a GGUF file says about the model; the weights are not read.

The layout is that of the GGUF specification, versions 2 and 3 (little endian). Arrays are skipped: the
vocabulary is the largest part of a header and nothing here needs it.
"""

from __future__ import annotations

import math
import mmap
import struct
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BadGguf", "GgufInfo", "read_gguf"]

_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 8
_MOST_ENTRIES = 1 << 20
# llama.cpp's llama_ftype, in the words that `ollama show` uses
_QUANTIZATION = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    32: "BF16",
}  # fmt: skip


class BadGguf(ValueError):
    """The file is not a GGUF file, or its header is damaged."""


class GgufInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that the wire contract shows."""

    architecture: str
    context_length: int
    embedding_length: int
    parameter_count: int
    quantization: str
    template: str
    is_embedding: bool
    header_bytes: int


def read_gguf(path: Path) -> GgufInfo:
    """Read the header. Raises BadGguf for a damaged file and OSError for an unreadable one."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise BadGguf(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _info(_Header(data))
            except (struct.error, UnicodeDecodeError, KeyError, OverflowError, TypeError) as exc:
                raise BadGguf(f"{path} has a damaged GGUF header") from exc
            except BadGguf as exc:
                raise BadGguf(f"{path} {exc}") from None


class _Header:
    """A cursor over the mapped file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def magic(self) -> bytes:
        self.at = 4
        return self._data[:4]

    def number(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self._data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.number("Q")
        start, self.at = self.at, self.at + length
        if self.at > len(self._data):
            raise BadGguf("ends in the middle of its header")
        return self._data[start : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        return self._skip_array() if kind == _ARRAY else self.number(_FIXED[kind])

    def _skip_array(self) -> None:
        kind, count = self.number("I"), self.number("Q")
        if kind in _FIXED:
            self.at += struct.calcsize("<" + _FIXED[kind]) * count
            return
        for _ in range(count):
            if kind == _TEXT:
                self.at += 8 + struct.unpack_from("<Q", self._data, self.at)[0]
            else:
                self.value(kind)


def _info(header: _Header) -> GgufInfo:
    """Walk the key-value pairs and the list of tensors."""
    if header.magic() != b"GGUF":
        raise BadGguf("is not a GGUF file")
    if header.number("I") not in _VERSIONS:
        raise BadGguf("is not a GGUF file of version 2 or 3")
    tensors, pairs = header.number("Q"), header.number("Q")
    if max(tensors, pairs) > _MOST_ENTRIES:
        raise BadGguf("has a damaged GGUF header")
    meta = {header.text(): header.value(header.number("I")) for _ in range(pairs)}
    parameters = sum(_tensor_size(header) for _ in range(tensors))
    arch = meta["general.architecture"]
    return GgufInfo(
        architecture=arch,
        context_length=int(meta[f"{arch}.context_length"]),
        embedding_length=int(meta[f"{arch}.embedding_length"]),
        parameter_count=parameters,
        quantization=_QUANTIZATION.get(meta.get("general.file_type", -1), "unknown"),
        template=meta.get("tokenizer.chat_template", ""),
        is_embedding=f"{arch}.pooling_type" in meta,
        header_bytes=header.at,
    )


def _tensor_size(header: _Header) -> int:
    """The number of values in one tensor, from its entry in the list."""
    header.text()
    dimensions = header.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise BadGguf("has a damaged GGUF header")
    size: int = math.prod(header.number("Q") for _ in range(dimensions))
    header.number("I")
    header.number("Q")
    return size
