"""
That a record's file says to Ferry what it says to gitsheets.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gitsheets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.app.errors import UnreadableRecordError
from ferry.app.records.codec import fields_of
from ferry.worker.git.objects import Objects
from tests.parts import Bare

# Whatever stands where a markdown record's fields begin and end, and what only looks like it.
PIECES = st.sampled_from(
    [
        "+++", "+++\n", "+++\n", "+++\n", "\n", "a = 1\n", 'b="é"\n', 'title="T"\n', "# T\n", " ", "\r",
        "\r\n", "\t", "\ufeff", "x", "\xa0", "\x1c", "\x0b", "\x85", "\u2028", "+", 'text="q"\n', "c='''\n",
        "'''\n", "[text]\n", "z = 0000-01-01\n", "z = 99999999999999999999\n",
    ]
)  # fmt: skip
FILES = st.lists(PIECES, max_size=10).map("".join).map(str.encode) | st.binary(max_size=20)


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    with tempfile.TemporaryDirectory() as directory:
        yield Bare.init(Path(directory) / "bare.git")


@pytest.mark.parametrize("extension", [".md", ".toml"])
def test_fields_are_those_that_gitsheets_reads(bare, extension):
    body = "text" if extension == ".md" else None

    @given(contents=st.lists(FILES, min_size=1, max_size=20))
    def check(contents: list[bytes]) -> None:
        listing = "".join(
            f"100644 blob {Objects(bare.path).write('blob', content)}\t{number}{extension}\n"
            for number, content in enumerate(contents)
        )
        tree = subprocess.run(
            ["git", "-C", str(bare.path), "mktree"], input=listing, capture_output=True, text=True, check=True
        ).stdout.strip()
        for number, content in enumerate(contents):
            path = str(number)
            try:
                [theirs] = gitsheets.record_query(
                    str(bare.path), tree, ".", path, {}, extension, body, "title"
                )
            except (gitsheets.GitsheetsError, ValueError, OverflowError):
                with pytest.raises(UnreadableRecordError):
                    fields_of(content, body)
            else:
                assert fields_of(content, body) == theirs["record"]

    check()
