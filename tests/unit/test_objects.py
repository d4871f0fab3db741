"""
That what stands in a commit is found where git says it does.
"""

from __future__ import annotations

import subprocess

import gitsheets
import pytest

from app.objects import Entry, _entry, find
from tests.parts import Bare

HASH = bytes(range(20))


def test_every_entry_is_found_where_git_has_it(data: Bare):
    head = data.head()
    listed = data.git("ls-tree", "-r", "-t", "main").splitlines()

    for line in listed:
        _, kind, name, path = line.split(maxsplit=3)
        assert find(str(data.path), head, path) == Entry(kind, name)
    assert len(listed) > 50


@pytest.mark.parametrize(
    "path", ["none", "people/none.toml", "people/none/below", "people.toml", "peopl", "eople"]
)
def test_what_is_not_there_is_none(data: Bare, path: str):
    assert find(str(data.path), data.head(), path) is None


def test_nothing_stands_below_a_file(data: Bare):
    some_file = data.git("ls-tree", "-r", "--name-only", "main").splitlines()[0]
    assert find(str(data.path), data.head(), f"{some_file}/below") is None


def test_a_symbolic_link_and_a_submodule_are_nothing(data: Bare):
    tree = subprocess.run(
        ["git", "-C", str(data.path), "mktree", "--missing"],
        input=f"120000 blob {'1' * 40}\tlink\n160000 commit {'2' * 40}\tmodule\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    commit = data.git("commit-tree", tree, "-m", "odd things")

    assert find(str(data.path), commit, "link") is None
    assert find(str(data.path), commit, "module") is None


def test_a_look_alike_inside_an_object_name_is_not_taken_for_a_line():
    deceptive = b"xxxxxx100644 a\0xxxxx"
    assert len(deceptive) == 20
    tree = b"100644 0\0" + deceptive + b"100644 a\0" + HASH

    assert _entry(tree, b"a", 20) == Entry("blob", HASH.hex())
    assert _entry(b"100644 0\0" + deceptive, b"a", 20) is None


def test_object_names_of_either_length():
    tree = b"40000 a\0" + HASH + HASH[:12] + b"100644 b\0" + HASH[::-1] + HASH[:12]
    assert _entry(tree, b"b", 32) == Entry("blob", (HASH[::-1] + HASH[:12]).hex())


def test_a_missing_object_is_an_error_and_not_an_empty_tree(data: Bare):
    tree = data.git("rev-parse", "main^{tree}")
    (data.path / "objects" / tree[:2] / tree[2:]).unlink()

    with pytest.raises(gitsheets.GitsheetsError, match=tree):
        find(str(data.path), data.head(), "people")
