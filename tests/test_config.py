"""Settings and where they come from."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from ollama_async_mem.config import data_folder, default_store, load_settings
from ollama_async_mem.errors import ConfigError


def test_later_sources_win() -> None:
    """Defaults are overruled by the environment, and that by arguments; None and blank variables are passed over."""
    environment = {"OLLAMA_ASYNC_MEM_LLM": "qwen3", "OLLAMA_HOST": " box:1 ", "OLLAMA_ASYNC_MEM_EMBEDDER": "  "}
    settings = load_settings(environment, llm="mine", store=None)
    assert (settings.llm, settings.host, settings.embedder) == ("mine", "box:1", "nomic-embed-text")
    assert settings.store == default_store(environment)
    assert load_settings(environment).llm == "qwen3"
    assert load_settings({}).llm == "llama3.2"


@pytest.mark.parametrize("arguments", [{"llm": " "}, {"store": ""}, {"modell": "x"}])
def test_wrong_arguments_are_named(arguments: dict[str, str]) -> None:
    """A blank or unknown setting is an error that names it."""
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        load_settings({}, **arguments)


def test_the_data_folder_is_the_custom_of_the_system() -> None:
    """It is the one that platformdirs knows, without needing platformdirs."""
    ours = data_folder({k: v for k, v in os.environ.items() if k.startswith("XDG") or k == "LOCALAPPDATA"})
    assert ours == Path(platformdirs.user_data_dir("ollama-async-mem", appauthor=False))
