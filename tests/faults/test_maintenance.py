"""
The repository stays small by itself, and nobody who works on it notices.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import textwrap
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ferry.app.store.store import Store
from ferry.worker.errors import RepositoryError
from ferry.worker.files.locks import FileLock
from ferry.worker.files.places import state_directory, write_lock
from ferry.worker.git.packing import Maintenance
from ferry.worker.git.packs import Packs
from ferry.worker.git.prepare import prepare
from ferry.worker.git.repository import Repository
from ferry.worker.settings import Settings
from tests import nursery
from tests.parts import Bare, clean_environment, wait_until

AUTHOR = ("Tess", "tess@example.org")


@pytest.fixture
def repository(data):
    (data.path / "ferry").mkdir()
    return Repository(data.path, branch="main")


def _maintenance(repository):
    return Maintenance(repository, state_directory(repository.path), write_lock(repository.path))


def _commit(store, number):
    slug = f"visitor-{number % 500}"
    with store.commit(f"visit {number}", author=AUTHOR) as transaction:
        transaction.put("people", slug, {"slug": slug, "name": f"Visit {number}"})
    return transaction.commit


def test_of_a_workers_repositories_one_is_packed_at_a_time(repository, tmp_path):
    """
    Packing may last, and all the slots of the worker would be taken by it.
    """
    turn, directory = FileLock(tmp_path / "packing.lock"), state_directory(repository.path)
    maintenance = Maintenance(repository, directory, write_lock(repository.path), turn)

    with turn.try_hold() as held:
        assert held
        assert maintenance.run() == "left to a later sweep: another repository is packed"
        assert maintenance.last() == {}
    assert maintenance.run().startswith("packed in ")


_WRITER = """
    import itertools
    import sys
    import time
    from pathlib import Path
    from ferry.app.store.store import Store
    from ferry.worker.git.repository import Repository

    store = Store(Repository(Path(sys.argv[1]), branch="main"))
    for number in itertools.count():
        if Path(sys.argv[2]).exists():
            break
        with store.commit(f"visit {number}", author=("Tess", "tess@example.org")) as transaction:
            slug = f"visitor-{number % 500}"
            transaction.put("people", slug, {"slug": slug, "name": f"Visit {number}"})
        print(transaction.commit, flush=True)
        time.sleep(0.005)
"""


@contextmanager
def _writing(data, directory):
    """
    Have a process commit all the time; yields it, the file with its commits, and the one that ends it.
    """
    log_path, stop = directory / "writer.log", directory / "stop"
    command = [sys.executable, "-c", textwrap.dedent(_WRITER), str(data.path), str(stop)]
    with log_path.open("wb") as log:
        writer = nursery.spawn(command, env=clean_environment(), output=log, errors=log)
    try:
        yield writer, log_path, stop
    finally:
        writer.kill()


def test_packing_takes_turns_with_a_writer(data, repository, tmp_path):
    """
    A writer commits all the time while the repository is packed again and again: every
    commit is there, readable, and the store is whole.
    """
    before = data.head()
    maintenance = _maintenance(repository)
    with _writing(data, tmp_path) as (writer, log_path, stop):
        runs = 0
        while runs < 6 or log_path.read_text().count("\n") < 100:
            maintenance.run()
            runs += 1
            assert writer.poll() is None, log_path.read_text()
        stop.touch()
        assert writer.wait(60) == 0

    told = log_path.read_text().split()
    assert data.git("rev-list", "--reverse", f"{before}..main").split() == told
    data.git("fsck", "--strict")
    maintenance.run()
    size = Packs(repository.git).size()
    assert size["loose_objects"] == 0
    assert size["packs"] <= 8


def test_what_ends_the_packing_takes_one_part_with_it(repository, monkeypatch):
    """
    Where much is loose and the machine is busy, packing everything at once might never end.
    """
    monkeypatch.setattr("ferry.worker.git.packs._PART", 10)
    store, packs = Store(repository), Packs(repository.git)
    for number in range(10):
        _commit(store, number)
    before = packs.size()["loose_objects"]
    assert before > 25
    prune, parts = Packs.prune_packed, []

    def prune_and_die(self):
        prune(self)
        parts.append(self.size()["loose_objects"])
        if len(parts) == 2:
            raise RepositoryError("killed")

    with monkeypatch.context() as dying:
        dying.setattr(Packs, "prune_packed", prune_and_die)
        with pytest.raises(RepositoryError, match="killed"):
            _maintenance(repository).run()
    assert parts == [before - 10, before - 20]

    _maintenance(repository).run()
    assert packs.size()["loose_objects"] == 0
    Bare(repository.path).git("fsck", "--strict")


_FOREIGN = [
    ["gc", "--quiet", "--prune=now"],
    ["prune"],
    ["-c", "gc.pruneExpire=now", "gc", "--quiet"],
    ["gc", "--quiet", "--aggressive", "--prune=now"],
    ["repack", "-a", "-d", "-q"],
    ["maintenance", "run", "--quiet", "--task=loose-objects", "--task=incremental-repack", "--task=gc"],
    ["pack-refs", "--all", "--prune"],
    ["reflog", "expire", "--expire=now", "--all"],
    ["worktree", "prune", "--expire=now"],
    ["prune-packed", "-q"],
    ["multi-pack-index", "expire"],
]


def test_what_people_run_beside_a_writer_takes_no_commit(env, data, tmp_path):
    """
    All of git's ways to tidy up, again and again, on a repository that Ferry has prepared.
    """
    prepare(Settings.from_env(env))
    before = data.head()
    with _writing(data, tmp_path) as (writer, log_path, stop):
        wait_until(lambda: "\n" in log_path.read_text(), timeout_s=60)
        for command in _FOREIGN * 5:
            subprocess.run(
                ["git", "-C", str(data.path), *command], capture_output=True, timeout=60, check=False
            )
        assert writer.poll() is None, f"a write has failed: {log_path.read_text()}"
        stop.touch()
        assert writer.wait(60) == 0
    told = log_path.read_text().split()

    assert len(told) > 10
    assert data.git("rev-list", "--reverse", f"{before}..main").split() == told
    data.git("fsck", "--strict")


def test_a_copy_of_a_repository_merges_its_own_packs(data, repository, tmp_path):
    """
    Packs are merged in precious repositories too, and in a copy those of the copy.
    """
    data.git("config", "core.repositoryformatversion", "1")
    data.git("config", "extensions.preciousObjects", "true")
    store = Store(repository)
    for number in range(6):
        _commit(store, number)
        Packs(repository.git).pack_loose_objects(timeout_s=60)
    Packs(repository.git).merge(timeout_s=60)
    assert Packs(repository.git).count() <= 2
    _commit(store, 7)
    Packs(repository.git).pack_loose_objects(timeout_s=60)
    packs = Packs(repository.git).count()

    copy = Bare(Path(shutil.copytree(data.path, tmp_path / "copy.git", symlinks=True)))
    (copy.path / "ferry" / "packs.git" / "HEAD").write_bytes(b"")  # as after a power cut
    other = Repository(copy.path, branch="main")
    Packs(other.git).merge(timeout_s=60)

    assert Packs(repository.git).count() == packs
    assert Packs(other.git).count() <= packs
    for each in (data, copy):
        each.git("fsck", "--strict")


def _named_for(content):
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


_WHOLE = b"blob 10\0some words"
_DAMAGED = {
    "empty": (_named_for(_WHOLE), b"", "is empty"),
    "truncated": (_named_for(_WHOLE), zlib.compress(_WHOLE)[:-6], "is truncated"),
    "garbage": (_named_for(_WHOLE), b"no zlib at all", "cannot be read"),
    "nulls": (_named_for(_WHOLE), b"\0" * 80, "cannot be read"),
    "another's name": ("17" + 38 * "a", zlib.compress(_WHOLE), "does not match the digest that is its name"),
    "more behind it": (_named_for(_WHOLE), zlib.compress(_WHOLE) + b"x", "is not a git object"),
    "no header": (_named_for(b"words"), zlib.compress(b"words"), "is not a git object"),
    "a wrong size": (_named_for(b"blob 9\0x"), zlib.compress(b"blob 9\0x"), "is not a git object"),
    "no name": ("17readme", b"words", "does not have the name of an object"),
    "short name": ("17abc", zlib.compress(_WHOLE), "does not have the name of an object"),
}


@pytest.mark.parametrize("kinds", [*([kind] for kind in _DAMAGED), list(_DAMAGED)], ids=[*_DAMAGED, "all"])
def test_what_does_not_unpack_keeps_nothing_else_from_being_packed(data, repository, kinds):
    """
    Each damaged file is named and left where it is, and every other object is packed.
    """
    commit = _commit(Store(repository), 1)
    expected = {}
    for kind in kinds:
        name, content, why = _DAMAGED[kind]
        path = f"objects/{name[:2]}/{name[2:]}"
        (data.path / path).parent.mkdir(exist_ok=True)
        (data.path / path).write_bytes(content)
        expected[path] = why

    with capture_logs() as logs:
        _maintenance(repository).run()

    damaged = _maintenance(repository).damaged()
    assert damaged.keys() == expected.keys()
    assert all(why in damaged[path] for path, why in expected.items())
    [line] = [line for line in logs if line["event"] == "maintenance.damaged_objects"]
    assert (line["log_level"], line["count"], line["objects"].keys()) == (
        "warning",
        len(expected),
        expected.keys(),
    )
    assert data.git("cat-file", "-t", commit) == "commit"
    loose = {str(path.relative_to(data.path)) for path in data.path.glob("objects/[0-9a-f][0-9a-f]/*")}
    assert loose == expected.keys()
    assert Packs(repository.git).count() >= 1

    for path in expected:
        (data.path / path).unlink()
    assert _maintenance(repository).damaged() == {}
    data.git("fsck", "--strict")


def test_a_damaged_object_of_which_a_pack_has_another_copy_goes(data, repository):
    commit = _commit(Store(repository), 1)
    _maintenance(repository).run()
    path = data.path / "objects" / commit[:2] / commit[2:]
    path.parent.mkdir(exist_ok=True)
    path.touch()

    _maintenance(repository).run()

    assert not path.exists()
    assert _maintenance(repository).damaged() == {}
    data.git("fsck", "--strict")


def test_the_operator_is_told_which_objects_are_damaged(data, ferry):
    assert ferry("init").returncode == 0
    name = "objects/17/" + 38 * "b"
    (data.path / name).parent.mkdir(exist_ok=True)
    (data.path / name).touch()
    _maintenance(Repository(data.path, branch="main")).run()

    told = ferry("doctor").stdout
    assert f"1 loose objects are damaged, and are not packed: {name} is empty" in told
    assert "git fetch --refetch origin" in told


def test_a_discarded_transaction_and_an_unreferenced_commit_are_not_pruned(data, repository):
    """
    What a push or a transaction may still need has no ref yet.
    """
    commit = data.git("commit-tree", "-p", "main", "-m", "no ref", "main^{tree}")
    _maintenance(repository).run()
    assert data.git("cat-file", "-t", commit) == "commit"


def test_it_runs_by_itself_and_shows_in_the_status(client, worker, beat, data, remote):
    """
    Enough loose objects, and the next sweep has them packed while commits go on to the remote.
    """
    api = client()
    running, _ = worker(), beat()
    assert api.get("/api/_internal/push").json["repository"]["last_maintenance_at"] is None
    repository = Repository(data.path, branch="main")
    for number in range(2000):
        repository.objects.write("blob", b"what a transaction left %d" % number)
    store = Store(repository)
    for number in range(20):
        _commit(store, number)

    def packed():
        repository = api.get("/api/_internal/push").json["repository"]
        return repository if repository["last_maintenance_at"] else None

    repository = wait_until(packed, what="maintenance")
    assert repository["packed_objects"] > 1000
    assert "ferry_last_maintenance_timestamp_seconds" in api.get("/metrics").text
    wait_until(lambda: remote.head() == data.head(), what="everything on the remote")
    running.stop()  # git fsck itself cannot bear that objects move into packs while it reads
    data.git("fsck", "--strict")


def test_packs_that_fetches_leave_are_merged_though_nothing_is_loose(data, repository):
    """
    Each fetch leaves one. Where they cannot be merged, that is tried once an hour.
    """
    data.git("repack", "-a", "-d", "-q")
    Packs(repository.git).write_commit_graph(timeout_s=60)
    maintenance = _maintenance(repository)
    assert not maintenance.is_due()
    [pack] = (data.path / "objects" / "pack").glob("*.pack")
    for number in range(50):
        for ending in (".pack", ".idx"):
            shutil.copy(pack.with_suffix(ending), pack.with_name(f"pack-{number:040x}{ending}"))

    assert maintenance.is_due()
    maintenance.run()
    assert not maintenance.is_due()


def test_one_maintenance_at_a_time(data, repository):
    maintenance = _maintenance(repository)
    with maintenance._lock.hold(1):
        assert _maintenance(repository).run() == "already under way"
    assert maintenance.last() == {}
    begun = time.time()
    assert maintenance.run().startswith("packed in")
    assert maintenance.last()["at"] >= begun - 1
