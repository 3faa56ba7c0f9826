"""How much memory a model takes, how much there is, and what that means. An estimate, and it says so. Changes nothing.

What a server tells: the size of a model's file, its quantization, and the shape of its attention. What a token of
context takes follows from that shape: a key and a value for each head in each layer, in 16 bits unless the server is
told otherwise. What else the server needs for its work is not told, and not counted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.filesize import decimal

from ollama_async_mem.cli.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.ollama.schema import ModelInfo, ShowResponse

__all__ = ["Need", "context_bytes", "free_bytes", "need_of", "room_findings"]

_BYTES_PER_VALUE = 2
_SMALL_BITS = 4
"""As many bits a weight has in the quantizations, such as Q4_K_M, below which most models get much worse."""
_SMALL_BITS_REAL = 4.85  # what Q4_K_M takes in the end, by the table of llama.cpp's `quantize`
_LONG = 0.25
"""From this share of the file on, it is the context that makes a model large."""
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes when it is loaded, in bytes; 0 for the context where the server does not tell its shape."""

    model: str
    quantization: str
    file_bytes: int
    context: int
    context_bytes: int

    @property
    def bytes(self) -> int:
        """Both together."""
        return self.file_bytes + self.context_bytes

    def __str__(self) -> str:
        file = decimal(self.file_bytes) + (f" in {self.quantization}" if self.quantization else "")
        if not self.context_bytes:
            return f"{self.model} takes at least {file}, what its context takes cannot be told"
        context = f"{decimal(self.context_bytes)} for a context of {self.context:,} tokens"
        return f"{self.model} takes about {decimal(self.bytes)}: {file} and {context}"


def need_of(info: ModelInfo, shown: ShowResponse, context: int) -> Need:
    """Estimate what an installed model takes with so many tokens of context. Pure."""
    return Need(
        model=info.name,
        quantization=info.details.quantization_level or shown.details.quantization_level,
        file_bytes=info.size,
        context=context,
        context_bytes=context * context_bytes(shown.model_info),
    )


def context_bytes(about: dict[str, Any]) -> int:
    """Tell how many bytes a token of context takes by what /api/show says of a model; 0 where that does not tell it."""
    family = about.get("general.architecture")

    def value(key: str) -> Any:
        return about.get(f"{family}.{key}")

    layers, heads = value("block_count"), value("attention.head_count")
    kv_heads = value("attention.head_count_kv") or heads
    width = value("embedding_length")
    if not isinstance(layers, int):
        return 0
    usual: Any = width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None
    key, val = (value(f"attention.{name}_length") or usual for name in ("key", "value"))
    per_layer = kv_heads if isinstance(kv_heads, list) else [kv_heads] * layers  # some families differ by layer
    is_told = all(isinstance(number, int) for number in (key, val, *per_layer))
    values: int = sum(per_layer) * (key + val) if is_told else 0
    return values * _BYTES_PER_VALUE


def free_bytes(path: str = "/proc/meminfo") -> int | None:
    """Tell how much of this machine's memory programs can still have; None where the system does not say so."""
    try:
        found = _AVAILABLE.search(Path(path).read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def room_findings(needs: Sequence[Need], free: int | None, where: str) -> list[Finding]:
    """Compare what models that are not loaded take with what is free; None is unknown. Pure."""
    if free is None:
        unknown = f"; how much memory {where} has free cannot be told"
        return [Finding("memory", "ok", f"{need}{unknown}") for need in needs]
    findings = [_finding(need, free) for need in needs]
    together = sum(need.bytes for need in needs)
    if together > free and all(finding.status == "ok" for finding in findings):
        names = " and ".join(need.model for need in needs)
        message = f"{names} take about {decimal(together)} together, {decimal(free)} are free here"
        advice = "without a GPU for one of them they will take turns, which is slow: use smaller ones"
        findings.append(Finding("memory", "warning", message, advice))
    return findings


def _finding(need: Need, free: int) -> Finding:
    message = f"{need}; {decimal(free)} are free here"
    if need.bytes <= free:
        return Finding("memory", "ok", message)
    return Finding("memory", "warning", message, f"without a GPU that holds the rest it will not fit: {_advice(need)}")


def _advice(need: Need) -> str:
    ways = []
    bits = re.search(r"\d+", need.quantization)
    if bits and int(bits[0]) > _SMALL_BITS:
        small = int(need.file_bytes * _SMALL_BITS_REAL / int(bits[0]))
        ways.append(f"a smaller quantization, Q4_K_M takes about {decimal(small)}")
    if need.context_bytes > need.file_bytes * _LONG:
        ways.append("a shorter context, llm.num_ctx in the settings")
    return ", or ".join(["use a smaller model", *ways])
