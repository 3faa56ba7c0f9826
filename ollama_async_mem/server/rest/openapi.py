"""The OpenAPI document and the page that shows it, both made of the table of routes. Pure.

The page loads nothing from elsewhere. The schemas are those of the Structs that requests are read with, so they cannot
say anything else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import inspect
import re
from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.server.problems import PROBLEM_TYPE, Problem
from ollama_async_mem.server.rest.routing import JSON, JSON_IN_QUERY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ollama_async_mem.server.rest.routing import Route

__all__ = ["PAGE_POLICY", "document", "written"]

Json = dict[str, Any]
_VARIABLE = re.compile(r"\{(\w+):\w+\}")
_WORD = re.compile(r"(?<!:)\b(?!api\b|v1\b)\w+")
_NAME = re.compile(r"#/components/schemas/(\w+)")
_CODE = re.compile(r"`([^`]+)`")
_RAW = (bytes, str)
_WHAT = "Memories of conversations: stored word for word, found by meaning and words, and told to a model."


def document(routes: Sequence[Route], *, version: str, base_path: str) -> Json:
    """Describe routes as OpenAPI 3.1."""
    kinds = [kind for route in routes for kind in (route.takes, route.returns) if kind and kind not in _RAW]
    kinds = list(dict.fromkeys([*kinds, Problem]))
    found, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(kinds, found, strict=True))
    paths: dict[str, Json] = {}
    for route in routes:
        path = paths.setdefault(_VARIABLE.sub(r"{\1}", route.path), {})
        path[route.method.lower()] = _operation(route, schemas, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ollama-async-mem", "version": version, "description": _WHAT},
        "servers": [{"url": base_path or "/"}],
        "security": [{"key": []}, {}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(route: Route, schemas: dict[Any, Json], components: Json) -> Json:
    summary, _, more = (inspect.getdoc(route.handle) or "").partition("\n\n")
    operation: Json = {
        "operationId": "_".join([route.method.lower(), *_WORD.findall(route.path)]),
        "summary": summary.removesuffix("."),
        "description": more,
        "parameters": [_path_parameter(name) for name in _VARIABLE.findall(route.path)],
        "responses": _responses(route, schemas),
    }
    example = msgspec.to_builtins(route.example)
    if route.takes and route.in_query:
        operation["parameters"] += _query_parameters(route.takes, components, example or {})
    elif route.takes:
        content: Json = {"schema": schemas[route.takes]} | ({"example": example} if example else {})
        operation["requestBody"] = {"required": True, "content": {JSON.decode(): content}}
    elif route.raw_body:
        operation["requestBody"] = {"required": True, "content": {route.raw_body.decode(): {}}}
    return operation


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(takes: type[msgspec.Struct], components: Json, example: Json) -> list[Json]:
    shape = components[takes.__name__]
    return [_query_parameter(name, schema, shape, example) for name, schema in shape["properties"].items()]


def _query_parameter(name: str, schema: Json, shape: Json, example: Json) -> Json:
    parameter: Json = {"name": name, "in": "query", "required": name in shape["required"]}
    schema = _without_null(schema)
    if name in JSON_IN_QUERY:
        return parameter | {"content": {JSON.decode(): {"schema": schema}}}
    return parameter | {"schema": schema} | ({"example": example[name]} if name in example else {})


def _without_null(schema: Json) -> Json:
    """The schema of a parameter that may be left out: nothing in a query string is null."""
    first, *others = schema.get("anyOf", [schema])
    return first if others == [{"type": "null"}] else schema


def _responses(route: Route, schemas: dict[Any, Json]) -> Json:
    problem = {"description": "What went wrong.", "content": {PROBLEM_TYPE.decode(): {"schema": schemas[Problem]}}}
    if route.returns is None:
        return {"204": {"description": "Done."}, "default": problem}
    schema = schemas.get(route.returns, {"type": "string"})
    kinds = [kind.decode() for kind in route.streams or (JSON,)]
    answer = {"description": _described(route), "content": {kind: {"schema": schema} for kind in kinds}}
    return {str(status): answer for status in (route.status, *route.also)} | {"default": problem}


def _described(route: Route) -> str:
    return "A stream: each line, or the data of each event, is one of these." if len(route.streams) > 1 else "Done."


_STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{overflow:auto;padding:.5rem;border:1px solid #8886}
h2{margin-top:2.5rem;border-top:1px solid #8886;padding-top:1rem}dt{font-family:ui-monospace,monospace}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
PAGE_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'; base-uri 'none'".encode()


def written(described: Json, *, address: str) -> bytes:
    """Write the document as a page for people; `address` is where the document itself is."""
    title = html.escape(described["info"]["title"])
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{html.escape(_WHAT)}</p>",
        f'<p>For programs: <a href="{html.escape(address)}">openapi.json</a>.</p>',
        *(
            _section(method, path, operation)
            for path, item in described["paths"].items()
            for method, operation in item.items()
        ),
        "<h2>Schemas</h2>",
        *(_schema(html.escape(name), schema) for name, schema in described["components"]["schemas"].items()),
    ]
    return "\n".join(parts).encode()


def _section(method: str, path: str, operation: Json) -> str:
    title = f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}.</p>"
    described = _CODE.sub(r"<code>\1</code>", html.escape(operation["description"]))
    more = f"<p>{described}</p>" if described else ""
    return title + more + _parameters(operation["parameters"]) + "".join(_examples(operation)) + _answers(operation)


def _schema(name: str, schema: Json) -> str:
    return f'<h3 id="{name}">{name}</h3>{_pre(schema)}'


def _parameters(parameters: Iterable[Json]) -> str:
    items = [
        f"<dt>{html.escape(parameter['name'])}{' (required)' if parameter['required'] else ''}</dt>"
        f"<dd><code>{html.escape(_text(parameter.get('schema') or parameter.get('content')))}</code></dd>"
        for parameter in parameters
    ]
    return f"<dl>{''.join(items)}</dl>" if items else ""


def _answers(operation: Json) -> str:
    """What the answers are made of, with links to it."""
    answers = {status: answer for status, answer in operation["responses"].items() if status.isdigit()}
    names = [dict.fromkeys(_NAME.findall(_text(answer))) for answer in answers.values()]
    links = [", ".join(f'<a href="#{name}">{name}</a>' for name in found) for found in names]
    return "".join(f"<p>Answer {status}: {link}</p>" for status, link in zip(answers, links, strict=True))


def _examples(operation: Json) -> Iterable[str]:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if "schema" in content:
            name = content["schema"]["$ref"].rpartition("/")[2]
            yield f'<p>Body: <a href="#{html.escape(name)}">{html.escape(name)}</a>, for example</p>'
        if "example" in content:
            yield _pre(content["example"])


def _pre(value: Any) -> str:
    return f"<pre>{html.escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>"


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
