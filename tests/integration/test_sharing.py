"""
A repository that several users write: what Ferry makes in it has the modes that git gives.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from ferry.worker.errors import RepositoryError
from ferry.worker.files.locks import FileLock
from ferry.worker.files.places import remotes_directory, state_directory, write_lock
from ferry.worker.git.objects import Objects
from ferry.worker.git.packing import Maintenance
from ferry.worker.git.packs import Packs
from ferry.worker.git.prepare import prepare
from ferry.worker.git.refs import move_ref
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.settings import Settings
from tests.parts import Bare

VALUES = [
    *("umask", "false", "No", "off", "0", "", "group", "true", "YES", "on", "1", "9"),
    *("all", "world", "everybody", "2", "0600", "0640", "0644", "0660", "0664", "666", "0770"),
]


@pytest.fixture(params=[0o022, 0o077], ids=oct)
def _umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def _modes(paths) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in paths:
        mode = path.lstat().st_mode
        kind = "link" if stat.S_ISLNK(mode) else "directory" if stat.S_ISDIR(mode) else "file"
        found.setdefault(kind, set()).add(oct(stat.S_IMODE(mode)))
    return found


def _added(path: Path, before: set[Path]) -> list[Path]:
    return [each for each in path.rglob("*") if each not in before]


def _shared(data: Bare) -> list[Path]:
    return [path for path in (data.path / "ferry").rglob("*") if path.suffix != ".key"]


def _made_by_git(path: Path, value: str) -> dict[str, dict[str, set[str]]]:
    """
    Return the modes of what git makes in a repository with the option at *value*.
    """
    bare = Bare.init(path)
    bare.git("config", "core.sharedRepository", value)
    tree = bare.git("mktree", "--missing")
    commit = bare.git("commit-tree", tree, "-m", "one")
    bare.git("update-ref", "refs/heads/some/branch", commit)
    made = {
        "objects": _modes(path.glob("objects/??")) | _modes(path.glob("objects/??/*")),
        "refs": _modes(path.glob("refs/heads/some")) | _modes(path.glob("refs/heads/some/*")),
    }
    subprocess.run(
        ["git", "-C", str(path), "pack-objects", "-q", "objects/pack/pack"],
        input=commit,
        text=True,
        capture_output=True,
        check=True,
    )
    made["packs"] = _modes(path.glob("objects/pack/*.pack"))
    return made


@pytest.mark.parametrize("value", VALUES)
def test_every_value_means_what_it_means_to_git(tmp_path, value):
    made = _made_by_git(tmp_path / "by-git.git", value)
    here = Bare.init(tmp_path / "here.git")
    here.git("config", "core.sharedRepository", value)
    Objects(here.path).write("blob", b"some words")
    move_ref(here.path, "refs/heads/some/branch", new="1" * 40, old=None)

    assert _modes(here.path.glob("objects/??")) | _modes(here.path.glob("objects/??/*")) == made["objects"]
    assert (
        _modes([here.path / "refs/heads/some"]) | _modes(here.path.glob("refs/heads/some/*")) == made["refs"]
    )


@pytest.mark.parametrize("value", ["umask", "group", "all", "0600", "0640", "0660"])
@pytest.mark.usefixtures("_umask")
def test_what_ferry_makes_is_as_open_as_what_git_makes(env, client, data, tmp_path, value):
    """
    Objects, refs, packs and their directories, and Ferry's own files, whatever the umask.
    """
    expected = _made_by_git(tmp_path / "by-git.git", value)
    data.git("config", "core.sharedRepository", value)
    objects = set((data.path / "objects").rglob("*"))

    api = client()
    for number in range(3):
        person = {"slug": f"jane-{number}", "name": "Jane"}
        headers = {"Idempotency-Key": f"key-{number}"}
        assert api.post("/api/sheets/people/records", json=person, headers=headers).status_code == 201
    move_ref(data.path, "refs/heads/some/branch", new=data.head() or "", old=None)

    assert _modes(_added(data.path / "objects", objects)) == expected["objects"]
    made = [data.path / "refs/heads/some", data.path / "refs/heads/some/branch"]
    assert _modes(made) == expected["refs"]
    assert _modes([data.path / "refs/heads/main"])["file"] == expected["refs"]["file"]
    with Ledger(remotes_directory(data.path)).claim("origin") as claim:
        claim.write(looked_at=1.0)
    Maintenance(Repository(data.path, branch="main"), state_directory(data.path), write_lock(data.path)).run()
    packs = set((data.path / "objects" / "pack").glob("*.pack"))
    assert _modes(packs - objects) == expected["packs"]
    Packs(Repository(data.path, branch="main").git).merge(timeout_s=60)
    assert _modes(set((data.path / "objects" / "pack").glob("*.pack")) - objects) == expected["packs"]
    if value != "umask":
        own = _modes([data.path / "ferry", *_shared(data)])
        assert own["directory"] == expected["refs"]["directory"]
        assert own["file"] == expected["refs"]["file"]


def _configure(data, text):
    with (data.path / "config").open("a") as config:
        config.write(text)


@pytest.mark.parametrize("value", ["0400", "0066", "sometimes", "GROUP"])
def test_what_git_does_not_know_is_refused_at_the_start(env, data, value):
    _configure(data, f"[core]\n\tsharedRepository = {value}\n")
    with pytest.raises(RepositoryError, match=r"core\.sharedRepository"):
        prepare(Settings.from_env(env))


def test_without_a_value_it_is_true_and_capitals_do_not_matter(env, data):
    _configure(data, "[CORE]\n\tSHAREDrepository\n")
    prepare(Settings.from_env(env))
    assert (data.path / "ferry").stat().st_mode & 0o2070 == 0o2070


def test_a_repository_that_becomes_shared_is_shared_at_the_next_start(env, data):
    """
    Ferry's own files, which were there before, too.
    """
    prepare(Settings.from_env(env))
    with FileLock(state_directory(data.path) / "write.lock").hold(1):
        pass
    secret = data.path / "ferry" / "sessions.key"
    secret.touch(0o600)
    data.git("config", "core.sharedRepository", "group")

    prepare(Settings.from_env(env))

    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    for path in _shared(data):
        assert path.stat().st_mode & 0o060 == 0o060, path
