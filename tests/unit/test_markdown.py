"""
That a markdown record is split as gitsheets splits it.
"""

from __future__ import annotations

import gitsheets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferry.worker.git.objects import Objects
from ferry.worker.records import markdown
from tests.parts import Bare

PIECES = st.sampled_from(["+++", "\n", "a=1", "\n\n", "b", "+++ \n", "# T", "\r\n", "\ufeff", " ", "text=2"])


@pytest.fixture(scope="module")
def git_dir(tmp_path_factory):
    return str(Bare.init(tmp_path_factory.mktemp("markdown") / "r.git").path)


@settings(max_examples=100)
@given(st.lists(PIECES, max_size=9).map("".join))
def test_a_file_is_read_as_gitsheets_reads_it(git_dir, text):
    blob = Objects(git_dir).write("blob", text.encode())
    tree = Objects(git_dir).write("tree", b"100644 r.md\0" + bytes.fromhex(blob))
    try:
        [row] = gitsheets.record_query(git_dir, tree, ".", "${{ x }}", {}, ".md", "text", "title")
    except gitsheets.ConfigError:
        with pytest.raises(gitsheets.ConfigError):
            markdown.parse(text, "text")
    else:
        assert list(markdown.parse(text, "text").items()) == list(row["record"].items())


@pytest.mark.parametrize(
    ("body", "title", "after"),
    [
        ("# Old\n\nx", "New", "# New\n\nx"),
        ("a\n# Old  \n# Second", r"\1 $1", "a\n# \\1 $1\n# Second"),
        ("no heading", "New", "# New\n\nno heading"),
        ("## Second level", "New", "# New\n\n## Second level"),
        ("", "New", "# New\n"),
    ],
)
def test_a_heading_is_put_in_the_place_of_the_first(body, title, after):
    assert markdown.with_heading(body, title) == after
    assert markdown.heading(after) == title
