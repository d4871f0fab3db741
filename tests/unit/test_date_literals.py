"""
That a date which no one changed stays in the file as it was written.
"""

from __future__ import annotations

import gitsheets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.worker.records.date_literals import keep_dates

DATES = [
    "2026-01-31",
    "07:32:00",
    "07:32:00.123456789",
    "2026-01-31T10:00:00",
    "2026-01-31 10:00:00.5",
    "2026-01-31T10:00:00.123456+02:00",
    "2026-01-31t10:00:00z",
    "2026-01-31T10:00:00.000Z",
    "0001-01-01",
]


def _changed(text, **fields):
    [record] = gitsheets.parse_records([text])
    [after] = gitsheets.serialize_records([{**record, **fields}])
    return keep_dates(text, after)


@pytest.mark.parametrize("date", DATES)
@pytest.mark.parametrize(
    "before",
    [
        "a = {}\n",
        "a = [{}, {}]\n",
        "a = [[\n  {}, # 2026-01-01\n], []]\n",
        "a = {{ b = {} }}\n",
        "[a.b]\nc = {} # 2026-01-01\n",
        "[[a]]\nb = {}\n[[a]]\nb = 2020-02-02\n",
        "2026-01-01 = {}\n[2020-02-02.x]\n2026-01-01.y = {}\n",
        "a.2026-01-01.b = {}\n",
        's = "2026-01-01" # 07:00:00\nt = """2026-01-01"\n"""\nu = \'\'\'07:00:00\'\'\'\na = {}\n',
        "\ufeffa = {}\r\nb = 1\r\n",
    ],
)
def test_a_date_that_did_not_change_stays_as_it_is_written(before, date):
    text = before.replace("{{", "\0").replace("}}", "\1").replace("{}", date).replace("\0", "{")
    text = text.replace("\1", "}")
    after = _changed(text, z=1)
    assert after.count(date) == text.count(date)
    [old], [new] = gitsheets.parse_records([text.removeprefix("\ufeff")]), gitsheets.parse_records([after])
    assert new == {**old, "z": 1}


@pytest.mark.parametrize(
    ("before", "moment", "after"),
    [
        ("2026-01-31", "2030-02-01T00:00:00Z", "2030-02-01"),
        ("2026-01-31", "2030-02-01T00:00:01Z", "2030-02-01T00:00:01Z"),
        ("07:32:00", "1970-01-01T08:00:00Z", "08:00:00"),
        ("07:32:00", "2030-02-01T08:00:00Z", "2030-02-01T08:00:00Z"),
        ("2026-01-31T10:00:00", "2030-02-01T00:00:00Z", "2030-02-01T00:00:00"),
        ("2026-01-31T10:00:00+02:00", "2030-02-01T00:00:00Z", "2030-02-01T00:00:00Z"),
        ("2026-01-31T10:00:00.123456Z", "2026-01-31T10:00:00.123Z", "2026-01-31T10:00:00.123456Z"),
    ],
)
def test_a_date_that_changes_stays_of_its_kind(before, moment, after):
    [record] = gitsheets.parse_records([f"a = {moment}\n"])
    assert _changed(f"a = {before}\n", a=record["a"]) == f"a = {after}\n"
    assert _changed(f"a = [{before}, {before}]\n", a=[record["a"]]) == f"a = [{after}]\n"


def test_items_of_a_list_keep_their_dates_where_others_come_and_go():
    text = "[[a]]\nd = 07:00:00\n\n[[a]]\nd = 2026-01-31\n"
    [record] = gitsheets.parse_records([text])
    assert _changed(text, a=record["a"][1:]) == "[[a]]\nd = 2026-01-31\n"
    assert _changed(text, a=[{"x": 1}, *record["a"]]) == f"[[a]]\nx = 1\n\n{text}"


@pytest.mark.parametrize("before", ["a = 0000-01-01\n", "a = \n", "2026-01-31", "a = 24:00:00", "\0"])
def test_what_stood_there_unreadable_is_replaced(before):
    assert keep_dates(before, "b = 2026-01-31T00:00:00Z\n") == "b = 2026-01-31T00:00:00Z\n"


def test_a_table_that_is_called_like_a_date_keeps_its_dates():
    text = "[[2026-01-31]]\n\n[2026-01-31.a]\n\n[[2026-01-31]]\n\n[2026-01-31.a]\nd = 2026-01-31\n"
    [record] = gitsheets.parse_records([text])
    [rendered] = gitsheets.serialize_records([record])
    assert rendered != text
    assert keep_dates(text, rendered) == text


@given(
    st.dictionaries(
        st.sampled_from(["a", "b c", "2026-01-31", ""]),
        st.recursive(
            st.sampled_from(DATES[:-1]).map(lambda date: (date,)) | st.text("2026-01T:#'\"\\\n", max_size=12),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["a", "07:32:00", "c.d"]), inner, max_size=2)
            ),
        ),
    )
)
def test_whatever_a_record_holds_it_means_the_same_and_changes_nothing(wish):
    dates = []

    def marked(value):
        if isinstance(value, tuple):
            dates.append(value[0])
            return f"\x7f{len(dates) - 1}"
        if isinstance(value, dict):
            return {name: marked(item) for name, item in value.items()}
        return [marked(item) for item in value] if isinstance(value, list) else value

    [text] = gitsheets.serialize_records([marked(wish)])
    for number, date in reversed(list(enumerate(dates))):
        for mark in (f'"\\u007F{number}"', f'"\x7f{number}"', f"'\x7f{number}'"):
            text = text.replace(mark, date)
    [record] = gitsheets.parse_records([text])
    [rendered] = gitsheets.serialize_records([record])
    assert keep_dates(text, rendered) == text
