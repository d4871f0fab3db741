"""
A sheet's JSON Schema as a component of the OpenAPI document.

A sheet may declare any schema that gitsheets accepts. References inside the schema are rewritten for its
place in the document. A schema that OpenAPI 3.1 cannot express, or that its readers cannot follow, becomes a
plain object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gitsheets

from ferry.app.records.json_form import to_json
from ferry.app.sheets.schema_cost import is_cheap

Json = dict[str, Any]

# Where a keyword of JSON Schema 2020-12 holds schemas; every other value is data.
_ONE = (
    "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames",
    "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
# What a part of a record need not meet.
_OF_THE_WHOLE = (
    "required", "minProperties", "dependentRequired", "dependentSchemas", "dependencies", "anyOf", "oneOf",
    "not", "if", "then", "else", "unevaluatedProperties", "propertyNames", "default",
)  # fmt: skip
# Keywords that name, or refer to, a schema by something other than its place.
_ELSEWHERE = ("$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef", "id")


class _InexpressibleError(Exception):
    """
    An OpenAPI document cannot hold the schema.
    """


def plain_object() -> Json:
    """
    Return the schema of an object with any fields.
    """
    # Without "additionalProperties", client generators write a type without fields.
    return {"type": "object", "additionalProperties": True}


def component(schema: Mapping[str, Any] | None, place: str) -> Json:
    """
    Return *schema* rewritten for *place*, such as ``#/components/schemas/record_people``.
    """
    if not schema:
        return plain_object()
    declared = {key: value for key, value in to_json(schema).items() if key != "$schema"}
    try:
        gitsheets.validate_batch(declared, [])  # as 2020-12, whatever $schema says
        return _moved(declared, lambda reference: _rebased(place, reference))
    except (gitsheets.GitsheetsError, _InexpressibleError):
        return plain_object()


def for_requests(schema: Any, date: Json) -> Any:
    """
    Return *schema* with a choice wherever it asks for a date-time: the string, or the schema *date*.
    """
    if not isinstance(schema, dict):
        return schema
    chosen: Json = dict(schema)
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            chosen[key] = {name: for_requests(each, date) for name, each in value.items()}
        elif key in _MANY and isinstance(value, list):
            chosen[key] = [for_requests(each, date) for each in value]
        elif key in ("items", "additionalProperties"):
            chosen[key] = for_requests(value, date)
    return {"anyOf": [chosen, date]} if schema.get("format") == "date-time" else chosen


def partial(schema: Any, *, or_null: bool = False) -> Any:
    """
    Return what *schema* says of a part of a record: none of its fields is required, in its tables neither.

    Args:
        or_null: Whether a field may be null instead, as in a merge patch (RFC 7396), which removes it so.
    """
    if not isinstance(schema, dict):
        return schema
    part = {key: value for key, value in schema.items() if key not in _OF_THE_WHOLE}
    if "allOf" in part:
        part["allOf"] = [partial(each, or_null=or_null) for each in part["allOf"]]
    if "$ref" in part:
        return plain_object()  # what it refers to may require fields
    for key in ("properties", "patternProperties"):
        if isinstance(part.get(key), dict):
            part[key] = {name: _partial_field(each, or_null) for name, each in part[key].items()}
    if isinstance(part.get("additionalProperties"), dict):
        part["additionalProperties"] = _partial_field(part["additionalProperties"], or_null)
    return part


def _partial_field(schema: Any, or_null: bool) -> Any:
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {}
    field = partial(schema, or_null=or_null) if _is_table(schema) else schema
    return {"anyOf": [field, {"type": "null"}]} if or_null else field


def _is_table(schema: Json) -> bool:
    return schema.get("type") == "object" or "properties" in schema


def _rebased(place: str, reference: str) -> str:
    if reference != "#" and not reference.startswith("#/"):
        raise _InexpressibleError(reference)
    return place + reference[1:]


def _moved(schema: Json, led: Callable[[str], str]) -> Json:
    moved: Json = {}
    for key, value in schema.items():
        if key in _ELSEWHERE or (key == "items" and isinstance(value, list)):  # the latter is draft 7
            raise _InexpressibleError(key)
        if key == "$ref":
            moved[key] = led(value)
        elif key in _NAMED and isinstance(value, dict):
            moved[key] = {name: _moved_one(each, led) for name, each in value.items()}
        elif key in _MANY and isinstance(value, list):
            moved[key] = [_moved_one(each, led) for each in value]
        elif key in _ONE:
            moved[key] = _moved_one(value, led)
        elif key != "default" or (is_cheap(schema) and _is_fitting(schema)):
            moved[key] = value
    return moved


def _moved_one(schema: Any, led: Callable[[str], str]) -> Any:
    return _moved(schema, led) if isinstance(schema, dict) else schema


def _is_fitting(schema: Json) -> bool:
    """
    Whether the default of *schema* is valid. gitsheets does not require it; readers of OpenAPI do.
    """
    try:
        [issues] = gitsheets.validate_batch({"properties": {"it": schema}}, [{"it": schema["default"]}])
    except gitsheets.GitsheetsError:
        return False  # it refers to another part of the whole schema
    return not issues
