"""
Many objects are read at once, some at a time, whatever is missing, damaged or too large among them.
"""

from __future__ import annotations

import os
import random
from itertools import chain
from pathlib import Path

import pytest

from ferry.worker.git import inventory
from ferry.worker.git.command import Git
from ferry.worker.git.objects import Objects, name_of
from tests.parts import Bare

MOST = 1 << 20
_MISSING = "1" * 40


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return Bare.init(tmp_path / "data.git")


def _written(bare: Bare, *contents: bytes) -> dict[str, bytes]:
    objects = Objects(bare.path)
    return {objects.write("blob", content): content for content in contents}


def _read(bare: Bare, *names: str) -> dict[str, bytes]:
    return dict(chain.from_iterable(map(dict.items, inventory.read(Git(bare.path), names, most=MOST))))


def test_contents_come_whole_and_in_order(bare):
    stored = _written(
        bare,
        b"",
        b"\n",
        b"a line\nand 12\n",
        b"7\n",
        b"\0" * 70_000,
        *(b"%d\n" % n * 100 for n in range(500)),
    )

    found = _read(bare, *stored)

    assert list(found.items()) == list(stored.items())
    assert inventory.contents(Git(bare.path), list(stored)) == stored


def test_contents_that_look_like_answers_are_contents(bare):
    chance = random.Random(8)  # noqa: S311 - the same at each run
    pieces = [inventory._MARK, b"\n", b"0", b"1", b"7", b"a", f"{_MISSING} missing\n".encode()]
    stored = _written(bare, *(b"".join(chance.choices(pieces, k=chance.randrange(12))) for _ in range(400)))
    names = [*stored, _MISSING, *stored, _MISSING]

    for size in (1, 2, 3, 5, 50, len(names)):
        asked = names[-size:]
        assert _read(bare, *asked) == {name: stored[name] for name in asked if name in stored}


def test_a_part_is_there_before_git_has_read_the_rest(bare):
    stored = _written(bare, *(os.urandom(100_000) for _ in range(30)))

    sizes = [sum(map(len, part.values())) for part in inventory.read(Git(bare.path), list(stored), most=MOST)]

    assert sum(sizes) == 3_000_000
    assert max(sizes) < 300_000


@pytest.mark.parametrize("size", [MOST + 1, 3 * MOST], ids=["by a byte", "by far"])
def test_an_object_that_is_too_large_is_left_out(bare, size):
    first, large, last = _written(bare, b"first\n", b"x" * size, b"last\n")
    limit = _written(bare, b"y" * MOST)

    assert list(_read(bare, first, large, *limit, last)) == [first, *limit, last]


def test_a_small_bound_leaves_out_what_git_has_answered_already(bare):
    stored = _written(bare, *(b"x" * size for size in range(100)))

    found = dict(chain.from_iterable(map(dict.items, inventory.read(Git(bare.path), list(stored), most=50))))

    assert list(found) == list(stored)[:51]


def test_what_is_missing_is_left_out(bare):
    one, two = _written(bare, b"one\n", b"two\n")

    assert _read(bare, _MISSING, one, _MISSING[:-1] + "2", two, _MISSING) == {one: b"one\n", two: b"two\n"}
    assert _read(bare, _MISSING) == _read(bare) == {}


def test_what_comes_after_a_damaged_object_is_read(bare):
    """
    git ends there.
    """
    stored = _written(bare, *(b"%d\n" % number for number in range(9)))
    names = list(stored)
    for name in (names[0], names[4], names[5], names[8]):
        path = bare.path / "objects" / name[:2] / name[2:]
        path.chmod(0o644)
        path.write_bytes(b"" if name == names[4] else os.urandom(20))

    assert list(_read(bare, *names)) == [names[number] for number in (1, 2, 3, 6, 7)]


def test_a_damaged_index_is_mended_and_all_is_read(bare):
    stored = _written(bare, *(b"%d\n" % number for number in range(50)))
    pack = str(bare.path / "objects/pack/pack")
    bare.feed("pack-objects", "-q", pack, content="".join(f"{name}\n" for name in stored).encode())
    bare.git("prune-packed")
    bare.git("multi-pack-index", "write")
    index = bare.path / "objects/pack/multi-pack-index"
    index.chmod(0o644)
    index.write_bytes(bytes(len(index.read_bytes())))

    assert _read(bare, *stored) == stored


def test_a_reader_who_stops_ends_git(bare):
    stored = _written(bare, *(os.urandom(100_000) for _ in range(30)))
    parts = inventory.read(Git(bare.path), list(stored), most=MOST)
    next(parts)
    before = _children()

    parts.close()

    assert _children() == before - 1


def _children() -> int:
    return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_names_of_what_was_never_written_are_no_objects(bare):
    assert _read(bare, name_of("blob", b"never\n")) == {}
