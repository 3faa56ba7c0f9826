"""Stores of memories: implementations of `ports.MemoryStore`."""
