"""
The data repository at the start: what is refused, what is set, what is reported.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ferry.worker.errors import RepositoryError
from ferry.worker.git.config import read_all, read_without_git
from ferry.worker.git.prepare import prepare
from ferry.worker.settings import Settings
from tests.parts import Bare


@pytest.fixture
def start(data, remote):
    def start(**env):
        settings = {"CFP_DATA_REPO_PATH": str(data.path), "CFP_DATA_REMOTE": str(remote.path)}
        return prepare(Settings.from_env({**settings, "CFP_REDIS_URL": "redis://127.0.0.1:1/0", **env}))

    return start


def test_the_identity_is_made_once(start):
    assert start() == start() != ""


def test_processes_that_start_at_once_do_not_meet(start):
    """
    gunicorn starts its workers in the same moment, and each tries what the volume can do.
    """
    with ThreadPoolExecutor(8) as pool:
        assert len({identity.result() for identity in [pool.submit(start) for _ in range(40)]}) == 1


def test_remotes_stand_where_the_settings_say(start, data, tmp_path):
    start(CFP_DATA_MIRRORS="backup=/srv/one.git")
    start(CFP_DATA_MIRRORS=f"backup={tmp_path}/it's two.git".replace(" ", "-"))
    assert data.git("config", "remote.backup.url") == f"{tmp_path}/it's-two.git"
    assert data.git("config", "remote.origin.fetch") == "+refs/heads/*:refs/remotes/origin/*"


@pytest.mark.parametrize("content", [b"", bytes(41), b"\n", b"ref: ", b"\xff\xfe"], ids=repr)
def test_a_head_that_a_power_cut_emptied_is_written_again(start, data, content):
    (data.path / "HEAD").write_bytes(content)
    with capture_logs() as logs:
        start()
    assert data.git("symbolic-ref", "HEAD") == "refs/heads/main"
    assert [each["event"] for each in logs if each["event"].startswith("repository.")] == [
        "repository.head_restored"
    ]


@pytest.mark.parametrize("content", ["ref: refs/heads/other\n", "1" * 40 + "\n"])
def test_a_head_that_git_can_read_stays(start, data, content):
    (data.path / "HEAD").write_text(content)
    start()
    assert (data.path / "HEAD").read_text() == content


def _sha256(path: Path) -> None:
    subprocess.run(["git", "init", "-q", "--bare", "--object-format=sha256", str(path)], check=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is not a complete git repository"),
        (lambda path: (path / ".git").mkdir(parents=True), "has a working tree"),
        (lambda path: (Bare.init(path).path / "shallow").touch(), "git -C .* fetch --unshallow"),
        (lambda path: (Bare.init(path).path / "reftable").mkdir(), "git refs migrate"),
        (_sha256, "--object-format=sha1"),
        (lambda path: Bare.init(path).git("config", "core.bare", "false"), "is not bare"),
        (lambda path: Bare.init(path).git("config", "remote.origin.mirror", "true"), "is a mirror"),
        (
            lambda path: Bare.init(path).git("config", "remote.x.promisor", "true"),
            "is a partial clone.*ferry init",
        ),
        (lambda path: Bare.init(path).git("config", "extensions.partialClone", "x"), "is a partial clone"),
        (
            lambda path: Bare.init(path).git("config", "remote.x.partialCloneFilter", "tree:0"),
            "partial clone",
        ),
        (
            lambda path: Bare.init(path).git("symbolic-ref", "refs/heads/main", "refs/heads/x"),
            "CFP_DATA_BRANCH",
        ),
        (
            lambda path: (Bare.init(path).path / "refs/heads/main").symlink_to("x"),
            "--no-deref refs/heads/main",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_remedy(start, tmp_path, make, words):
    path = tmp_path / "other.git"
    make(path)
    with pytest.raises(RepositoryError, match=words):
        start(CFP_DATA_REPO_PATH=str(path))


def test_an_old_lock_file_is_reported_and_left_alone(start, data):
    """
    A fresh one is at work; an old one may be dead, which nobody but its maker can say.
    """
    old, fresh = data.path / "packed-refs.lock", data.path / "refs/heads/main.lock"
    old.touch()
    fresh.touch()
    os.utime(old, (time.time() - 600, time.time() - 600))

    with capture_logs() as logs:
        start()

    (found,) = [entry for entry in logs if entry["event"] == "repository.lock_found"]
    assert found["path"] == str(old)
    assert found["age_seconds"] >= 600
    assert "remove that file" in found["hint"]
    assert old.exists()
    assert fresh.exists()


def test_gits_own_upkeep_removes_no_object(start, data):
    """
    An object that no ref names yet is a commit in the making, or one that was acknowledged a moment ago.
    """
    commit = data.git("commit-tree", "-p", "main", "-m", "no ref", "main^{tree}")
    start()

    for command in (["gc", "--prune=now"], ["prune"], ["-c", "gc.pruneExpire=now", "gc"], ["repack", "-ad"]):
        subprocess.run(["git", "-C", str(data.path), *command], capture_output=True, check=False)
    assert data.git("cat-file", "-t", commit) == "commit"
    assert data.git("config", "core.repositoryformatversion") == "1"
    assert data.git("config", "core.fsync") == "reference"


def test_what_a_user_does_with_a_repository_works_with_ours(start, data, remote, tmp_path):
    """
    Clone, mirror, fetch, push into it and out of it; a clone is an ordinary repository.
    """
    start()
    data.git("push", "-q", "origin", "main")
    data.git("fetch", "-q", "origin")
    data.git("fsck", "--strict")
    assert remote.head() == data.head()
    for option in ("--bare", "--mirror", "--shared", "--no-local"):
        clone = tmp_path / f"clone{option}.git"
        data.git("clone", "-q", option, *(["--bare"] if option == "--shared" else []), ".", str(clone))
        assert Bare(clone).git("rev-parse", "main" if "no" not in option else "origin/main") == data.head()
    other = Bare(tmp_path / "clone--bare.git")
    commit = other.commit()
    other.git("push", "-q", str(data.path), "main")
    assert data.head() == commit


@pytest.mark.parametrize(("extension", "version"), [("somethingThatGitPassesOver", "0"), (None, "1")])
def test_a_repository_that_git_reads_is_one_that_git_reads_afterwards(start, data, extension, version):
    """
    Format 1 makes git refuse an extension that it passes over in format 0.
    """
    if extension:
        data.git("config", f"extensions.{extension}", "x")
    start()
    start()

    assert data.git("config", "core.repositoryformatversion") == version
    assert data.git("config", "extensions.preciousObjects") == "true"
    done = subprocess.run(["git", "-C", str(data.path), "prune"], capture_output=True, text=True, check=False)
    assert "precious" in done.stderr


def test_what_an_operator_has_chosen_to_flush_stays(start, data):
    data.git("config", "core.fsync", "all")
    start()
    assert data.git("config", "core.fsync") == "all"


# --- git's configuration ---


@pytest.mark.parametrize("scope", ["repository", "user", "environment"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("remote.origin.pushurl", "/srv/another.git"),
        ("url./srv/another.git.pushInsteadOf", "{remote}"),
        ("url./srv/another/.pushInsteadOf", "/"),
    ],
)
def test_what_sends_pushes_elsewhere_is_refused_by_its_name(
    start, data, remote, tmp_path, monkeypatch, scope, key, value
):
    value = value.format(remote=remote.path)
    if scope == "repository":
        data.git("config", key, value)
    elif scope == "user":
        monkeypatch.setenv("HOME", str(tmp_path))
        data.git("config", "--global", key, value)
    else:
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", key)
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", value)

    with pytest.raises(RepositoryError, match=rf"(?i){re.escape(key)}.*CFP_DATA_REMOTE"):
        start()


def test_what_leads_pushes_and_fetches_to_one_place_is_no_other_place(start, data, remote):
    """
    Nor is a rule for other hosts, or a longer one that leads back.
    """
    data.git("config", f"url.{remote.path.parent}/.insteadOf", "town:")
    data.git("config", f"url.{remote.path.parent}/.pushInsteadOf", "town:")
    data.git("config", "url.git@git.example:.pushInsteadOf", "https://git.example/")
    start(CFP_DATA_REMOTE="town:remote.git")
    data.git("config", "remote.origin.pushurl", str(remote.path))
    start(CFP_DATA_REMOTE="town:remote.git")


def test_a_secret_in_such_a_key_is_not_repeated(start, data, remote):
    data.git("config", "url.https://ana:s3cr3t@git.example/.pushInsteadOf", str(remote.path))
    with pytest.raises(RepositoryError, match="pushinsteadof") as refused:
        start()
    assert "s3cr3t" not in str(refused.value)


def test_the_configuration_is_replaced_whole_and_keeps_what_people_wrote(start, data):
    config = data.path / "config"
    config.write_text(f'{config.read_text()}# a remark\n[town]\n\tname = "a # b"')
    config.chmod(0o664)
    inode = config.stat().st_ino

    start(CFP_DATA_MIRRORS=r"backup=/srv/#one;\"two.git")

    assert config.stat().st_ino != inode
    assert "# a remark" in config.read_text()
    assert data.git("config", "town.name") == "a # b"
    assert data.git("config", "--get-all", "remote.backup.url") == r"/srv/#one;\"two.git"
    assert config.stat().st_mode & 0o777 == 0o660
    before = config.read_text()
    start(CFP_DATA_MIRRORS=r"backup=/srv/#one;\"two.git")
    assert config.read_text() == before


def test_a_start_that_dies_while_it_configures_leaves_the_old_file_and_stops_nobody(start, data, monkeypatch):
    before = (data.path / "config").read_text()
    with monkeypatch.context() as patched:
        patched.setattr("ferry.worker.git.config.flush", lambda path: os._exit(0))
        if (child := os.fork()) == 0:
            start()
        os.waitpid(child, 0)
    assert (data.path / "config").read_text() == before
    assert (data.path / "config.lock").exists()

    start()

    assert data.git("config", "remote.origin.url")
    assert not (data.path / "config.lock").exists()


def test_a_lock_of_another_git_on_the_configuration_is_waited_for_and_named(start, data, monkeypatch):
    monkeypatch.setattr("ferry.worker.git.config._LOCK_WAIT_S", 0.1)
    (data.path / "config.lock").touch()
    with pytest.raises(RepositoryError, match=r"config\.lock exists"):
        start()
    assert (data.path / "config.lock").exists()


@pytest.mark.parametrize("kept", ["+refs/notes/*:refs/notes/*", "+refs/heads/x:refs/remotes/origin/y"])
def test_a_fetch_by_hand_does_not_set_the_branch_back(start, data, remote, kept):
    """
    As `git clone --mirror` configures it.
    """
    data.git("push", "--quiet", str(remote.path), "main")
    for refspec in ("+refs/*:refs/*", "+refs/heads/*:refs/heads/*", "+refs/heads/main:refs/heads/main", kept):
        data.git("config", "--add", "remote.origin.fetch", refspec)
    start()
    ours = data.commit("ours")

    data.git("fetch", "--quiet", "origin", "+refs/heads/main:refs/remotes/origin/main")

    assert data.head() == ours
    assert data.git("config", "--get-all", "remote.origin.fetch").split("\n") == [
        "+refs/heads/*:refs/remotes/origin/*",
        kept,
    ]


def test_without_git_a_start_goes_on(start, monkeypatch):
    start()
    monkeypatch.setenv("PATH", "/nonexistent")
    with capture_logs() as logs:
        assert start()
    assert "git cannot be started" in next(e["error"] for e in logs if e["event"] == "git.not_started")


def test_without_git_the_configuration_is_the_same(start, data, tmp_path, monkeypatch):
    """
    Git spells keys in lower case, but for the name in their middle; an option without a value is true.
    """
    start(CFP_DATA_MIRRORS="Backup=/srv/one.git")
    with (data.path / "config").open("a") as config:
        config.write(f'[Core]\n\tsharedRepository\n[Town "A b"]\n\tName = a\n\tname = "b # c"\n'
                     f"[include]\n\tpath = {tmp_path}/included\n")  # fmt: skip
    (tmp_path / "included").write_text("[user]\n\tsigningKey = ours\n")
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Sam\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def known(read):
        return sorted(
            (each.key, each.value, each.is_own)
            for each in read(data.path)
            if each.origin != "the environment"
        )

    assert known(read_without_git) == known(read_all)
    assert ("town.A b.name", "b # c", True) in known(read_all)
    assert ("core.sharedrepository", "true", True) in known(read_all)
    assert ("user.name", "Sam", False) in known(read_all)


@pytest.mark.parametrize("git", ["there", "away"])
@pytest.mark.parametrize(("written", "is_bare"), [("yes", True), ("1", True), ("no", False), ("", False)])
def test_a_boolean_means_what_it_means_to_git(start, data, monkeypatch, written, is_bare, git):
    start()  # without git only what was started before starts
    data.git("config", "core.bare", written)
    if git == "away":
        monkeypatch.setenv("PATH", "/nonexistent")
    if is_bare:
        assert start()
    else:
        with pytest.raises(RepositoryError, match=r"git config core\.bare true"):
            start()


def test_a_repository_that_neither_can_open_is_refused_by_one_line(start, data, monkeypatch):
    (data.path / "config").write_text("[core\n")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RepositoryError, match=re.escape(f"cannot prepare {data.path}")):
        start()
