"""
What git derives from the objects may be damaged: nothing stops, and no person is needed.
"""

from __future__ import annotations

import shutil

import pytest
from structlog.testing import capture_logs

from ferry.worker.git.caches import mend
from ferry.worker.git.objects import Objects
from ferry.worker.git.packs import Packs
from ferry.worker.git.remote import Remote
from ferry.worker.git.repository import Repository
from tests.parts import Bare

_FILES = {
    "multi-pack-index": "objects/pack/multi-pack-index",
    "bitmap": "objects/pack/multi-pack-index-*.bitmap",
    "pack index": "objects/pack/pack-*.idx",
    "commit-graph": "objects/info/commit-graph",
    "part of a commit-graph": "objects/info/commit-graphs/*.graph",
}
_DAMAGES = {
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "forty zeros": lambda content: bytes(40),
    "cut short": lambda content: content[: len(content) // 2],
    "half zeros": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "other bits": lambda content: content[:1100] + bytes(byte ^ 0x5A for byte in content[1100:]),
    "text": lambda content: b"<<<<<<< HEAD\n" * 200,
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """
    A repository of two packs, with all that git derives from them.
    """
    bare = Bare.init(tmp_path_factory.mktemp("packed") / "data.git")
    (bare.path / "ferry").mkdir()
    lines = []
    for number in range(60):
        name = f"{number}\n"
        lines.append(
            f"commit refs/heads/main\ncommitter a <a@example.org> {1_700_000_000 + number} +0000\n"
            f"data 1\nx\nM 100644 inline file-{number % 7}\ndata {len(name)}\n{name}\n"
        )
    bare.feed("fast-import", "--quiet", content="".join(lines[:40]).encode())
    bare.git("commit-graph", "write", "--reachable", "--split", "--changed-paths")
    second = "".join(lines[40:]).replace("data 1\nx\n", "data 1\nx\nfrom refs/heads/main^0\n", 1)
    bare.feed("-c", "fastimport.unpackLimit=0", "fast-import", "--quiet", content=second.encode())
    bare.git("repack", "-q", "-d")
    bare.git("multi-pack-index", "write", "--bitmap")
    return bare


@pytest.mark.parametrize("damage", _DAMAGES.values(), ids=_DAMAGES)
@pytest.mark.parametrize("pattern", _FILES.values(), ids=_FILES)
def test_a_damaged_derived_file_stops_nothing(packed, tmp_path, pattern, damage):
    data = Bare.copy(packed.path, tmp_path / "data.git")
    remote = Bare.init(tmp_path / "remote.git")
    if "commit-graphs" not in pattern:
        shutil.rmtree(data.path / "objects/info/commit-graphs")
        data.git("commit-graph", "write", "--reachable", "--changed-paths")
    if "pack-*.idx" in pattern:
        for derived in data.path.glob("objects/pack/multi-pack-index*"):
            derived.unlink()
    data.git("config", "remote.origin.url", str(remote.path))
    head, first = data.head(), data.git("rev-list", "--max-parents=0", "main")
    for path in data.path.glob(pattern):
        path.chmod(0o644)
        path.write_bytes(damage(path.read_bytes()))
    repository = Repository(data.path, branch="main")

    assert Objects(data.path).read(head).startswith(b"tree ")
    assert len(repository.log(head, file="file-3")) == 9
    assert Remote(repository, "origin", timeout_s=60).push(head).verdict.reason == "pushed"
    assert repository.count_between(first, head) == 59
    assert repository.contains(first, head)
    assert Remote(repository, "origin", timeout_s=60).ask() == head
    Packs(repository.git).write_commit_graph(timeout_s=60)
    assert remote.head() == head
    # What is not read by any of these commands is found when it is looked for.
    mend(data.path)
    data.git("fsck", "--strict")
    assert mend(data.path) == []


def test_a_damaged_pack_is_told_of_and_left(packed, tmp_path):
    """
    Its index cannot be made again; that is tried once, not at each command.
    """
    data = Bare.copy(packed.path, tmp_path / "data.git")
    index = next(data.path.glob("objects/pack/pack-*.idx"))
    pack = index.with_suffix(".pack")
    for path in (index, pack):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-30])

    with capture_logs() as logs:
        assert mend(data.path) == []
        assert mend(data.path) == []

    assert [(each["event"], each["file"]) for each in logs] == [("repository.pack_damaged", str(pack))]
    assert pack.exists()
    assert index.exists()
