"""What families of embedding models were trained to see before a text. Pure."""

from __future__ import annotations

from ollama_async_mem.ollama.names import canonical

__all__ = ["prefixes"]

# (family, query prefix, document prefix), from the models' own cards.
_PREFIXES = (
    ("nomic-embed-text", "search_query: ", "search_document: "),
    ("mxbai-embed", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-m3", "", ""),
    ("bge-", "Represent this sentence for searching relevant passages: ", ""),
    ("snowflake-arctic-embed", "query: ", ""),
    ("e5-", "query: ", "passage: "),
    ("embeddinggemma", "task: search result | query: ", "title: none | text: "),
    (
        "qwen3-embedding",
        "Instruct: Given a question, retrieve passages that answer it\nQuery: ",
        "",
    ),
)


def prefixes(model: str) -> tuple[str, str]:
    """Return what the model was trained to see before a query and before a document."""
    name = canonical(model).rpartition("/")[2]
    for family, query, document in _PREFIXES:
        if family in name:
            return query, document
    return "", ""
