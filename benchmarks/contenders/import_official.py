"""The official client."""

from ollama import AsyncClient  # type: ignore[import-not-found, unused-ignore]  # only the extra `bench` has it

from benchmarks.footprint import report

client = AsyncClient
report()
