"""A small Ollama-compatible server on llama.cpp, for machines without Ollama."""
