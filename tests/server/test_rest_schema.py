"""What the OpenAPI document promises, tried on every route with whatever it allows, and with what it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ollama_async_mem.server.rest.app import routes

if TYPE_CHECKING:
    import httpx

EXAMPLES = 10
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
ENDLESS = "/api/v1/events"
ANYTHING = "/api/v1/import"  # by its schema, whose lines are not JSON as a whole
TOO_LONG = b"Invalid HTTP request received."  # uvicorn, where the query is larger than it takes
NAMES = sorted({(route.method, route.path.replace(":str", "").replace(":path", "")) for route in routes()})


@schemathesis.serializer("application/x-ndjson")
def as_lines(_context: Any, value: Any) -> bytes:
    """Write a body that is no JSON."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@pytest.mark.parametrize(("method", "path"), [name for name in NAMES if name[1] != ENDLESS])
async def test_whatever_is_sent_the_server_does_not_fail(rest: httpx.AsyncClient, method: str, path: str) -> None:
    """No answer is a 5xx, and each is what the document says. Routes of one memory are asked for one that is there."""
    key = (await rest.post("/api/v1/memories", json={"messages": "tea", "user_id": "a"})).json()["turns"][0]["id"]
    document = (await rest.get("/docs/openapi.json")).json()
    operation = schemathesis.openapi.from_dict(document)[path][method]
    url = str(rest.base_url).rstrip("/")
    can_be_wrong = path != ANYTHING and (operation.query or operation.body)
    for mode in MODES if can_be_wrong else MODES[:1]:
        await anyio.to_thread.run_sync(_tried, operation.as_strategy(generation_mode=mode), url, key)


def _tried(cases: Any, url: str, key: str) -> None:
    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=cases)
    def tried(case: Any) -> None:
        if "id" in case.path_parameters:
            case.path_parameters["id"] = key
        answer = case.call(base_url=url, timeout=20)
        if answer.content != TOO_LONG:
            case.validate_response(answer, checks=CHECKS)

    tried()
