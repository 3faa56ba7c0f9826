"""Pull, push and create, on asyncio and on trio: what is sent, the progress, and that nothing is done twice."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from fakes import (
    STALL,
    Answer,
    Close,
    Pause,
    Raw,
    Reply,
    Reset,
    ScriptedOllama,
    error,
    head,
    line_chunk,
    ndjson,
    refusing_port,
)
from fakes import stream_head as opening

from ollama_async_mem import ChatMessage, OllamaClient, PullProgress, RetryPolicy, Timeouts
from ollama_async_mem.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectFailed,
    CreateFailed,
    OllamaError,
    PullFailed,
    PushFailed,
    ServerBusy,
    StallTimeout,
    StatusError,
)
from ollama_async_mem.ollama._transport import OllamaTransport

from .backends import ONCE, cancelled_everywhere, on_both, pool_of, together, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MEBI = 1024 * 1024
FAST = RetryPolicy(attempts=5, base_s=0.01)


def digest_of(content: bytes) -> str:
    """The digest of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file of several pieces, the last of them short, that fits into no socket's buffers."""
    path = tmp_path / "big.gguf"
    path.write_bytes(b"GGUF" + os.urandom(20 * MEBI + 12_345))
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file of one piece."""
    path = tmp_path / "small.gguf"
    path.write_bytes(b"GGUF small")
    return path


async def lines_of(progress: Any) -> list[PullProgress]:
    """Read a progress to its end."""
    async with progress as lines:
        return [line async for line in lines]


def asked(client: OllamaClient, what: str) -> Any:
    """A push, or a create that needs no file."""
    return client.stream_push("mine") if what == "push" else client.stream_create("mine", from_="llama3.2")


FAILED = {"push": PushFailed, "create": CreateFailed}
both_requests = pytest.mark.parametrize("what", FAILED)


# --- requests -----------------------------------------------------------------------------------------------------


@on_both
async def test_pull_and_push_say_what_they_are_asked(fake: ScriptedOllama) -> None:
    """The bodies, and the lines to the end."""
    async with OllamaClient(fake.url) as client:
        await client.pull("new")
        await client.pull("new", insecure=True)
        await client.push("new")
        lines = await lines_of(client.stream_push("new", insecure=False))
    assert [request.json for request in fake.requests] == [
        {"model": "new", "stream": True},
        {"model": "new", "insecure": True, "stream": True},
        {"model": "new", "stream": True},
        {"model": "new", "insecure": False, "stream": True},
    ]
    assert [line.status for line in lines][::3] == ["retrieving manifest", "pushing manifest"]
    assert (lines[2].total, lines[2].completed, lines[-1].status) == (1000, 1000, "success")


@on_both
async def test_a_model_is_created_from_another(fake: ScriptedOllama) -> None:
    """Every field is sent under the server's name, and what is None is left out."""
    fields: dict[str, Any] = {
        "template": "{{ .Prompt }}",
        "license": ["MIT", "none"],
        "system": "Be brief.",
        "parameters": {"temperature": 0, "stop": ["x"]},
        "quantize": "q4_K_M",
        "renderer": "r",
        "parser": "p",
        "requires": "0.12.0",
        "info": {"capabilities": ["tools"]},
        "remote_host": "http://elsewhere:11434",
    }
    messages: list[Any] = [{"role": "user", "content": "hi"}, ChatMessage(content="hello")]
    async with OllamaClient(fake.url) as client:
        await client.create("mine", from_="llama3.2", messages=messages, adapters=None, **fields)
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    expected = {"model": "mine", "stream": True, "from": "llama3.2", "messages": said, **fields}
    assert [(request.route, request.json) for request in fake.requests] == [("POST /api/create", expected)]
    assert fake.requests[0].headers["content-type"] == "application/json"
    assert "mine:latest" in fake.settings.models


@on_both
async def test_files_are_uploaded_and_named(fake: ScriptedOllama, big: Path, small: Path) -> None:
    """HEAD, then POST with a length where the server lacks the file; it has exactly the file's bytes."""
    known = f"sha256:{'a' * 64}"
    fake.settings.blobs[known] = b""
    content = await anyio.Path(big).read_bytes()
    digest, other = digest_of(content), digest_of(b"GGUF small")
    async with OllamaClient(fake.url) as client:
        await client.create("mine", files={"a/model.gguf": str(big), "old.gguf": known}, adapters=[small])
        await client.create("mine", files=[big], draft_files=(str(small),), draft_quantize="q8_0")
    routes = [request.route for request in fake.requests]
    assert routes == [
        f"HEAD /api/blobs/{digest}",
        f"POST /api/blobs/{digest}",
        f"HEAD /api/blobs/{other}",
        f"POST /api/blobs/{other}",
        "POST /api/create",
        f"HEAD /api/blobs/{digest}",
        f"HEAD /api/blobs/{other}",
        "POST /api/create",
    ]
    assert fake.requests[1].body == content
    assert fake.requests[1].headers["content-length"] == str(len(content))
    assert "transfer-encoding" not in fake.requests[1].headers
    files = {"a/model.gguf": digest, "old.gguf": known}
    first = {"model": "mine", "stream": True, "files": files, "adapters": {"small.gguf": other}}
    second = {"files": {"big.gguf": digest}, "draft_files": {"small.gguf": other}, "draft_quantize": "q8_0"}
    assert fake.requests[4].json == first
    assert fake.requests[7].json == {"model": "mine", "stream": True, **second}
    assert fake.connections_total == 1


@on_both
async def test_one_progress_for_hashing_uploading_and_the_server(fake: ScriptedOllama, tmp_path: Path) -> None:
    """A bar can be drawn from it: it begins at 0, grows, and ends at the total."""
    content = os.urandom(2 * MEBI + MEBI // 2)
    await anyio.Path(tmp_path / "m.gguf").write_bytes(content)
    digest, short = digest_of(content), digest_of(content)[7:19]
    async with OllamaClient(fake.url) as client:
        lines = await lines_of(client.stream_create("mine", files=[tmp_path / "m.gguf"]))
        again = await lines_of(client.stream_create("mine", files=[tmp_path / "m.gguf"]))
    size, steps = len(content), [0, MEBI, 2 * MEBI, len(content)]
    hashing = [PullProgress("hashing m.gguf", "", size, done) for done in steps]
    uploading = [PullProgress(f"uploading {short}", digest, size, done) for done in steps]
    server = [PullProgress(status) for status in ("parsing GGUF", "writing manifest", "success")]
    assert lines == [*hashing, *uploading, *server]
    assert again == [*hashing, PullProgress(f"using existing {short}", digest, size, size), *server]


@on_both
async def test_an_empty_file_is_a_file(fake: ScriptedOllama, tmp_path: Path) -> None:
    """Whether it is of use is for the server to say."""
    await anyio.Path(tmp_path / "e").write_bytes(b"")
    async with OllamaClient(fake.url) as client:
        await client.create("mine", files=[tmp_path / "e"])
    assert fake.settings.blobs == {digest_of(b""): b""}


# --- arguments ----------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "needs from_="),
    "both": ({"from_": "x", "files": ["x"]}, "leave out the files"),
    "unknown": ({"from_": "x", "quantise": "q4_0"}, "did you mean 'quantize'"),
    "its name in JSON": ({"from": "x"}, "did you mean 'from_'"),
    "quite unknown": ({"zzz": 1}, "there are from_, files"),
    "a path": ({"from_": "./model.gguf"}, r"files=\[path\]"),
    "blank": ({"from_": " "}, "installed model"),
    "text": ({"from_": "x", "system": b"x"}, "system is a text"),
    "mapping": ({"from_": "x", "parameters": [1]}, "parameters is a mapping"),
    "draft": ({"from_": "x", "draft_quantize": "q4_0"}, "needs draft_files"),
    "one path": ({"files": "model.gguf"}, "a list of paths"),
    "no files": ({"files": []}, "files is empty"),
    "no adapters": ({"from_": "x", "adapters": {}}, "adapters is empty"),
    "two of a name": ({"files": ["a/x.gguf", "b/x.gguf"]}, "two files of one name"),
    "no path": ({"files": [7]}, "is a path or a digest"),
    "empty path": ({"files": {"a": ""}}, "is a path or a digest"),
    "absolute name": ({"files": {"/x.gguf": "x"}}, "like 'model.gguf'"),
    "name above": ({"files": {"../x.gguf": "x"}}, "like 'model.gguf'"),
    "no name": ({"files": {"": "x"}}, "like 'model.gguf'"),
    "short digest": ({"files": {"x": "sha256:12"}}, "64 hexadecimal digits"),
    "no digest": ({"files": {"x": f"sha256:{'x' * 64}"}}, "64 hexadecimal digits"),
    "nameless digest": ({"files": [f"sha256:{'a' * 64}"]}, "needs a name"),
    "missing": ({"files": ["/no/such/file"]}, "cannot read /no/such/file: No such file"),
    "folder": ({"files": ["/"], "adapters": ["x"]}, "like 'model.gguf'"),
    "folder of a name": ({"files": {"x": "/tmp"}}, "a folder: name the files in it"),  # noqa: S108 - only looked at
    "device": ({"files": ["/dev/null"]}, "not a regular file"),
    "NUL": ({"files": {"x": "a\0b"}}, "cannot read"),
    "not JSON": ({"files": {}, "info": {"x": object()}}, "as JSON"),
}


@pytest.mark.parametrize("case", WRONG)
@on_both
async def test_wrong_arguments_are_refused_before_any_request(fake: ScriptedOllama, small: Path, case: str) -> None:
    """Also where a file before them is fine; the message says what is wanted."""
    fields, words = WRONG[case]
    if isinstance(fields.get("files"), dict):
        fields = {**fields, "files": {"first.gguf": small, **fields["files"]}}
    async with OllamaClient(fake.url) as client:
        with pytest.raises(ConfigError, match=words):
            await client.create("mine", **fields)
        for refused in (client.pull, client.push, partial(client.create, from_="x")):
            with pytest.raises(ConfigError, match="model name"):
                await refused("")
    assert fake.connections_total == 0


# --- failures -----------------------------------------------------------------------------------------------------


@both_requests
@on_both
async def test_what_the_server_says_in_the_middle_is_raised(fake: ScriptedOllama, what: str) -> None:
    """An error line, an end without success, and a connection that breaks, each with the last status where it helps."""
    status = {"status": "doing it"}
    broken = Raw([opening() + line_chunk(status), Reset()])
    endings: list[tuple[Answer, str]] = [
        (ndjson(status, {"error": "no space"}), "failed: no space"),
        (ndjson(status, {"error": {"message": "no space"}}), "failed: no space"),
        (ndjson(status), "stopped after 'doing it'"),
        (ndjson(), "stopped after ''"),
        (broken, "broke after 'doing it'"),
    ]
    fake.enqueue(f"POST /api/{what}", *[ending for ending, _ in endings])
    async with OllamaClient(fake.url) as client:
        for _, words in endings:
            with pytest.raises(FAILED[what], match=words) as caught:
                await lines_of(asked(client, what))
            assert caught.value.model == "mine"  # type: ignore[attr-defined]
    assert len(fake.requests) == len(endings)


@on_both
async def test_a_pull_that_breaks_names_its_last_status(fake: ScriptedOllama) -> None:
    """It fails as one that ends without success."""
    fake.enqueue("POST /api/pull", Raw([opening() + line_chunk({"status": "pulling manifest"}), Reset()]))
    async with OllamaClient(fake.url) as client:
        with pytest.raises(PullFailed, match="broke after 'pulling manifest'"):
            await client.pull("x")


@both_requests
@on_both
async def test_a_refusal_is_an_error_of_its_status(fake: ScriptedOllama, what: str) -> None:
    """Before the first line, in the server's words; where to sign in is told."""
    signin = "https://ollama.com/connect?name=x"
    answers = [error(400, "bad name"), Reply(401, json={"error": "unauthorized", "signin_url": signin})]
    fake.enqueue(f"POST /api/{what}", *answers)
    async with OllamaClient(fake.url) as client:
        with pytest.raises(StatusError, match="bad name") as caught:
            await lines_of(asked(client, what))
        assert caught.value.status == 400
        with pytest.raises(AuthenticationFailed, match=r"sign in at https://ollama\.com/connect"):
            await lines_of(asked(client, what))


@both_requests
@pytest.mark.parametrize("reused", ["fresh", "reused"])
@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
@pytest.mark.parametrize("through", ["native", "httpx"])
@on_both
async def test_nothing_is_asked_for_twice(fake: ScriptedOllama, what: str, reused: str, end: Any, through: str) -> None:
    """A connection that breaks after the request was sent leaves open whether it was done."""
    fake.enqueue(f"POST /api/{what}", Raw([end]), repeat=True)
    transport = OllamaTransport() if through == "httpx" else None
    async with OllamaClient(fake.url, retry=FAST, transport=transport) as client:
        if reused == "reused":
            await client.version()
        with pytest.raises(FAILED[what], match="look whether it was done") as caught:
            await lines_of(asked(client, what))
        assert isinstance(caught.value.__cause__, OllamaError)
    assert len(fake.requests_to(f"POST /api/{what}")) == 1


@both_requests
@on_both
async def test_a_busy_server_is_not_asked_again(fake: ScriptedOllama, what: str) -> None:
    """Who answers 502 or 503 may have handed the request on; the error does not invite to try again."""
    fake.enqueue(f"POST /api/{what}", error(502, "bad gateway"), error(503, "busy"))
    async with OllamaClient(fake.url, retry=FAST) as client:
        for _ in range(2):
            with pytest.raises(ServerBusy) as caught:
                await lines_of(asked(client, what))
            assert not caught.value.retryable
    assert len(fake.requests) == 2


@both_requests
@on_both
async def test_a_refused_connection_is_tried_again(fake: ScriptedOllama, what: str) -> None:
    """Nothing was sent then: the request goes out once the server is there."""
    with refusing_port() as port:
        async with OllamaClient(f"http://127.0.0.1:{port}", retry=ONCE) as client:
            with pytest.raises(ConnectFailed, match="refused"):
                await lines_of(asked(client, what))
    fake.settings.models.append("mine:latest")
    await fake.stop()
    patient = RetryPolicy(attempts=100, base_s=0.02, cap_s=0.02)

    async def later() -> None:
        await anyio.sleep(0.1)
        await fake.start()

    async with OllamaClient(fake.url, retry=patient) as client:
        await together(later, partial(lines_of, asked(client, what)))
    assert len(fake.requests) == 1


# --- uploads that fail --------------------------------------------------------------------------------------------


async def begun(progress: Any, what: str = "uploading") -> None:
    """Iterate until a part of a file was hashed or sent, and more is left."""
    async for line in progress:
        if line.status.startswith(what) and 0 < line.completed < line.total:
            return
    raise AssertionError(f"{what} was over at once")


@on_both
async def test_leaving_in_the_middle_of_an_upload_closes_its_socket(fake: ScriptedOllama, big: Path) -> None:
    """Within 50 ms, by leaving and by being cancelled; the rest is not sent, and nothing is created."""
    async with OllamaClient(fake.url) as client:
        for is_cancelled in (False, True):
            with anyio.CancelScope() as scope:
                async with client.stream_create("mine", files=[big]) as progress:
                    await begun(progress)
                    assert fake.open_connections == 1
                    if is_cancelled:
                        scope.cancel()
            await until(lambda: fake.open_connections == 0)
            assert pool_of(client).connections == (0, 0)
    assert not fake.requests_to("POST /api/create")
    assert not fake.settings.blobs


@on_both
async def test_a_server_that_dies_during_an_upload(fake: ScriptedOllama, big: Path) -> None:
    """The error names the server; nothing is created."""
    async with OllamaClient(fake.url) as client:
        async with client.stream_create("mine", files=[big]) as progress:
            await begun(progress)
            await fake.drop_connections()
            with anyio.fail_after(5), pytest.raises(ConnectFailed, match="without an answer"):
                await begun(progress, "creating")
        assert pool_of(client).connections == (0, 0)
    assert not fake.requests_to("POST /api/create")


@on_both
async def test_a_file_that_changes_meanwhile(fake: ScriptedOllama, big: Path) -> None:
    """Longer, shorter, or other bytes; while it is hashed and while it is uploaded: nothing is created of it."""
    size = (await anyio.Path(big).stat()).st_size
    changes: list[Callable[[], object]] = [
        lambda: os.truncate(big, size + 1),
        lambda: os.truncate(big, size),
        lambda: os.utime(big),
    ]
    async with OllamaClient(fake.url) as client:
        for when in ("hashing", "uploading"):
            for change in changes:
                async with client.stream_create("mine", files=[big]) as progress:
                    await begun(progress, when)
                    await anyio.to_thread.run_sync(change)
                    with anyio.fail_after(5), pytest.raises(ConfigError, match=r"big\.gguf was changed"):
                        await begun(progress, "creating")
        assert pool_of(client).connections[0] == 0
    assert not fake.requests_to("POST /api/create")
    assert not fake.settings.blobs


@on_both
async def test_an_upload_is_refused_in_the_middle(big: Path) -> None:
    """The refusal is told, though most of the file was not sent and the server reads no more."""
    refusal = b'{"error":"no space left on device"}'

    async def refuse(stream: ByteStream) -> None:
        async with stream:
            while not (await stream.receive()).startswith(b"POST"):
                await stream.send(head(404, {"Content-Length": "0"}))
            await stream.send(head(400, {"Content-Length": str(len(refusal))}) + refusal)
            await left.wait()

    left = anyio.Event()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, refuse)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - of anyio
        async with OllamaClient(f"http://127.0.0.1:{port}") as client:
            with anyio.fail_after(5), pytest.raises(StatusError, match="no space left on device"):
                await client.create("mine", files=[big])
            assert pool_of(client).connections == (0, 0)
        left.set()
        tasks.cancel_scope.cancel()


@on_both
async def test_a_blob_that_cannot_be_looked_for_is_not_uploaded(fake: ScriptedOllama, small: Path) -> None:
    """Only 404 says that it is not there."""
    fake.enqueue(f"HEAD /api/blobs/{digest_of(b'GGUF small')}", Reply(500))
    async with OllamaClient(fake.url, retry=ONCE) as client:
        with pytest.raises(StatusError) as caught:
            await client.create("mine", files=[small])
    assert caught.value.status == 500
    assert len(fake.requests) == 1


# --- the context --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["pull", "push", "create"])
@on_both
async def test_leaving_a_progress_early_closes_its_socket(fake: ScriptedOllama, what: str) -> None:
    """The server stops what it does."""
    fake.enqueue(f"POST /api/{what}", Raw([opening() + line_chunk({"status": "doing it"}), STALL]))
    async with OllamaClient(fake.url) as client:
        async with client.stream_pull("mine") if what == "pull" else asked(client, what) as progress:
            async for _ in progress:
                break
        await until(lambda: fake.open_connections == 0)
        assert pool_of(client).connections == (0, 0)


async def raise_within(progress: Any, exc: Exception) -> None:
    """Leave a progress after its first line by an error."""
    async with progress as lines:
        await anext(lines)
        raise exc


@on_both
async def test_what_the_block_raises_comes_out_as_it_is(fake: ScriptedOllama) -> None:
    """Not in a group, without another cause or context."""
    async with OllamaClient(fake.url) as client:
        raised = KeyError("mine")
        with pytest.raises(KeyError) as caught:
            await raise_within(asked(client, "create"), raised)
        assert caught.value is raised
        assert (raised.__cause__, raised.__context__) == (None, None)
        async with asked(client, "create"):
            pass  # not iterated at all


@on_both
async def test_cancelled_anywhere_a_create_leaks_nothing(fake: ScriptedOllama, small: Path) -> None:
    """No socket, no slot, no file."""
    async with OllamaClient(fake.url, max_connections=1) as client:
        await client.version()
        async for _ in cancelled_everywhere(lambda: client.create("mine", files=[small])):
            await until(lambda: pool_of(client).connections in {(0, 0), (0, 1)})
            fake.settings.blobs.clear()
        with anyio.fail_after(5):
            assert await client.version()
    await fake.wait_closed_connections()


# --- patience -----------------------------------------------------------------------------------------------------


@on_both
async def test_an_upload_may_take_longer_than_an_answer(fake: ScriptedOllama, big: Path) -> None:
    """The limit is for what stands still: each piece that is sent begins it anew."""
    limits = Timeouts(connect_s=0.1, first_byte_s=0.4)
    async with OllamaClient(fake.url, timeouts=limits) as client:
        began = anyio.current_time()
        async with client.stream_create("mine", files=[big]) as progress:
            async for line in progress:
                if line.status.startswith("uploading"):
                    await anyio.sleep(0.04)
        assert anyio.current_time() - began > 0.8


@pytest.mark.parametrize("what", ["pull", "push", "create"])
@on_both
async def test_between_two_lines_the_server_may_work_long(fake: ScriptedOllama, what: str) -> None:
    """Checking or converting many gigabytes says nothing for minutes; still there is a limit."""
    lines: list[Any] = [
        line_chunk({"status": "verifying"}),
        Pause(0.4),
        line_chunk({"status": "success"}),
        b"0\r\n\r\n",
    ]
    fake.enqueue(f"POST /api/{what}", Raw([opening(), *lines]), Raw([opening(), lines[0], STALL]))
    limits = Timeouts(stall_s=0.1, first_byte_s=1)
    async with OllamaClient(fake.url, timeouts=limits) as client:
        for _ in range(2):
            progress = client.stream_pull("mine") if what == "pull" else asked(client, what)
            if fake.requests:
                with pytest.raises(StallTimeout):
                    await lines_of(progress)
            else:
                assert [line.status for line in await lines_of(progress)] == ["verifying", "success"]
