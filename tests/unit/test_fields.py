"""
The fields of TOML records: where versions differ, and a record of two versions.
"""

from __future__ import annotations

import pytest

from ferry.worker.repair.fields import differences, literal, mixed, name_of, parse


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("a = 1", "a = 1", {}),
        ("a = 1", "a = 1.0", {"a": ["1", "1.0"]}),
        ("a = true", "a = 1", {"a": ["true", "1"]}),
        ("t = {x = 1, y = 2}", "t = {y = 2, x = 3}", {"t.x": ["1", "3"]}),
        ("t = {x = 1}", "", {"t.x": ["1", None]}),
        ("t = {x = 1}", "t = 'text'", {"t": ["{x = 1}", '"text"']}),
        ('"a.b" = 1', '"a.b" = 2', {"a.b": ["1", "2"]}),
        ("d = 1979-05-27", "d = 1979-05-27T00:00:00Z", {"d": ["1979-05-27", "1979-05-27T00:00:00Z"]}),
        ("l = [{k = 'é'}]", "l = []", {"l": ['[{k = "é"}]', "[]"]}),
    ],
)
def test_differences_are_named_field_by_field(one: str, other: str, differ: dict[str, list[str | None]]):
    found = differences([parse(one), parse(other)])
    shown = {
        name_of(keys): [None if value is None else literal(value) for value in values]
        for keys, values in found
    }
    assert shown == differ


@pytest.mark.parametrize("text", ["no toml", "a = " + "[" * 3000, "a = 1\na = 2"])
def test_what_is_no_record_is_none(text: str):
    assert parse(text) is None


@pytest.mark.parametrize(
    ("names", "result"),
    [
        ([], 'born = 1979-05-27\n"x.y" = 1\n\n[t]\nk = 1\nonly = 1\n'),
        (["x.y"], 'born = 1979-05-27\n"x.y" = 2\n\n[t]\nk = 1\nonly = 1\n'),
        (["t.k", "born"], 'born = 07:32:00\n"x.y" = 1\n\n[t]\nk = 2\nonly = 1\n'),
        (["t.only"], 'born = 1979-05-27\n"x.y" = 1\n\n[t]\nk = 1\n'),
    ],
)
def test_a_record_of_two_versions_has_the_named_fields_of_the_second(names: list[str], result: str):
    ours = 'born = 1979-05-27\n"x.y" = 1\n[t]\nk = 1\nonly = 1\n'
    theirs = 'born = 07:32:00\n"x.y" = 2\n[t]\nk = 2\n'
    assert mixed(ours, theirs, names) == result
