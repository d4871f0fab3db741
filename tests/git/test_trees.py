"""
Trees of two sides that changed different files: what gitsheets makes of them, without it.
"""

from __future__ import annotations

import random

import gitsheets
import pytest

from ferry.worker.git.objects import Objects
from ferry.worker.git.trees import side_by_side
from tests.parts import Bare

PATHS = [f"people/{place}{name}" for place in ("", "hill/", "hill/top/", "lake/") for name in ("a", "b", "c")]
FILES = [f"{path}{end}" for path in PATHS for end in (".toml", "/note.txt", "/photo.bin")] + ["README.md"]


def _text(path: str, word: str) -> str:
    if not path.endswith(".toml"):
        return f"{word}\n"
    return f'name = "{word}"\nslug = "{path.removeprefix("people/").removesuffix(".toml")}"\n'


def _commit(data: Bare, parent: str, files: dict[str, str | None]) -> str:
    data.git("update-ref", "refs/heads/main", parent)
    data.edit(files)
    return data.head()


def _trees(data: Bare, *commits: str) -> list[str]:
    return [data.git("rev-parse", f"{commit}^{{tree}}").strip() for commit in commits]


@pytest.mark.parametrize("seed", range(12))
def test_files_that_one_side_changed_are_taken_as_gitsheets_takes_them(data: Bare, seed: int):
    chance = random.Random(seed)  # noqa: S311 - the same at each run
    there = chance.sample(FILES, 20)
    base = _commit(data, data.head(), {path: _text(path, "base") for path in there})
    touched = chance.sample(FILES, 12)

    def edits(paths: list[str], word: str) -> dict[str, str | None]:
        return {
            path: None if path in there and chance.random() < 0.5 else _text(path, word) for path in paths
        }

    ours = _commit(data, base, edits(touched[:6], "ours"))
    theirs = _commit(data, base, edits(touched[6:], "theirs"))
    found = side_by_side(Objects(data.path), *_trees(data, base, ours, theirs))

    merged = gitsheets.merge_sheets(str(data.path), ours, theirs, 1_780_000_000, commit=False)
    assert not merged["conflicts"]
    assert found in (merged["tree"], None)
    if found is None:  # a whole directory went on one side, and got a file on the other
        return
    data.git("fsck", "--strict")


def test_most_such_merges_need_no_gitsheets(data: Bare):
    base = _commit(data, data.head(), {"people/hill/a.toml": _text("people/hill/a.toml", "base")})
    ours = _commit(data, base, {"people/b.toml": _text("people/b.toml", "ours"), "people/hill/a.toml": None})
    theirs = _commit(data, base, {"people/c.toml": _text("people/c.toml", "theirs"), "README.md": "hi\n"})
    found = side_by_side(Objects(data.path), *_trees(data, base, ours, theirs))

    assert found
    listed = data.git("ls-tree", "-r", "--name-only", found).split()
    assert {"people/b.toml", "people/c.toml", "README.md"} <= set(listed)
    assert not [path for path in listed if path.startswith("people/hill")]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"people/a.toml": "x = 1\n"}, {"people/a.toml": "y = 1\n"}),  # the same file
        ({"people/a.toml": None}, {"people/a.toml": "y = 1\n"}),  # removed and changed
        ({"people/d": "a file\n"}, {"people/d/e.toml": "a = 1\n"}),  # a file and a directory
        ({".gitsheets/people.toml": "[gitsheet]\n"}, {"people/b.toml": "b = 1\n"}),  # how records are read
        ({"people/b.toml": "b = 1\n"}, {".gitsheets/more.toml": "[gitsheet]\n"}),
    ],
)
def test_all_else_is_left_to_gitsheets(
    data: Bare, ours: dict[str, str | None], theirs: dict[str, str | None]
):
    base = _commit(data, data.head(), {"people/a.toml": "z = 1\n"})
    sides = _commit(data, base, ours), _commit(data, base, theirs)

    assert side_by_side(Objects(data.path), *_trees(data, base, *sides)) is None


def test_the_same_change_on_both_sides_is_one_change(data: Bare):
    base = data.head()
    both = {"people/same.toml": _text("people/same.toml", "both")}
    ours = _commit(data, base, both)
    theirs = _commit(data, base, {**both, "people/other.toml": _text("people/other.toml", "theirs")})

    assert side_by_side(Objects(data.path), *_trees(data, base, ours, theirs)) == _trees(data, theirs)[0]
