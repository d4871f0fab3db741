"""
Lists sorted by fields of their items are in the order that gitsheets gives them.
"""

from __future__ import annotations

from datetime import UTC, datetime

import gitsheets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferry.app.sheets.sorting import in_order
from tests.parts import Bare

VALUES = st.one_of(
    st.sampled_from(["a", "b", "B", "é", "\uffee", "\U0001f600", "", "10", "9"]),
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, 0.5, -0.0, 0, float("nan")]),
    st.booleans(),
    st.integers(0, 3).map(lambda day: datetime(2026, 1, 1 + day, tzinfo=UTC)),
    st.just([]),
)
ALIKE = st.sampled_from([st.text("aBé\uffee\U0001f600", max_size=2), st.integers(-3, 3), st.floats(-2, 2)])
ITEMS = st.lists(st.fixed_dictionaries({}, optional={"z": VALUES, "a": VALUES}), max_size=5) | ALIKE.flatmap(
    lambda values: st.lists(
        st.fixed_dictionaries({"z": values, "a": values, "n": st.integers(0, 99)}), max_size=8
    )
)
WORDS = st.lists(st.text("abzAB -", max_size=4), max_size=6) | st.lists(
    st.text("aé1-_ ", max_size=3), max_size=4
)
SORTS = [True, False, ["z"], ["z", "a"], {"z": "DESC"}, {"z": "ASC", "a": "DESC"}, ["length"], []]


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    data = Bare.init(tmp_path_factory.mktemp("sorted") / "data.git")
    core = gitsheets.CoreTransaction.begin(str(data.path), "never finished", 0, 0)
    for number, sort in enumerate(SORTS):
        declared = {"gitsheet": {"path": "x", "fields": {"list": {"sort": sort}}}}
        core.write_file(f".gitsheets/{number}.toml", gitsheets.serialize_records([declared])[0])
        core.open_sheet(str(number), f".gitsheets/{number}.toml", ".", "")
    yield core
    core.discard()


@settings(max_examples=100)
@given(number=st.integers(0, len(SORTS) - 1), items=ITEMS | WORDS)
def test_a_list_is_in_the_order_that_gitsheets_gives_it(core, number, items):
    """
    What is sorted here, gitsheets leaves as it is; what is not plain is left to gitsheets.
    """
    try:
        theirs = core.prepare_upsert(str(number), {"list": items})["next_text"]
    except gitsheets.ConfigError:
        return  # a value that JavaScript cannot compare
    ours, is_whole = in_order({"list": items}, {"list": SORTS[number]})
    assert core.prepare_upsert(str(number), ours)["next_text"] == theirs
    if is_whole:
        assert gitsheets.serialize_records([ours]) == [theirs]


def test_a_plain_list_is_sorted_here():
    items = [{"z": number} for number in (3, 1, 2)]
    assert in_order({"list": items}, {"list": ["z"]}) == ({"list": [{"z": 1}, {"z": 2}, {"z": 3}]}, True)
    words = ["co op", "Zoo", "coop", "ant"]
    assert in_order({"list": words}, {"list": True}) == ({"list": ["ant", "co op", "coop", "Zoo"]}, True)
    assert in_order({"list": ["é", "a"]}, {"list": True}) == ({"list": ["é", "a"]}, False)
