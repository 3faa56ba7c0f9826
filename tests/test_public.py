"""The public names and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ollama_async_mem
from ollama_async_mem import errors


def test_every_public_name_loads() -> None:
    """Each name of `__all__` is there, is in the table of homes, and `__all__` is sorted."""
    assert list(ollama_async_mem.__all__) == sorted(ollama_async_mem._HOMES)
    for name in ollama_async_mem.__all__:
        assert getattr(ollama_async_mem, name) is not None
        assert name in dir(ollama_async_mem)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that does not exist fails as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        ollama_async_mem.Nothing  # noqa: B018


def test_importing_the_package_is_light() -> None:
    """Importing the package imports neither httpx nor numpy, and has no other side effect."""
    code = "import sys, ollama_async_mem; print({'httpx', 'numpy', 'msgspec', 'sqlite3'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "set()"


def test_every_error_is_listed_and_of_one_tree() -> None:
    """`errors.__all__` names every class of the tree, and all derive from one base."""
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(errors.__all__) == classes
    assert all(issubclass(getattr(errors, name), errors.OllamaAsyncMemError) for name in errors.__all__)
