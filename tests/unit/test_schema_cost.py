"""
Which schemas are held against records in the API process.
"""

from __future__ import annotations

import pytest

from ferry.app.sheets.schema_cost import is_cheap, is_cheap_for

DEEP = {"type": "string"}
for _ in range(30):
    DEEP = {"not": DEEP}


def _pattern(pattern):
    return {"properties": {"a": {"pattern": pattern}}}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "required": ["a"], "properties": {"a": {"enum": ["x", 1, None]}}},
        {"properties": {"pattern": {"type": "string"}}},
        _pattern("^[a-z0-9-]+$"),
        _pattern("^(?:a|b){1,3}$"),
        _pattern("^[0-9]{8}-[0-9]{4}-[0-9]{4}-[0-9]{4}-[0-9]{12}$"),
        {"patternProperties": {"^x-": {"type": "string"}}},
    ],
)
def test_ordinary_schemas_are_cheap(schema):
    assert is_cheap(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"a": {"$ref": "#/definitions/a"}}},
        {"allOf": [{"items": [{"$ref": "#"}]}]},
        DEEP,
        {"enum": list(range(2000))},
        {"properties": {str(number): {"pattern": "a"} for number in range(101)}},
        _pattern("^(?=a)(a+)+$"),
        _pattern("(a)\\1"),
        _pattern("a++"),
        _pattern("(a{1,60}-){1,9}"),
        _pattern("a{1,1000000000}"),
        {"patternProperties": {"(?!x)": {}}},
    ],
    ids=lambda schema: str(schema)[:50],
)
def test_what_may_cost_more_than_its_size_is_not(schema):
    assert not is_cheap(schema)


def test_a_cheap_schema_is_not_for_a_record_of_any_size():
    schema = {"items": {"allOf": [{"type": "integer"}] * 300}}
    assert is_cheap(schema)
    assert is_cheap_for(schema, "1" * 1000)
    assert not is_cheap_for(schema, "1" * 1_000_000)
