"""
What a commit changed in a record, as a JSON patch.
"""

from __future__ import annotations

import pytest

from ferry.app.store.changes import Difference


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (0.0, -0.0),
        (-0.0, 0),
        (1, 1.0),
        (True, 1),
        ([1], [1.0]),
        ([{"a": 0.0}], [{"a": -0.0}]),
        (1e16, 10**16),
        ("1.0", 1.0),
        (0.1, 0.10000000000000002),
        (2.5, "2.5"),
    ],
)
def test_a_value_that_differs_in_the_file_differs_in_the_patch(before, after):
    told = Difference(before={"x": before, "y": 1.5}, after={"x": after, "y": 1.5}, fault="").as_json()
    (operation,) = told["patch"]
    where = {"/x": lambda: after, "/x/0": lambda: after[0], "/x/0/a": lambda: after[0]["a"]}
    assert operation["op"] == "replace"
    assert repr(operation["value"]) == repr(where[operation["path"]]())
