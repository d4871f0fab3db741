"""
What the pages with the data make of a record: values, differences, and the patch that they propose.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ferry.app.browse.curl import patch_of
from ferry.app.browse.differences import MOST_FIELDS, record_change
from ferry.app.browse.values import MOST_CHARACTERS, MOST_VALUES, line_of, value_of
from ferry.app.store.changes import Difference

CLOSED = {
    "properties": {"name": {"enum": ["a", "b"]}, "mail": {"format": "email"}, "age": {"type": "integer"}}
}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("a\nb\x1b[31m\u202ec", "a bc"),
        (True, "true"),
        (None, ""),
        (2.5, "2.5"),
        (float("nan"), "nan"),
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31T00:00:00Z"),
        (["a", {"b": [1, 2]}], "a, b: 1, 2"),
        ("x" * 100, "x" * 79 + "…"),
        (list(range(25)), ", ".join(map(str, range(20))) + ", …"),
    ],
)
def test_a_value_is_a_line_of_text(value, line):
    assert line_of(value) == line


@pytest.mark.parametrize(
    "text",
    [
        "javascript:alert(1)",
        "https://a b",
        "data:text/html,x",
        "x https://a.example",
        "https://a\u202e.example",
    ],
)
def test_only_a_whole_web_address_is_a_link(text):
    [shown] = value_of({"at": text}, []).inner
    assert shown.kind == "text"
    [shown] = value_of({"at": "https://town.example/?a=1"}, []).inner
    assert shown.kind == "link"


def test_a_record_is_shown_in_its_schemas_order_up_to_a_bound():
    schema = {"properties": {"b": {"title": "Bee"}, "a": True}}
    fields = value_of({"c": 1, "a": 2, "b": 3}, [schema]).inner
    assert [(each.name, each.title) for each in fields] == [("b", "Bee"), ("a", "a"), ("c", "c")]
    [shown] = value_of({"t": "x" * (MOST_CHARACTERS + 1)}, []).inner
    assert (len(shown.text), shown.left_out) == (MOST_CHARACTERS, 1)
    nested = {"t": [list(range(MOST_VALUES))] * 9}
    [shown] = value_of(nested, []).inner
    assert sum(len(each.inner) for each in shown.inner) < MOST_VALUES


def _schema(**properties):
    return [{"properties": properties, "additionalProperties": False}]


@pytest.mark.parametrize(
    ("record", "schemas", "patch"),
    [
        ({"place": "harbour/library", "title": "A fair"}, [], {"title": "A fair, changed"}),
        ({"code": "ABC", "n": 3}, _schema(code={"pattern": "^[A-Z]+$"}, n={"type": "integer"}), {"n": 4}),
        ({"short": "hello"}, _schema(short={"maxLength": 5}), None),
        ({"n": 3}, _schema(n={"maximum": 3}), None),
        ({"b": "x", "a": "y"}, _schema(b={"type": "string"}, a={"type": "string"}), {"b": "x, changed"}),
        ({"flag": True}, [], None),
        ({"slug": "jane"}, [], None),
    ],
)
def test_the_line_that_changes_a_record_makes_a_change_that_its_schema_accepts(record, schemas, patch):
    assert patch_of(record, ["slug"], schemas) == patch


def _change(before, after, fault=""):
    return record_change(Difference(before=before, after=after, fault=fault), [])


def test_a_difference_is_told_field_by_field():
    change = _change({"a": 1, "b": {"c": 1, "d": 1}, "e": 1}, {"a": 1, "b": {"c": 2, "d": 1}, "f": [True]})
    assert [(each.title, each.before, each.after) for each in change.fields] == [
        ("b / c", "1", "2"), ("e", "1", None), ("f", None, "true"),
    ]  # fmt: skip
    assert [each.after for each in _change({"a": 1}, {"a": True}).fields] == ["true"]
    assert _change(None, {"a": 1}).what == "created"
    assert _change({"a": 1}, None).what == "removed"
    assert _change({"a": 1}, None, "not TOML").fault == "not TOML"
    many = _change({}, {str(number): number for number in range(MOST_FIELDS + 1)})
    assert (len(many.fields), many.has_more) == (MOST_FIELDS, True)


@pytest.mark.parametrize(
    ("record", "patch"),
    [
        ({"slug": "a", "title": "T"}, {"title": "T, changed"}),
        ({"slug": "a", "name": "a", "mail": "a@b", "age": 3}, {"age": 4}),
        ({"slug": "a", "long": "x" * 61, "flag": True, "lines": "a\nb"}, None),
    ],
)
def test_the_patch_that_is_proposed_is_likely_to_be_accepted(record, patch):
    assert patch_of(record, {"slug"}, [CLOSED]) == patch
