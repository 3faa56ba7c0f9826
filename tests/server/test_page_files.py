"""The files of the page: nothing from elsewhere, nothing that reads HTML, each of a size that can be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ollama_async_mem.server

if TYPE_CHECKING:
    import httpx

FOLDER = Path(ollama_async_mem.server.__file__).parent / "ui"
FILES = sorted(FOLDER.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
READS_HTML = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc"
)
RUNS_TEXT = re.compile(r"\beval\(|new Function\(|setTimeout\(\s*[\"'`]|javascript:")
NAMESPACE = "http://www.w3.org/2000/svg"


def ids(path: Path) -> str:
    """A name for a case."""
    return path.name


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_nothing_comes_from_elsewhere(path: Path) -> None:
    """No address of another server, and none from the root of this one: the page works behind any path."""
    text = path.read_text(encoding="utf-8").replace(NAMESPACE, "")
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text)
    assert not re.search(r"(?:src|href)=\"/", text)
    assert not re.search(r"""(?:^import|^import .* from|^} from) ["'](?!\./)""", text, re.MULTILINE)


@pytest.mark.parametrize("path", SCRIPTS, ids=ids)
def test_no_text_becomes_html_or_code(path: Path) -> None:
    """Whatever a memory or a model says, it stays text."""
    text = path.read_text(encoding="utf-8")
    assert not READS_HTML.search(text)
    assert not RUNS_TEXT.search(text)


def test_no_script_or_style_stands_in_the_page() -> None:
    """The content security policy would refuse it."""
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert "<style" not in text
    assert not re.search(r"\sstyle=|\son[a-z]+=", text)
    assert re.findall(r"<script[^>]*>", text) == ['<script type="module" src="ui/app.js">']


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_each_file_can_be_read_in_one_go(path: Path) -> None:
    """Short, and it says first what it owns."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    if path.suffix in {".js", ".css"}:
        assert text.startswith("/*")


def test_each_name_in_the_scripts_is_in_the_page() -> None:
    """An element that is looked for by its id, and a symbol by its name."""
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    scripts = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    for name in re.findall(r"byId\(\"([\w-]+)\"\)", scripts):
        assert f'id="{name}"' in page, name
    for name in re.findall(r"\b(?:icon|iconButton)\(\"([\w-]+)\"", scripts):
        assert f'id="i-{name}"' in page, name


async def test_the_policy_is_strict(rest: httpx.AsyncClient) -> None:
    """On each file of the page; and only those are given."""
    for path in ("/", *(f"/ui/{path.name}" for path in FILES)):
        answer = await rest.get(path)
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200
        assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(policy.split("; "))
        assert "unsafe" not in policy
    for path in ("/ui/none.js", "/ui/..%2frest%2fapp.py", "/ui/app.py"):
        assert (await rest.get(path)).status_code == 404
