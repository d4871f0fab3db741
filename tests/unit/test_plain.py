"""
That records which are read by way of JSON are those that gitsheets reads.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime

import gitsheets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.app.records.plain import read_plain

NAMES = st.one_of(
    st.sampled_from(["a", "b", "B", "-", "_", "0", "name", "a-b"]), st.text("ab-_0Z", min_size=1)
)
TEXTS = st.one_of(
    st.text(st.sampled_from(list("ab =\n\t\"\\{},:[]#'é\u2028\ue000\U0001f600")), max_size=8),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
SCALARS = st.one_of(
    TEXTS,
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-(10**6), 10**6, places=3).map(float),
    st.datetimes(timezones=st.just(UTC)).map(
        lambda at: at.replace(microsecond=at.microsecond // 500000 * 500000)
    ),
)
RECORDS = st.dictionaries(NAMES, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=5)
# What somebody may write by hand.
PIECES = st.sampled_from([
    "a", "b", " = ", "=", "\n", "1", "-", "0", ".", "e5", "_", '"', "'", "\\", "\\u00e9", "\\n", "true", "[",
    "]", ", ", "#", "2026-01-31", "2026-02-30T10:00:00Z", "2024-02-29T23:59:60Z", "2024-02-29T24:00:00Z",
    "\r\n", " ", "{", "}", "\ufeff", "\0", "é",
])  # fmt: skip


def _same(one, other) -> bool:
    return repr(one) == repr(other)  # types, order and signs of zero too


@given(st.lists(RECORDS, min_size=1, max_size=5))
def test_what_gitsheets_writes_is_read_as_gitsheets_reads_it(records):
    texts = gitsheets.serialize_records(records)
    for text, read in zip(texts, read_plain([text.encode() for text in texts]), strict=True):
        assert read is None or _same(read, gitsheets.parse_records([text])[0])


@given(st.lists(st.lists(PIECES, max_size=12).map("".join), min_size=1, max_size=4))
def test_what_is_written_by_hand_is_read_as_gitsheets_reads_it_or_left_to_it(texts):
    for text, read in zip(texts, read_plain([text.encode() for text in texts]), strict=True):
        if read is not None:
            assert _same(read, gitsheets.parse_records([text])[0])
            assert read == tomllib.loads(text)


@pytest.mark.parametrize(
    "record",
    [
        {"age": 42, "name": "Person 42", "open": True, "price": -2.5, "slug": "p42"},
        {"at": datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC), "price": 1.5},
        {"name": "Łódź, a=b? \t", "nothing": [], "skills": ["a", "b"], "years": [1, 2]},
    ],
)
def test_a_record_of_texts_numbers_and_lists_is_plain(record):
    [text] = gitsheets.serialize_records([record])
    assert read_plain([text.encode()] * 3) == [record] * 3


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"a = 1",
        b"a = 1\na = 2\n",  # gitsheets names the fault
        b"b = 1\na = 2\n",  # which gitsheets sorts
        b"a = 9999999999999999999\n",
        b'a = "\xff"\n',
        b'a = "x = y"\n',
        b'a = "\\ud83d"\n',
        b"a = 1979-05-27\n",
        b"a = 2026-02-30T10:00:00Z\n",
        b"[a]\nb = 1\n",
        b"a = 1\n\0",
        b"a = 1\n\0b = 2\n",
        b'"a" = 1\n',
        b"a = 1 # b\n",
    ],
)
def test_any_other_is_left_to_gitsheets(text):
    """
    And does not keep those beside it from being read.
    """
    assert read_plain([text]) == [None]
    assert read_plain([b"a = 1\n", text, b"a = 2\n"])[1] is None
