"""
The first start: `ferry init`, over what may already be there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ferry.app import create_app
from ferry.worker.bootstrap import build
from ferry.worker.errors import RepositoryError
from ferry.worker.git import clone
from ferry.worker.git.command import Git
from tests import nursery
from tests.needs import need
from tests.parts import Bare, Process, clean_environment, wait_until

FERRY = str(Path(sys.executable).parent / "ferry")


@pytest.fixture
def origin(data, remote):
    """
    A remote that has everything, while the data repository is gone.
    """
    data.git("push", "-q", str(remote.path), "main")
    shutil.rmtree(data.path)
    return remote


@pytest.fixture
def init(env):
    def run(**extra: str) -> subprocess.CompletedProcess:
        return nursery.run([FERRY, "init"], env={**clean_environment(), **env, **extra}, timeout=120)

    return run


def test_an_empty_place_becomes_the_whole_repository(init, env, data, origin):
    done = init()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{data.path} was cloned from origin; main is at {origin.head()}\n"
    assert data.head() == origin.head()
    assert data.git("rev-list", "--count", "main") == origin.git("rev-list", "--count", "main")
    assert data.git("fsck", "--strict") == ""
    assert data.git("config", "remote.origin.fetch") == "+refs/heads/*:refs/remotes/origin/*"
    assert data.git("config", "user.name") == "Ferry"
    assert data.git("rev-parse", "--is-bare-repository") == "true"
    assert data.git("rev-parse", "refs/remotes/origin/main") == origin.head()
    with_api = create_app(env, open_access=True).test_client()
    assert with_api.get("/api/sheets/people").status_code == 200
    again = init()
    assert again.stdout == f"{data.path} exists; main is at {origin.head()}\n"


def test_an_empty_directory_is_empty(init, data, origin):
    data.path.mkdir()
    done = init()
    assert done.returncode == 0, done.stderr
    assert data.head() == origin.head()


def test_a_volume_of_its_own_is_made_in_place(env, data, origin, monkeypatch):
    """
    A mount point cannot be replaced by a rename: HEAD, without which it is no repository, comes last.
    """
    from ferry.worker.git import clone
    from ferry.worker.git.credentials import Credentials
    from ferry.worker.settings import Settings

    data.path.mkdir()
    (data.path / "lost+found").mkdir()
    monkeypatch.setattr(clone, "_place", lambda path: path)
    settings = Settings.from_env(env)
    assert clone.make(settings, Credentials.from_settings(settings, {}))
    assert data.head() == origin.head()
    assert data.git("fsck", "--strict") == ""
    assert not list(data.path.glob(".*-init-*"))
    assert not clone.make(settings, Credentials.from_settings(settings, {}))


def test_four_at_once_make_one(env, data, origin, tmp_path):
    running = [Process([FERRY, "init"], env, tmp_path / f"init-{number}.log") for number in range(4)]
    for each in running:
        each.spawn()
    assert [each.wait(60) for each in running] == [0] * 4, [each.text() for each in running]
    assert sum("was cloned" in each.text() for each in running) == 1
    assert data.head() == origin.head()


def _runs(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _name_of(process):
    with contextlib.suppress(psutil.NoSuchProcess):  # git's children come and go
        return process.name()
    return ""


def test_one_that_is_killed_leaves_nothing_in_the_way(init, env, data, origin, tmp_path):
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 60\n")
    slow.chmod(0o755)
    config = tmp_path / "gitconfig"
    config.write_text(f"[uploadpack]\n\tpackObjectsHook = {slow}\n")
    killed = Process([FERRY, "init"], {**env, "GIT_CONFIG_GLOBAL": str(config)}, tmp_path / "killed.log")
    killed.spawn()
    try:
        wait_until(
            lambda: any("sleep" in _name_of(p) for p in psutil.Process(killed.pid).children(recursive=True))
        )
        left = psutil.Process(killed.pid).children(recursive=True)
        groups = {os.getpgid(each.pid) for each in left}
    finally:
        killed.kill()
    for group in groups:
        os.killpg(group, signal.SIGKILL)
    assert not data.path.exists()
    wait_until(lambda: not any(map(_runs, left)), what="their end")
    assert init().returncode == 0
    assert data.head() == origin.head()
    assert not list(data.path.parent.glob(".*-init-*"))


def test_a_remote_that_is_away_leaves_nothing_behind(init, data, origin, tmp_path):
    origin.path.rename(tmp_path / "away.git")
    done = init()
    assert done.returncode == 1
    assert done.stderr.startswith("ferry: ")
    assert "origin" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not data.path.exists()
    assert not list(data.path.parent.glob(".*-init-*"))


def test_a_key_that_is_not_there_is_named_before_ssh_is_asked(init, data, origin, tmp_path):
    done = init(CFP_DATA_REMOTE="ssh://git@127.0.0.1:1/data.git", CFP_SSH_KEY_PATH=str(tmp_path / "key"))
    assert done.returncode == 1
    assert done.stderr.endswith(f"ferry: CFP_SSH_KEY_PATH: {tmp_path}/key does not exist\n")
    assert not data.path.exists()


def test_why_ssh_does_not_let_us_in_is_said_with_the_remedy(init, data, origin):
    need("ssh")
    done = init(CFP_DATA_REMOTE="ssh://git@127.0.0.1:1/data.git")
    assert done.returncode == 1
    assert "origin did not list main: network: ssh: connect to host 127.0.0.1 port 1" in done.stderr


def test_a_branch_that_the_remote_lacks_is_named(init, data, origin):
    done = init(CFP_DATA_BRANCH="live")
    assert done.returncode == 1
    assert "origin has no branch 'live'" in done.stderr
    assert not data.path.exists()


def test_nothing_there_and_no_remote_is_named(init, data, origin):
    done = init(CFP_DATA_REMOTE="")
    assert done.returncode == 1
    assert "CFP_DATA_REMOTE" in done.stderr


def test_a_working_clone_is_refused(init, data, origin):
    subprocess.run(["git", "clone", "-q", str(origin.path), str(data.path)], check=True)
    done = init()
    assert done.returncode == 1
    assert "git clone --bare" in done.stderr


@pytest.mark.parametrize("damage", ["HEAD", "pack", "objects"])
def test_a_half_made_clone_is_refused_with_the_remedy(init, data, origin, damage):
    subprocess.run(["git", "clone", "-q", "--bare", str(origin.path), str(data.path)], check=True)
    if damage == "HEAD":
        (data.path / "HEAD").unlink()
    elif damage == "pack":  # killed while it fetched
        data.git("update-ref", "-d", "refs/heads/main")
        for pack in (data.path / "objects" / "pack").glob("*"):
            pack.unlink()
        (data.path / "objects" / "pack" / "tmp_pack_abc").touch()
    else:
        tree = data.git("rev-parse", "main~1^{tree}")
        (data.path / "objects" / tree[:2] / tree[2:]).unlink()
    done = init()
    assert done.returncode == 1
    assert "ferry init" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_remotes_url_is_renewed_and_the_backlog_is_named(init, data, remote, tmp_path):
    elsewhere = Bare.init(tmp_path / "elsewhere.git")
    assert init().returncode == 0
    done = init(CFP_DATA_REMOTE=str(elsewhere.path))
    assert done.returncode == 0, done.stderr
    assert data.git("config", "remote.origin.url") == str(elsewhere.path)
    assert "commits are pending for origin" in done.stdout


def test_boot_joins_with_what_the_remote_has_by_now(init, data, origin):
    assert init().returncode == 0
    theirs = origin.commit("theirs")
    assert init().returncode == 0
    assert data.head() != theirs
    assert init(CFP_DATA_RECONCILE="boot").returncode == 0
    assert data.head() == theirs


def test_a_token_shows_in_no_process(env, data, origin, http_remote, tmp_path):
    """
    git's own clone would have the whole URL among its arguments.
    """
    web = Bare(http_remote.root / "web.git")
    origin.git("push", "-q", str(web.path), "main")
    http_remote.password = "t0ken-of-ours"
    token = tmp_path / "token"
    token.write_text("t0ken-of-ours\n")
    seen: set[str] = set()
    running = subprocess.Popen(
        [FERRY, "init"],
        env={
            **clean_environment(),
            **env,
            "CFP_DATA_REMOTE": http_remote.url("web.git"),
            "CFP_HTTPS_TOKEN_PATH": str(token),
        },
    )
    while running.poll() is None:
        for process in psutil.process_iter(["cmdline"]):
            seen.update(process.info["cmdline"] or [])
    assert running.returncode == 0
    assert data.head() == web.head()
    assert any("ls-remote" in word for word in seen)
    assert not [word for word in seen if "t0ken-of-ours" in word]


def test_a_start_reads_what_has_come_since_the_last_one(env, data, monkeypatch):
    """
    And refuses a repository that lacks something of it.
    """
    pipeline = build(env, publisher=True)
    settings, repository = pipeline.settings, pipeline.repository
    data.grow(300)
    walks = []
    run = Git.run

    def noted(self, *command, **options):
        walks.extend([command] if command[0] == "rev-list" else [])
        return run(self, *command, **options)

    monkeypatch.setattr(Git, "run", noted)
    clone.check(settings, repository)
    first = repository.head()
    data.commit("later")
    clone.check(settings, repository)
    assert [f"^{first}" in command for command in walks] == [False, True]

    lacking = data.git("commit-tree", "-p", "main", "-m", "lacks what is before it", "main^{tree}")
    last = data.git("commit-tree", "-p", lacking, "-m", "last", "main^{tree}")
    (data.path / "objects" / lacking[:2] / lacking[2:]).unlink()
    (data.path / "refs/heads/main").write_text(f"{last}\n")
    with pytest.raises(RepositoryError, match="ferry init"):
        clone.check(settings, repository)
