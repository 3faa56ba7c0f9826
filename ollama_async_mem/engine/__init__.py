"""A small Ollama-compatible server on llama.cpp, for machines without Ollama."""

__all__ = ["ENGINE_VERSION_SUFFIX"]

ENGINE_VERSION_SUFFIX = "+ollama-async-mem"
"""Ends the version in the engine's answer to /api/version: by it a client tells the engine from Ollama."""
