"""
The routes of extensions in the OpenAPI document, made from their functions and from what they say.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ferry.extension import Extension, Route

Json = dict[str, Any]

_PARAMETER = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?(\w+)>")
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_OF_CONVERTERS = {"int": "integer", "float": "number"}


def extension_paths(extensions: Sequence[Extension], *, reads_are_open: bool) -> Json:
    """
    Return the paths of the routes of *extensions*.

    Args:
        reads_are_open: Whether a public route needs no token to be read, either.
    """
    paths: Json = {}
    for extension in extensions:
        for route in extension.hooks.routes:
            path = paths.setdefault(_PARAMETER.sub(r"{\2}", route.path), {})
            for method in route.methods:
                operation = _operation(extension.name, route, method)
                if route.public and (reads_are_open or method not in ("GET", "HEAD")):
                    operation.setdefault("security", [])
                path[method.lower()] = operation
    return paths


def _operation(extension: str, route: Route, method: str) -> Json:
    hints = _hints(route)
    summary, _, more = (inspect.getdoc(route.view) or route.path).partition("\n\n")
    content = {"application/json": {"schema": _schema(hints.get("return"))}}
    operation: Json = {
        "tags": [extension],
        "operationId": f"{extension}_{route.view.__name__}_{method.lower()}",
        "summary": " ".join(summary.split()),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": _parameter(converter, hints.get(name))}
            for converter, name in _PARAMETER.findall(route.path)
        ],
        "responses": {
            "200": {"description": "The answer.", "content": content},
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }
    if more.strip():
        operation["description"] = more.strip()
    return {**operation, **route.openapi}


def _parameter(converter: str, hint: Any) -> Json:
    return {"type": _OF_CONVERTERS.get(converter) or _TYPES.get(hint, "string")}


def _hints(route: Route) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(route.view)
    except Exception:  # noqa: BLE001
        return {}  # a hint that only a type checker understands


def _schema(hint: Any) -> Json:
    """
    Return the JSON Schema of a type hint; that of any object, where it says no more.
    """
    if isinstance(hint, type) and hint in _TYPES:
        return {"type": _TYPES[hint]}
    if typing.is_typeddict(hint):
        properties = {name: _schema(each) for name, each in typing.get_type_hints(hint).items()}
        return {"type": "object", "properties": properties, "required": sorted(hint.__required_keys__)}
    if (typing.get_origin(hint) or hint) is list:
        items = typing.get_args(hint)
        return {"type": "array", "items": _schema(items[0]) if items else {}}
    return {"type": "object", "additionalProperties": True}
