"""This package, with the memory's name touched."""

from benchmarks.footprint import report
from ollama_async_mem import Memory

memory = Memory
report()
