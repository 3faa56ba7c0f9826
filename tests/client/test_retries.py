"""What is tried again, when and for how long; what a call may take in all; on asyncio and on trio."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import tenacity
from fakes import STALL, Raw, Reply, ScriptedOllama, Stream, error, head, stream_head
from fakes import chunk as http_chunk
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem import OllamaClient, RetryPolicy, Timeouts, no_retry_waits
from ollama_async_mem.errors import (
    AuthenticationFailed,
    ConfigError,
    FirstByteTimeout,
    ModelNotFound,
    ServerBusy,
    StallTimeout,
    StatusError,
    StreamFailed,
    TotalTimeout,
)
from ollama_async_mem.ollama._refusals import status_error
from ollama_async_mem.ollama._retry import _wait

from .backends import BACKENDS, HI, LINE, on_both, pool_of, read, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNNER_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
EMBED_EOF = 'do embedding request: Post "http://127.0.0.1:45673/v1/embeddings": EOF'
SOON = RetryPolicy(base_s=0.01, cap_s=0.02)

# --- what a refusal means -----------------------------------------------------------------------------------------

RUNNER = "127.0.0.1:36001"
REFUSED = f"dial tcp {RUNNER}: connect: connection refused"
RESET = f"read tcp 127.0.0.1:5->{RUNNER}: read: connection reset by peer"
ON_WINDOWS = f"read tcp 127.0.0.1:5->{RUNNER}: wsarecv: An existing connection was forcibly closed by the remote host."
TRANSIENT = [
    (429, "too many requests"),
    (499, "request canceled"),
    (502, "<html>Bad Gateway</html>"),
    (503, "server busy, please try again.  maximum pending requests exceeded"),
    (503, '{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'),
    (504, "gateway timeout"),
    (500, RUNNER_STOPPED),
    (500, f"{RUNNER_STOPPED}: CUDA error: an illegal memory access was encountered"),
    (500, "an error was encountered while running the model: unexpected EOF"),
    (500, f'POST predict: Post "http://{RUNNER}/completion": EOF'),
    (500, f'Post "http://{RUNNER}/tokenize": {REFUSED}'),
    (500, f'health resp: Get "http://{RUNNER}/health": {RESET}'),
    (500, "connection refused"),
    (500, f"error reading llama-server chat response: {RESET}"),
    (500, f'do embedding request: Post "http://{RUNNER}/embedding": {ON_WINDOWS}'),
    (400, EMBED_EOF),
    (400, f'do embedding request: Post "http://{RUNNER}/v1/embeddings": {REFUSED}'),
    (400, "error reading embed response: unexpected EOF"),
    (400, f'Post "http://{RUNNER}/detokenize": EOF'),
    (400, "connection refused"),
]
FINAL = [
    (400, "model is required"),
    (400, "invalid model name"),
    (400, "library/all-minilm:latest does not support tools"),
    (400, '"all-minilm" does not support chat'),
    (400, 'invalid think value: "EOF" (must be "high", "medium", "low", true, or false)'),
    (400, 'time: missing unit in duration "5"'),
    (400, "the input length exceeds the context length"),
    (400, "input exceeds maximum context length and cannot be truncated further"),
    (400, "input after truncation exceeds maximum context length"),
    (400, "the prompt is longer than the context length currently available to the model; shorten the prompt"),
    (400, "embedding contains NaN or Inf values"),
    (400, "invalid input type"),
    (400, "missing request body"),
    (400, f"tokenize error: {EMBED_EOF}"),
    (500, 'option "num_ctx" must be of type integer'),
    (500, 'option "EOF" must be of type array'),
    (500, 'invalid format: "EOF"; expected "json" or a valid JSON Schema object'),
    (500, f"invalid format: {RUNNER_STOPPED}"),
    (500, "llama-server process has terminated: exit status 1: error loading model: unexpected EOF"),
    (500, "timed out waiting for llama-server to start - connection refused"),
    (500, "llama-server reported out-of-memory during startup: cudaMalloc failed: out of memory"),
    (500, "model requires more system memory (9.1 GiB) than is available (2.0 GiB)"),
    (500, f"{RUNNER_STOPPED}: CUDA error: out of memory"),
    (500, f"{RUNNER_STOPPED}: ggml_backend: cudaMalloc failed"),
    (500, "an error was encountered while running the model: VK_ERROR_OUT_OF_DEVICE_MEMORY"),
    (500, 'pull model manifest: Get "http://127.0.0.1:5000/v2/library/x/manifests/latest": EOF'),
    (500, 'Post "http://example.com/v1/embeddings": EOF'),
    (500, '{"error":{"code":500,"message":"EOF","type":"server_error"}}'),
    (500, "EOF\nand more"),
    (500, "[]"),
    (500, ""),
    (501, "This server does not support embeddings. EOF"),
    (501, RUNNER_STOPPED),
    (404, "404 page not found"),
    (403, RUNNER_STOPPED),
    (413, "request body too large"),
]


@pytest.mark.parametrize(("status", "words"), TRANSIENT)
def test_what_passes_is_tried_again(status: int, words: str) -> None:
    """A busy server, and a model's process that stopped: as plain text, as Ollama's JSON, and as the /v1 paths'."""
    for body in (words, json.dumps({"error": words}), json.dumps({"error": {"message": words, "type": "api_error"}})):
        failure = status_error(status, body.encode(), "", "http://x")
        assert (type(failure), failure.retryable, failure.status) == (ServerBusy, True, status)


@pytest.mark.parametrize(("status", "words"), FINAL)
def test_what_stays_is_not_tried_again(status: int, words: str) -> None:
    """Bad requests, models that do not fit, and other people's words."""
    failure = status_error(status, json.dumps({"error": words}).encode(), "", "http://x")
    assert not failure.retryable
    assert words in str(failure)


@given(st.sampled_from([words for _, words in TRANSIENT]) | st.text())
def test_the_users_own_words_do_not_count(words: str) -> None:
    """Whatever a request said, its echo in an error is no reason to send it again."""
    echoes = (f'option "{words}" must be of type integer', f'invalid format: "{words}"', f"tokenize error: {words}")
    for status, echo in itertools.product((400, 500), echoes):
        failure = status_error(status, json.dumps({"error": echo}).encode(), "", "http://x")
        assert type(failure) is StatusError


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, b'{"error":"model \'x\' not found"}', ModelNotFound, "model 'x' not found"),
        (404, b'{"error":"model \\"x\\" not found, try pulling it first"}', ModelNotFound, "try pulling"),
        (404, b"404 page not found", StatusError, "404 page not found"),
        (502, b"<html>Bad Gateway</html>", ServerBusy, "Bad Gateway"),
        (401, b'{"error":"unauthorized"}', AuthenticationFailed, "unauthorized"),
        (403, b"", AuthenticationFailed, "status 403"),
        (400, b'{"error":{"message":"bad input","type":"x"}}', StatusError, "bad input"),
        (400, b'{"StatusCode":400,"Status":"400 Bad Request","error":"bad"}', StatusError, "bad"),
        (500, b'"text"', StatusError, "text"),
        (500, b"[]", StatusError, "[]"),
        (500, b'{"error":null}', StatusError, "status 500"),
        (500, b'{"error":{"code":5}}', StatusError, "'code': 5"),
        (500, b"\xff\xfe", StatusError, "\ufffd"),
        (302, b"", StatusError, "only the statuses 307 and 308"),
    ],
)
def test_refusals_become_errors_of_their_kind(status: int, body: bytes, kind: type, text: str) -> None:
    """The status and the words of a refusal decide its class; the words are kept."""
    failure = status_error(status, body, "7", "http://x")
    assert type(failure) is kind
    assert text in str(failure)
    assert (failure.status, failure.retry_after_s, failure.signin_url) == (status, 7.0, "")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ("120", 120.0), *((wrong, None) for wrong in ("", "-1", "1.5", "1e3", "٣", "9" * 10, "Wed, 21 Oct"))],
)
def test_retry_after_is_read(value: str, seconds: float | None) -> None:
    """Whole seconds; all else is left out."""
    assert status_error(503, b"", value, "http://x").retry_after_s == seconds


@on_both
async def test_the_address_to_sign_in_is_told(fake: ScriptedOllama) -> None:
    """On the error and in its words, which a command line prints."""
    address = "https://ollama.com/connect?name=me&key=k"
    fake.enqueue("POST /api/chat", Reply(401, json={"error": "unauthorized", "signin_url": address}))
    fake.enqueue("GET /api/tags", Reply(401, json={"error": "unauthorized", "signin_url": {"not": "a text"}}))
    async with OllamaClient(fake.url) as client:
        with pytest.raises(AuthenticationFailed, match="sign in at") as caught:
            await client.chat("m:cloud", HI)
        assert caught.value.signin_url == address
        assert address in str(caught.value)
        with pytest.raises(AuthenticationFailed) as caught:
            await client.tags()
        assert caught.value.signin_url == ""
    assert len(fake.requests) == 2


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["connect_s", "first_byte_s", "stall_s", "total_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "5", [1]])
def test_a_limit_is_a_positive_number(name: str, value: Any) -> None:
    """Anything else is refused at once; infinity is no limit."""
    with pytest.raises(ConfigError, match="positive"):
        Timeouts(**{name: value})
    Timeouts(**{name: float("inf")})


def test_only_the_total_may_be_left_out() -> None:
    """None is no limit there, and an error elsewhere."""
    assert Timeouts(total_s=None) == Timeouts()
    with pytest.raises(ConfigError):
        Timeouts(stall_s=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"attempts": 1.5}, {"attempts": "4"}, {"base_s": -1}, {"cap_s": float("nan")}, {"cap_s": ""}],
)
def test_a_policy_is_made_of_numbers(wrong: Any) -> None:
    """Anything else is refused at once."""
    with pytest.raises(ConfigError, match="attempts >= 1"):
        RetryPolicy(**wrong)


# --- retries ------------------------------------------------------------------------------------------------------


@on_both
async def test_a_busy_server_is_asked_again(fake: ScriptedOllama) -> None:
    """Also before a stream."""
    fake.enqueue("POST /api/chat", error(503, "server busy"), error(429, "slow down"))
    async with OllamaClient(fake.url, retry=SOON) as client:
        assert await read(client) == "You said: hello there"
    assert len(fake.requests) == 3


@on_both
async def test_a_model_whose_process_stopped_is_asked_again(fake: ScriptedOllama) -> None:
    """The server starts a new one; for embeddings it makes a 400 of it, on both of its paths."""
    nested = Reply(400, json={"error": {"message": EMBED_EOF, "type": "invalid_request_error"}})
    fake.enqueue("POST /api/chat", error(500, RUNNER_STOPPED))
    fake.enqueue("POST /api/embed", error(400, EMBED_EOF))
    fake.enqueue("POST /v1/embeddings", nested)
    async with OllamaClient(fake.url, retry=SOON) as client:
        assert (await client.chat("m", HI)).message.content
        assert len((await client.embed("m", ["a"])).embeddings) == 1
        assert len((await client.embed("m", ["a"] * 20)).embeddings) == 20
    routes = [request.path for request in fake.requests]
    assert routes == ["/api/chat"] * 2 + ["/api/embed"] * 2 + ["/v1/embeddings"] * 2


@on_both
async def test_a_bad_request_is_sent_once(fake: ScriptedOllama) -> None:
    """Ollama answers 500 to some of them, which does not make them better the second time."""
    fake.enqueue("POST /api/chat", error(500, 'option "EOF" must be of type integer'))
    async with OllamaClient(fake.url, retry=SOON) as client:
        with pytest.raises(StatusError, match="option"):
            await client.chat("m", HI)
    assert len(fake.requests) == 1


@on_both
async def test_an_answer_that_began_is_not_asked_for_again(fake: ScriptedOllama) -> None:
    """Also where its error line says what would be tried again as a status."""
    fake.enqueue("POST /api/chat", Stream([LINE, {"error": RUNNER_STOPPED}]))
    async with OllamaClient(fake.url, retry=SOON) as client:
        with pytest.raises(StreamFailed, match="unexpectedly stopped"):
            await read(client)
    assert len(fake.requests) == 1


@on_both
async def test_retries_end(fake: ScriptedOllama) -> None:
    """After the last attempt the error itself is raised."""
    fake.enqueue("GET /api/tags", error(503, "server busy"), repeat=True)
    async with OllamaClient(fake.url, retry=RetryPolicy(attempts=3, base_s=0.01)) as client:
        with pytest.raises(ServerBusy, match="server busy"):
            await client.tags()
    assert len(fake.requests) == 3


@on_both
async def test_retry_after_is_waited_for(fake: ScriptedOllama) -> None:
    """The server's own time, though the policy would not wait at all."""
    fake.enqueue("GET /api/tags", Reply(503, headers={"Retry-After": "1"}))
    async with OllamaClient(fake.url, retry=RetryPolicy(base_s=0)) as client:
        began = time.monotonic()
        await client.tags()
    assert 1 <= time.monotonic() - began < 2


@on_both
async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(fake: ScriptedOllama) -> None:
    """Neither the whole of it nor a part: whoever asks before that time is told off again."""
    fake.enqueue("GET /api/tags", Reply(503, headers={"Retry-After": "16"}), repeat=True)
    async with OllamaClient(fake.url) as client:
        with anyio.fail_after(1), pytest.raises(ServerBusy) as caught:
            await client.tags()
    assert caught.value.retry_after_s == 16
    assert len(fake.requests) == 1


@on_both
async def test_the_deadline_counts_from_the_first_try(fake: ScriptedOllama) -> None:
    """Its answer took time too, and nothing is left for a wait of one second."""
    busy = Reply(503, headers={"Retry-After": "1"}, delay_s=0.3)
    fake.enqueue("GET /api/tags", busy, repeat=True)
    async with OllamaClient(fake.url, retry=RetryPolicy(deadline_s=1.2)) as client:
        with anyio.fail_after(1), pytest.raises(ServerBusy):
            await client.tags()
    assert len(fake.requests) == 1


@on_both
async def test_no_try_begins_after_the_deadline(fake: ScriptedOllama) -> None:
    """However many are left."""
    fake.enqueue("GET /api/tags", error(503, "busy"), repeat=True)
    policy = RetryPolicy(attempts=10_000, base_s=0.02, cap_s=0.02, deadline_s=0.3)
    async with OllamaClient(fake.url, retry=policy) as client:
        began = time.monotonic()
        with pytest.raises(ServerBusy):
            await client.tags()
        assert time.monotonic() - began < 2
    assert len(fake.requests) > 3


def test_waits_have_full_jitter() -> None:
    """Anything from nothing to twice as much each time, up to the cap."""
    random.seed(3)
    wait = _wait(RetryPolicy(base_s=0.1, cap_s=0.5))
    for number, most in enumerate([0.1, 0.2, 0.4, 0.5, 0.5], start=1):
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = number
        waits = [wait(state) for _ in range(500)]
        assert 0 <= min(waits) < most * 0.05
        assert most * 0.95 < max(waits) <= most
        assert sum(waits) / len(waits) == pytest.approx(most / 2, rel=0.15)


@on_both
async def test_a_server_that_restarts_is_reached(fake: ScriptedOllama) -> None:
    """Nobody listens for half a second; whole answers and streams come all the same."""
    policy = RetryPolicy(attempts=100, base_s=0.05, cap_s=0.1)
    async with OllamaClient(fake.url, retry=policy) as client:
        await client.version()
        await fake.stop()
        answers: list[str] = []

        async def ask(work: Callable[[], Any]) -> None:
            answers.append(await work())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, client.version)
            tasks.start_soon(ask, partial(read, client))
            await anyio.sleep(0.5)
            assert not answers
            await fake.start()
        assert len(answers) == 2


@on_both
async def test_a_wait_is_cancelled_at_once(fake: ScriptedOllama) -> None:
    """And nothing is sent after that."""
    fake.enqueue("GET /api/tags", Reply(503, headers={"Retry-After": "5"}), repeat=True)
    async with OllamaClient(fake.url) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.tags)
            await fake.wait_until(lambda: bool(fake.requests and fake.requests[0].completed))
            await until(lambda: pool_of(client).connections == (0, 1))
            began = time.monotonic()
            tasks.cancel_scope.cancel()
        assert time.monotonic() - began < 0.5
    assert len(fake.requests) == 1


# --- without waiting ----------------------------------------------------------------------------------------------


@on_both
async def test_waits_can_be_switched_off(fake: ScriptedOllama) -> None:
    """Nothing else changes: what is tried again, how often, and the error."""
    slow = RetryPolicy(base_s=1000, cap_s=1000, deadline_s=1000)
    fake.enqueue("GET /api/tags", error(503, "busy"), Reply(503, headers={"Retry-After": "900"}), error(404, "no"))
    fake.enqueue("POST /api/show", error(503, "busy"), repeat=True)
    async with OllamaClient(fake.url, retry=slow) as client:
        with no_retry_waits(), anyio.fail_after(2):
            with pytest.raises(StatusError, match="no"):
                await client.tags()
            with no_retry_waits(), pytest.raises(ServerBusy):
                await client.show("m")
            with pytest.raises(ServerBusy):
                await client.show("m")
    assert len(fake.requests_to("GET /api/tags")) == 3
    assert len(fake.requests_to("POST /api/show")) == 2 * RetryPolicy().attempts


@on_both
async def test_waits_are_switched_on_again(fake: ScriptedOllama) -> None:
    """Whichever way the block is left."""
    with contextlib.suppress(ZeroDivisionError), no_retry_waits():
        raise ZeroDivisionError
    fake.enqueue("GET /api/tags", Reply(503, headers={"Retry-After": "900"}), repeat=True)
    async with OllamaClient(fake.url) as client:
        with anyio.fail_after(1), pytest.raises(ServerBusy):
            await client.tags()
    assert len(fake.requests) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_waits_are_off_in_all_threads(fake: ScriptedOllama, backend: str) -> None:
    """A test may switch them off for an event loop that runs elsewhere."""
    fake.enqueue("GET /api/version", Reply(503, headers={"Retry-After": "10"}))
    answers: list[str] = []

    async def ask() -> None:
        async with OllamaClient(fake.url) as client:
            answers.append(await client.version())

    with no_retry_waits():
        thread = threading.Thread(target=lambda: anyio.run(ask, backend=backend), daemon=True)
        thread.start()
        thread.join(5)
    assert len(answers) == 1


# --- in all -------------------------------------------------------------------------------------------------------


@on_both
async def test_a_call_ends_in_time(fake: ScriptedOllama) -> None:
    """Whatever it waits for: the head of an answer, its rest, or a connection."""
    fake.enqueue("GET /api/tags", Raw([STALL]), Raw([head(headers={"Content-Length": "9"}), b"{", STALL]))
    fake.enqueue("GET /api/ps", Raw([STALL]))
    async with OllamaClient(fake.url, timeouts=Timeouts(total_s=0.2), max_connections=1) as client:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(TotalTimeout, match=r"/api/tags was not done within 0\.2 s") as caught:
                await client.tags()
            assert 0.2 <= time.monotonic() - began < 1
            assert caught.value.limit_s == 0.2
            assert isinstance(caught.value.__cause__, TimeoutError)
            await until(lambda: fake.open_connections == 0)
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(raises_total_timeout, client)
        assert pool_of(client).connections == (0, 0)
    assert len(fake.requests) == 3


async def raises_total_timeout(client: OllamaClient) -> None:
    """One of two that want the only connection."""
    with pytest.raises(TotalTimeout):
        await client.ps()


@on_both
async def test_the_total_is_of_all_tries(fake: ScriptedOllama) -> None:
    """A try that hangs has what the tries before left over; a wait that is too long is not begun."""
    fake.enqueue("GET /api/tags", Reply(503, delay_s=0.3), Raw([STALL]))
    fake.enqueue("GET /api/ps", Reply(503, headers={"Retry-After": "1"}))
    async with OllamaClient(fake.url, timeouts=Timeouts(total_s=0.5), retry=SOON) as client:
        began = time.monotonic()
        with pytest.raises(TotalTimeout):
            await client.tags()
        assert 0.5 <= time.monotonic() - began < 0.75
        with anyio.fail_after(0.3), pytest.raises(ServerBusy):
            await client.ps()
    assert len(fake.requests) == 3


@on_both
async def test_a_stream_ends_in_time(fake: ScriptedOllama) -> None:
    """From its entry to its last piece, though each piece came in time; its socket is closed."""
    fake.enqueue("POST /api/chat", Raw([STALL]), Stream([LINE] * 1000, interval_s=0.02))
    async with OllamaClient(fake.url, timeouts=Timeouts(total_s=0.3)) as client:
        with pytest.raises(TotalTimeout):
            await read(client)
        began = time.monotonic()
        with pytest.raises(TotalTimeout, match="/api/chat"):
            await read(client)
        assert 0.3 <= time.monotonic() - began < 1
        await until(lambda: fake.open_connections == 0)
        assert pool_of(client).connections == (0, 0)


@on_both
async def test_a_stream_that_never_waits_ends_in_time(fake: ScriptedOllama) -> None:
    """Nothing is awaited while more is at hand; the clock is looked at all the same."""

    def flood() -> Iterator[bytes]:
        yield stream_head()
        while True:
            yield http_chunk(LINE) * 1000

    fake.enqueue("POST /api/chat", Raw(flood))
    async with OllamaClient(fake.url, timeouts=Timeouts(total_s=0.3)) as client:
        with anyio.fail_after(5), pytest.raises(TotalTimeout):
            await read(client)


@on_both
async def test_the_time_of_who_reads_counts(fake: ScriptedOllama) -> None:
    """He is not interrupted, but what comes after that is too late, also where it has come already."""
    fake.enqueue("POST /api/chat", Stream([LINE, LINE], interval_s=0.02))
    async with OllamaClient(fake.url, timeouts=Timeouts(total_s=0.1)) as client, client.stream_chat("m", HI) as stream:
        chunks = aiter(stream)
        await anext(chunks)
        await anyio.sleep(0.2)
        with pytest.raises(TotalTimeout):
            await anext(chunks)


@on_both
async def test_each_limit_has_its_error(fake: ScriptedOllama) -> None:
    """The total is a further one; the others stay what they are, and so does a limit of the caller."""
    fake.enqueue("GET /api/tags", Raw([STALL]), repeat=True)
    fake.enqueue("POST /api/chat", Raw([stream_head(), http_chunk(LINE), STALL]), repeat=True)
    short = Timeouts(connect_s=0.05, first_byte_s=0.05, stall_s=0.1, total_s=5)
    async with OllamaClient(fake.url, timeouts=short) as client:
        with pytest.raises(FirstByteTimeout):
            await client.tags()
        with pytest.raises(StallTimeout):
            await read(client)
    async with OllamaClient(fake.url, timeouts=Timeouts(total_s=5)) as client:
        for work in (client.tags, partial(read, client)):
            with anyio.move_on_after(0.1) as scope:
                await work()
            assert scope.cancelled_caught


@on_both
async def test_what_is_done_in_time_is_as_without_a_limit(fake: ScriptedOllama) -> None:
    """Connections are kept, and nothing is left behind that ends a later request."""
    async with OllamaClient(fake.url, timeouts=Timeouts(total_s=0.3)) as client:
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            assert await client.version()
            assert await read(client) == "You said: hello there"
        assert pool_of(client).connections == (0, 1)
    assert fake.connections_total == 1
