"""This package, with the lazily loaded name of its client touched."""

from benchmarks.footprint import report
from ollama_async_mem import OllamaClient

client = OllamaClient
report()
