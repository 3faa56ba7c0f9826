"""The ways in over the network: REST, the web page, MCP and an Ollama endpoint that remembers, behind one guard."""
