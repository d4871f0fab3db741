"""
What a JSON value becomes in the place of a TOML value, and what a query compares with it.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.app.finding.fields import Fields
from ferry.app.finding.query import query_of
from ferry.app.records.json_form import read_record, to_json
from ferry.app.records.toml_types import coerce, merge_patch, unstorable
from ferry.app.store.snapshot import Sheet
from ferry.app.store.table import Table

EDGE = 2**53
MOMENT = datetime(2026, 1, 31, 10, tzinfo=UTC)


def _read(text):
    return read_record(b'{"x": %s}' % text.encode())["x"]


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("2", 1.5, 2.0),
        ("2.0", 1, 2),
        ("1E2", 1, 100),
        ("1E2", None, 100.0),
        ("1e20", 1, 1e20),
        ("1e20", 1.5, 1e20),
        ("100000000000000000000", 1.5, 1e20),
        ("1.5", 1, 1.5),
        (str(EDGE), 1.5, float(EDGE)),
        (str(EDGE + 1), 1.5, EDGE + 1),
        (str(EDGE + 1), float(EDGE), EDGE + 1),
        (str(EDGE - 1), 1.5, float(EDGE - 1)),
        (f"{EDGE + 1}.0", 1, EDGE + 1),
        (f"{EDGE + 1}.0", 1.5, EDGE + 1),
        (f"{EDGE + 1}.0", None, EDGE + 1),
        (f"{EDGE}.0", 1, EDGE),
        ("1152921504606847000", 2.0**60, 2.0**60),  # as JavaScript writes 2**60
        ("1152921504606847000.0", 1, 1152921504606847000),
        (str(2**63 - 1), 1.5, 2**63 - 1),
        (str(2**63 - 1), 1, 2**63 - 1),
        ("9.3e18", 1, 9.3e18),
        ("-0.0", 0, -0.0),
        ("-0.0", 1.5, -0.0),
        ("0", -0.0, -0.0),
        ("0", 1.5, 0.0),
        ("true", 1, True),
        ("1", True, 1),
        ('"nan"', 1.5, math.nan),
        ('"-inf"', 1.5, -math.inf),
        ('"nan"', 1, "nan"),
        ('"nan"', "x", "nan"),
        ('"nan"', None, "nan"),
    ],
)
def test_a_number_takes_the_kind_of_what_it_replaces_where_that_loses_nothing(text, before, after):
    found = coerce(_read(text), None, before)
    assert (type(found), repr(found)) == (type(after), repr(after))
    assert unstorable(found) == []


@pytest.mark.parametrize("text", [str(2**63), str(-(2**63) - 1), str(10**23 + 1)])
@pytest.mark.parametrize("before", [None, 1])
def test_a_number_that_toml_cannot_hold_is_refused(text, before):
    assert unstorable({"x": coerce(_read(text), None, before)})[0]["field"] == "x"


@given(
    st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([EDGE, EDGE + 1, float(EDGE), -0.0, 1e20, 2.0**63, 1e22, 1e23, math.nan, math.inf])
)
def test_a_value_that_is_read_and_sent_back_is_the_same(value):
    sent = json.dumps({"x": to_json(value)}).encode()
    found = coerce(read_record(sent)["x"], None, value)
    assert (type(found), repr(found)) == (type(value), repr(value))


@pytest.mark.parametrize("schema", [None, {"format": "date-time"}, {"type": "string", "format": "date-time"}])
@pytest.mark.parametrize("text", ["2026-01-31T10:00:00Z", "2026-01-31T10:00:00.123456Z", "2026-01-31", "x"])
def test_a_string_stays_the_string_that_it_is(schema, text):
    for before in (None, "y", 1, ["z"]):
        assert coerce(text, schema, before) == text


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T10:00:00Z", MOMENT),
        ("2026-01-31t10:00:00z", MOMENT),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))),
        ("2026-01-31T10:00:00.120000Z", MOMENT.replace(microsecond=120_000)),
    ],
)
def test_a_date_time_is_written_in_the_place_of_one_and_where_the_client_says_so(text, moment):
    assert coerce(text, None, MOMENT) == moment
    assert coerce({"$date": text}) == moment
    assert coerce({"x": [{"$date": text}]}, None, {"x": ["a"]}) == {"x": [moment]}
    assert merge_patch({"x": "a"}, {"x": {"$date": text}}) == {"x": moment}


@pytest.mark.parametrize(
    "given_", ["2026-02-30T10:00:00Z", "2026-01-31T10:00:00.1234Z", "2026-01-31T10:00:60Z"]
)
def test_a_date_time_that_cannot_be_kept_is_refused_and_named(given_):
    for wish, before in (({"a": [given_]}, {"a": [MOMENT]}), ({"a": [{"$date": given_}]}, {})):
        assert [error["field"] for error in unstorable(coerce(wish, None, before))] == ["a.0"]


@pytest.mark.parametrize("said", ["x", "2026-01-31", "10:00:00", "2026-01-31T10:00:00", 7, None, {}])
def test_what_says_it_is_a_date_and_is_none_is_refused(said):
    assert unstorable(coerce({"a": {"$date": said}}))[0]["field"] == "a"


def test_a_table_that_looks_like_a_date_stays_the_table_that_it_is():
    before = {"x": {"$date": "2026-01-31T10:00:00Z"}}
    assert coerce(before, None, before) == before
    assert merge_patch(before, {"x": {"$date": "b"}}) == {"x": {"$date": "b"}}
    assert coerce({"x": {"$date": "b", "y": 1}}) == {"x": {"$date": "b", "y": 1}}


# --- Queries ---


def _sheet(schema=None):
    return Sheet(
        name="s", root="s", path="${{ x }}", schema=schema, config={}, runs_code=False, is_bounded=True,
        is_plain=True,
    )  # fmt: skip


def _finds(query, value):
    name, _, text = query.partition("=")
    return bool(query_of([(name, [text])], Fields.of(_sheet(), {})).select(Table([("p", {"x": value})])))


@pytest.mark.parametrize(
    ("query", "found", "not_found"),
    [
        (f"x[gt]={EDGE + 1}", [EDGE + 2, 1e20, math.inf], [EDGE + 1, float(EDGE), math.nan, "9", True]),
        (f"x[gte]={EDGE + 1}", [EDGE + 1], [EDGE, float(EDGE)]),
        (f"x[lt]={EDGE + 1}", [EDGE, float(EDGE), -math.inf], [EDGE + 1, math.nan]),
        (f"x[in]={EDGE + 1},5", [EDGE + 1, 5, 5.0], [EDGE, float(EDGE)]),
        (f"x={2**63 - 1}", [2**63 - 1], [2.0**63]),
        ("x[gt]=9223372036854775807", [2.0**63], [2**63 - 1]),
        ("x[lt]=9223372036854775808", [2**63 - 1], [2.0**63]),
        ("x[gt]=0.1", [0.2], [0.1]),
        ("x[lte]=0.1", [0.1], [0.10000000000000002]),
        ("x=2", [2, 2.0, "2", [1, 2.0]], [True, "2.0"]),
        ("x=2.0", [2, 2.0, "2.0"], ["2"]),
        ("x=0", [0, -0.0, 0.0], [False, ""]),
        ("x[ne]=2", [3, "2.0", None], [2, 2.0]),
        ("x=1e20", [1e20, 10**20, "1e20"], [10**20 + 1]),
        ("x[gte]=100000000000000000000", [1e20], []),
        ("x[gt]=-0.0", [5e-324], [0, 0.0, -0.0]),
        ("x=nan", [math.nan, "nan"], [0.0]),
        ("x=inf", [math.inf], [-math.inf, 1e308]),
        ("x[gt]=1e308", [math.inf, 1.7e308], [1e308, math.nan]),
        ("x[lt]=1e99999", [1e308, 2**63 - 1], [math.nan]),
        ("x=true", [True], [1, 1.0]),
        ("x=1_000", ["1_000"], [1000]),
    ],
)
def test_numbers_are_compared_to_the_last_digit(query, found, not_found):
    assert [value for value in found if not _finds(query, value)] == []
    assert [value for value in not_found if _finds(query, value)] == []
