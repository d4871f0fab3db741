"""
Objects are read no further than they say they go, and large ones piece by piece.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import gitsheets
import pytest

from ferry.worker.errors import RepositoryError
from ferry.worker.git import blobs
from ferry.worker.git.loose import ObjectTooLargeError, read_loose, survey
from ferry.worker.git.objects import Objects
from ferry.worker.git.repository import Repository
from tests.parts import Bare

CONTENT = bytes(range(256)) * 40_000  # ten MiB
LARGE = 32 << 20


def _loose(bare: Bare, content: bytes) -> None:
    """
    Leave them as they were written, each in a file of its own.
    """


def _packed(bare: Bare, content: bytes) -> None:
    bare.git("-c", "core.bigFileThreshold=1m", "repack", "-a", "-d", "-q")


def _differing(bare: Bare, content: bytes) -> None:
    """
    Pack it beside one that it hardly differs from.
    """
    for other in (content + b"!", b"?" + content):
        Objects(bare.path).write("blob", other)
    names = "\n".join(
        hashlib.sha1(b"blob %d\0%s" % (len(each), each), usedforsecurity=False).hexdigest()
        for each in (content, content + b"!", b"?" + content)
    )
    pack = str(bare.path / "objects/pack/pack")
    bare.feed("-c", "core.bigFileThreshold=1g", "pack-objects", "-q", pack, content=names.encode())
    bare.git("prune-packed")


def _damaged(bare):
    return {path: why for _, found in survey(str(bare.path), most=100) for path, why in found.items()}


@pytest.mark.parametrize("stored", [_loose, _packed, _differing])
def test_a_part_of_a_blob_is_what_git_has_there(
    tmp_path: Path, stored: Callable[[Bare, bytes], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(blobs, "_SKIPPED_BYTES", 1 << 20)
    bare = Bare.init(tmp_path / "bare.git")
    name = Objects(bare.path).write("blob", CONTENT)
    small = Objects(bare.path).write("blob", b"small")
    bare.feed(
        "update-ref", "--stdin", content=f"create refs/tags/a {name}\ncreate refs/tags/b {small}\n".encode()
    )
    stored(bare, CONTENT)

    found = blobs.find(str(bare.path), name)

    assert found.size == len(CONTENT)
    assert blobs.find(str(bare.path), small).size == len(b"small")
    ends = [(0, len(CONTENT)), (0, 1), (5_000_001, 5_000_003), (len(CONTENT) - 3, len(CONTENT)), (9, 9)]
    for start, end in ends:
        pieces = list(found.pieces(start, end))
        assert b"".join(pieces) == CONTENT[start:end]
    if not found.is_whole:
        assert next(found.pieces(5_000_001, 5_000_003)) == b"", "a turn ends on the way there"
        assert max(map(len, found.pieces(0, len(CONTENT)))) <= 1 << 20


def test_a_blob_that_a_pack_has_as_a_difference_is_read_whole(tmp_path: Path):
    bare = Bare.init(tmp_path / "bare.git")
    name = Objects(bare.path).write("blob", CONTENT)
    _differing(bare, CONTENT)
    kinds = [blobs.find(str(bare.path), each).is_whole for each in bare.git(
        "cat-file", "--batch-all-objects", "--batch-check=%(objectname)").split()]  # fmt: skip
    assert sorted(kinds) == [False, True, True]
    assert Objects(bare.path).read(name) == CONTENT


@pytest.mark.parametrize("name", ["1" * 40, "0" * 40, "f" * 40])
def test_a_blob_that_is_not_there_is_missing(data: Bare, name: str):
    data.git("repack", "-a", "-d", "-q")
    with pytest.raises(gitsheets.GitsheetsError, match=r"missing|not"):
        blobs.find(str(data.path), name)


def test_what_is_no_blob_is_none(data: Bare):
    with pytest.raises(gitsheets.GitsheetsError):
        blobs.find(str(data.path), data.head() or "")


def test_every_object_of_a_packed_repository_is_found_by_its_index(data: Bare):
    data.git("repack", "-a", "-d", "-q")
    listed = data.git("cat-file", "--batch-all-objects", "--batch-check").splitlines()
    for name, kind, size in map(str.split, listed):
        if kind == "blob":
            assert blobs.find(str(data.path), name).size == int(size)


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_large_blob_takes_little_memory(tmp_path: Path, is_packed: bool):
    bare = Bare.init(tmp_path / "bare.git")
    piece = os.urandom(1 << 20)
    file = tmp_path / "large"
    with file.open("wb") as large:
        for _ in range(LARGE >> 20):
            large.write(piece)
    name = bare.git("-c", "core.looseCompression=0", "hash-object", "-w", str(file))
    bare.git("update-ref", "refs/tags/large", name)
    if is_packed:
        _packed(bare, b"")

    tracemalloc.start()
    found = blobs.find(str(bare.path), name)
    read_bytes = sum(map(len, found.pieces(0, found.size)))
    end = b"".join(found.pieces(LARGE - 10, LARGE))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (read_bytes, end) == (LARGE, piece[-10:])
    assert peak < LARGE / 4


def _bomb(bare: Bare, says: int, content: bytes) -> str:
    """
    Put a loose object there that says it has so many bytes.
    """
    whole = b"blob %d\0" % says + content
    name = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    path = bare.path / "objects" / name[:2] / name[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(whole))
    return name


@pytest.mark.parametrize("says", [10, 1 << 20, 64 << 30])
def test_an_object_that_inflates_to_more_than_it_says_costs_no_more(tmp_path: Path, says: int):
    """
    Nor does one that says so: it is refused by its size.
    """
    bare = Bare.init(tmp_path / "bare.git")
    name = _bomb(bare, says, bytes(LARGE))

    tracemalloc.start()
    with pytest.raises((zlib.error, ObjectTooLargeError)):
        read_loose(str(bare.path), name, most=8 << 20)
    found = blobs.find(str(bare.path), name)
    with contextlib.suppress(zlib.error):
        assert sum(map(len, found.pieces(0, found.size))) == says
    assert list(_damaged(bare).values()) == ["is not a git object"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < LARGE / 2


def test_an_object_in_a_pack_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bare = Bare.init(tmp_path / "bare.git")
    name = Objects(bare.path).write("blob", bytes(LARGE))
    bare.git("update-ref", "refs/tags/bomb", name)
    bare.git("repack", "-a", "-d", "-q")
    assert sum(file.stat().st_size for file in (bare.path / "objects/pack").iterdir()) < 100_000
    monkeypatch.setattr(gitsheets, "blob_read", lambda *_: pytest.fail("it was read"))

    with pytest.raises(ObjectTooLargeError, match=str(LARGE)):
        Objects(bare.path).read(name, most=LARGE - 1)


def test_small_objects_are_read_at_their_very_ends(tmp_path: Path):
    """
    Around the size of a piece, and around what they may have.
    """
    bare = Bare.init(tmp_path / "bare.git")
    for size in (0, 1, 4000, 65_000, (1 << 20) - 8, 1 << 20, (1 << 20) + 1):
        name = Objects(bare.path).write("blob", content := os.urandom(size))
        assert Objects(bare.path).read(name, most=size) == content
        assert b"".join(blobs.find(str(bare.path), name).pieces(0, size)) == content
        if size:
            with pytest.raises(ObjectTooLargeError):
                Objects(bare.path).read(name, most=size - 1)
    assert _damaged(bare) == {}


def test_git_that_prints_without_end_is_ended(data: Bare, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ferry.worker.process.running.MOST_BYTES", 10_000)
    data.grow(500)
    repository = Repository(data.path, branch="main")
    with pytest.raises(RepositoryError, match="more than 10000 bytes"):
        repository.commits_between(None, data.head() or "")
