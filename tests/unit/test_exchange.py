"""
Records as lines of CSV and NDJSON, and back: nothing is lost, and no spreadsheet runs a formula.
"""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ferry.app.exchange.cells import of_cell, to_cell
from ferry.app.exchange.columns import Columns, field_of, name_of
from ferry.app.exchange.forms import FORMS, LineError
from ferry.app.exchange.marks import marked
from ferry.app.finding.fields import Fields
from ferry.app.sheets.sheet import Sheet

KINDS = ("text", "date", "boolean", "any")
SCHEMA = {
    "properties": {
        "name": {"type": "string"},
        "at": {"type": "string", "format": "date-time"},
        "open": {"type": "boolean"},
        "seats": {"type": "integer"},
        "address": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
}

moments = some.datetimes(timezones=some.just(UTC)).map(
    lambda each: each.replace(microsecond=each.microsecond // 1000 * 1000)
)
texts = some.text(some.characters(exclude_categories=("Cs",))) | some.sampled_from(
    ["", '""', "2016", "true", "TRUE", "=1+1", "'=1", "+49 30 12", "-x", '{"$value":1}', '{"$', "[1]", '"q"',
     "2026-01-31T10:00:00Z", "1e5", "007", "nan", "null", "\r", "a\r\nb,c", "\x00"]
)  # fmt: skip
scalars = texts | some.booleans() | some.integers(-(2**63), 2**63 - 1) | some.floats() | moments
names = some.text(some.characters(exclude_categories=("Cs",)), max_size=4) | some.sampled_from(
    ["a.b", '"', "name"]
)
values = some.recursive(
    scalars,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
records = some.dictionaries(names, values, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def columns() -> Columns:
    return _columns(SCHEMA)


def _columns(schema) -> Columns:
    sheet = Sheet(
        name="x",
        root="x",
        path="${{ name }}",
        schema=schema,
        config={},
        runs_code=False,
        is_bounded=True,
        is_plain=True,
    )
    return Columns(sheet, Fields.of(sheet, {}))


def _read(form, text, columns):
    return list(FORMS[form].read(_lines(text), columns))


@pytest.mark.parametrize("kind", KINDS)
@given(value=values)
def test_each_value_comes_back_from_its_cell(kind, value):
    assert repr(marked(of_cell(to_cell(value, kind), kind))) == repr(marked(value))


@pytest.mark.parametrize(
    ("value", "kind", "cell"),
    [
        ("2016", "text", "2016"),
        ("2016", "any", '"2016"'),
        (2016, "any", "2016"),
        (2016, "text", '{"$value":2016}'),
        ("", "text", '""'),
        (datetime(2026, 1, 31, 10, tzinfo=UTC), "date", "2026-01-31T10:00:00Z"),
        ("2026-01-31T10:00:00Z", "date", '{"$value":"2026-01-31T10:00:00Z"}'),
        (["a", "b"], "any", '["a","b"]'),
        (True, "boolean", "true"),
        (-5, "any", "-5"),
    ],
)
def test_people_read_what_a_cell_says(value, kind, cell):
    assert to_cell(value, kind) == cell


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3+A1", "'-2+3+A1"),
        ("\t=1", "'\t=1"),
        ("'=1", "''=1"),
        ("+49 (30) 12-34", "+49 (30) 12-34"),
        ("a=1", "a=1"),
    ],
)
@pytest.mark.parametrize("kind", ["text", "any"])
def test_a_formula_gets_an_apostrophe_and_a_telephone_number_does_not(text, cell, kind):
    assert to_cell(text, kind) == cell


@pytest.mark.parametrize("cell", ["TRUE", "True", "true"])
def test_a_boolean_may_be_written_by_a_spreadsheet(cell):
    assert of_cell(cell, "boolean") is True
    assert of_cell(cell, "text") == cell


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (("name",), "name"),
        (("address", "city"), "address.city"),
        (("links", "example.org"), 'links."example.org"'),
        (("a", ""), 'a.""'),
        (("Full name",), "Full name"),
        (("=1",), "'=1"),
    ],
)
def test_a_column_is_named_as_filters_name_its_field(field, name):
    assert (name_of(field), field_of(name)) == (name, field)


@given(some.lists(names, min_size=1, max_size=4).map(tuple))
def test_each_field_comes_back_from_its_column(field):
    assert field_of(name_of(field)) == field


@pytest.mark.parametrize("name", ["", ".a", "a.", "a..b", '"a', 'a"b"', 'a."b"c'])
def test_what_is_no_field_is_no_column(name):
    with pytest.raises(ValueError, match="is no field"):
        field_of(name)


@pytest.mark.parametrize("form", list(FORMS))
@given(given_records=some.lists(records, min_size=1, max_size=3))
def test_records_come_back_from_their_lines(form, given_records):
    columns = _columns(SCHEMA)
    text = "".join(FORMS[form].write(lambda: given_records, columns))
    found = [record for _, record in FORMS[form].read(_lines(text), columns)]

    assert [_sorted(each) for each in found] == [_sorted(each) for each in given_records]
    assert "".join(FORMS[form].write(lambda: given_records, columns)) == text


def _lines(text: str) -> io.StringIO:
    """
    Split as a file does that is opened with newline="".
    """
    return io.StringIO(text, newline="")


def _sorted(record) -> str:
    return json.dumps(marked(record), sort_keys=True)


def test_a_table_has_dotted_columns_and_the_declared_ones_come_first(columns):
    text = "".join(
        FORMS["csv"].write(lambda: [{"x": 1, "name": "A", "address": {"city": "Bonn", "zip": "1"}}], columns)
    )

    assert text == 'name,at,open,seats,address.city,x,address.zip\r\nA,,,,Bonn,1,"""1"""\r\n'


def test_a_line_is_known_by_its_number(columns):
    found = _read("csv", 'name,seats\r\n"A\nB",1\r\n\r\nC\r\nD,2\r\n', columns)

    assert found[0] == (2, {"name": "A\nB", "seats": 1})
    assert (found[1][0], str(found[1][1])) == (5, "The line has 1 cells, and the header 2.")
    assert found[2] == (6, {"name": "D", "seats": 2})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "The first line has no names"),
        ("a,,b\r\n", "The header is wrong"),
        ("a,a\r\n", "names the field 'a' twice"),
    ],
)
def test_a_header_that_names_no_fields_is_refused(columns, text, said):
    [(number, fault)] = _read("csv", text, columns)
    assert number == 1
    assert said in str(fault)


def test_what_is_no_record_is_told_and_the_rest_is_read(columns):
    csv = _read("csv", "address,address.city\r\nx,Bonn\r\n,Bonn\r\n", columns)
    assert isinstance(csv[0][1], LineError)
    assert csv[1] == (3, {"address": {"city": "Bonn"}})

    ndjson = _read("ndjson", '{"a":1}\n[1]\n\n{"a":NaN}\n{"a":2}', columns)
    assert [number for number, _ in ndjson] == [1, 2, 4, 5]
    assert [isinstance(each, LineError) for _, each in ndjson] == [False, True, True, False]


def test_a_quotation_mark_that_never_ends_is_told_once(columns):
    [(number, fault)] = _read("csv", 'name\r\n"A\r\nB\r\n', columns)
    assert number == 2
    assert "not CSV" in str(fault)
