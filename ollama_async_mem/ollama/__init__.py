"""The Ollama client: HTTP and NDJSON, nothing of memories."""
