"""
That Ferry keeps its promises for some random requests; `make model` asks for as long as one likes.
"""

from __future__ import annotations

import pytest

from tests.model.driver import Driver
from tests.model.promises import adopt, exact, merged, selected


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_answer_is_as_the_model_and_the_document_say(tmp_path, seed):
    driver = Driver(tmp_path, seed)
    driver.run(100)
    assert len(driver.counts) > 10


def test_a_seed_asks_the_same_again(tmp_path):
    first, second = (Driver(tmp_path / name, 4) for name in "ab")
    first.run(60)
    second.run(60)
    assert (first.counts, first.statuses) == (second.counts, second.statuses)


def test_the_model_itself_is_right_about_kinds_and_lists():
    """
    Some of what the reference says, so that a fault of the model is not looked for in Ferry.
    """
    assert exact(adopt(2, None, 1.5)) == "2.0"
    assert exact(adopt(2**53 + 1, None, 1.5)) == "9007199254740993"
    assert exact(adopt(2.0, {"type": "integer"}, None)) == "2"
    assert exact(adopt(1e20, None, 1)) == "1e+20"
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, None) == {"a": {"c": 2}}
    records = [("b", {"n": 2**53 + 1}), ("a", {"n": 2.0**53}), ("c", {})]
    assert [path for path, _ in selected(records, [("n", "gt", str(2**53))], "")] == ["b"]
    assert [path for path, _ in selected(records, [], "-n")] == ["b", "a", "c"]
