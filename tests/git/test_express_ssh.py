"""
The express lane over ssh: the talk that stands ready for the next push, and how it ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from ferry.worker.git.credentials import Credentials
from ferry.worker.git.express import standing
from ferry.worker.git.express.lane import _SSH_URL
from ferry.worker.git.remote import EXPRESS, Pushed, Remote, hang_up
from ferry.worker.git.repository import Repository
from tests.parts import Bare, wait_until
from tests.ssh_server import IS_MISSING, REASON, Server, ssh_server

GIT = "exit-status"


@dataclass
class Way:
    """
    The way from a repository to a remote over ssh.
    """

    repository: Repository
    data: Bare
    server: Server
    groups: list[int] = field(default_factory=list)

    def push(self, *, timeout_s: float = 30) -> Pushed:
        """
        Push one commit more, as an attempt does.
        """
        remote = Remote(self.repository, "origin", timeout_s=timeout_s)
        return remote.push(self.data.commit("next"), noted=self.groups.append)

    def ready(self) -> list[int]:
        """
        Return the process groups of the talks that stand ready.
        """
        return [waiting.talk.group for waiting in standing._waiting.values()]


@pytest.fixture
def way(deploy, data: Bare, remote: Bare, tmp_path: Path, short_directory, monkeypatch) -> Iterator[Way]:
    if IS_MISSING:
        pytest.skip(REASON)
    monkeypatch.setenv("TMPDIR", str(short_directory))
    monkeypatch.setattr("tempfile.tempdir", str(short_directory))
    with ssh_server(tmp_path) as server:
        deployed = deploy(
            CFP_DATA_REMOTE=server.url(remote),
            CFP_SSH_KEY_PATH=str(server.key),
            CFP_SSH_KNOWN_HOSTS=str(server.known_hosts),
        )
        found = Way(deployed.repository, data, server)
        assert found.push().verdict.rule == GIT, "what a remote has is not known before"
        yield found
        standing.close()
        hang_up(deployed.repository)


def test_each_push_uses_the_talk_that_the_last_one_has_begun(way: Way, remote: Bare):
    for _ in range(3):
        before = way.ready()
        assert way.push().verdict.rule == EXPRESS
        assert remote.head() == way.data.head() == way.repository.remote_head("origin")
        assert before in ([], way.groups[-1:])
        assert way.ready() != before
    assert way.server.logins() == 1
    [last] = way.ready()
    standing.close()
    assert not psutil.pid_exists(last)


def test_a_talk_that_the_host_has_ended_is_begun_again(way: Way, remote: Bare):
    way.push()
    [group] = way.ready()
    psutil.Process(group).kill()
    wait_until(lambda: psutil.Process(group).status() == psutil.STATUS_ZOMBIE, what="the end of the talk")

    assert way.push().verdict.rule == EXPRESS

    assert way.groups[-1] != group
    assert remote.head() == way.data.head()


def test_what_others_have_pushed_while_a_talk_stood_ready_is_not_overwritten(way: Way, remote: Bare):
    way.push()
    theirs = remote.commit("theirs")
    refused = way.push()
    assert refused.verdict.reason == "non-fast-forward"
    assert remote.head() == theirs
    assert way.ready() == []


def test_a_talk_ends_when_it_was_not_needed_for_a_while(way: Way, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(standing, "IDLE_S", 0.01)
    way.push()
    wait_until(lambda: not way.ready(), what="the end of the talk")
    children = psutil.Process().children
    wait_until(lambda: not [each for each in children() if each.name() == "ssh"], what="the end of its ssh")


def test_a_key_that_was_renewed_is_used_at_once(way: Way, remote: Bare):
    way.push()
    ready = way.ready()
    os.utime(way.server.key, (1, 1))
    way.push()
    assert way.groups[-1] not in ready
    assert remote.head() == way.data.head()


def test_a_worker_of_many_repositories_keeps_no_talk_ready(way: Way):
    way.repository.name = "town"
    assert way.push().verdict.rule == EXPRESS
    assert way.ready() == []


def test_a_fork_leaves_the_talks_to_its_parent(way: Way):
    """
    It closes its copies of the pipes, and does not speak: both would send a request of their own.
    """
    way.push()
    [group] = way.ready()
    standing._forget_parents()
    assert way.ready() == []
    os.waitpid(group, 0)  # here both are one process, so the talk has lost its input


@pytest.mark.parametrize("variable", ["GIT_SSH", "GIT_SSH_COMMAND"])
def test_another_ssh_is_git_s_to_run(way: Way, variable: str):
    environ = {**os.environ, variable: "ssh"}
    given = way.repository.credentials
    credentials = Credentials(
        remotes=given.remotes, key=given.key, known_hosts=given.known_hosts, environ=environ
    )
    way.repository = Repository(way.repository.path, branch="main", credentials=credentials, express=True)
    way.groups.clear()
    pushed = way.push()
    assert pushed.verdict.rule != EXPRESS
    assert len(way.groups) == 1


def test_an_ssh_of_the_configuration_is_git_s_to_run(way: Way, data: Bare):
    data.git("config", "core.sshCommand", "ssh -v")
    assert way.push().verdict.rule == GIT


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("ssh://git@git.example.org/town/data.git", "git@git.example.org", None, "/town/data.git"),
        ("ssh://git.example.org:2222/town/data.git", "git.example.org", "2222", "/town/data.git"),
        ("git@git.example.org:town/data.git", "git@git.example.org", None, "town/data.git"),
        ("git.example.org:/srv/data.git", "git.example.org", None, "/srv/data.git"),
    ],
)
def test_an_ordinary_address_is_taken_apart_as_git_does(url, host, port, path):
    found = _SSH_URL.fullmatch(url)
    assert found
    assert (found["host"] or found["name"], found["port"]) == (host, port)
    assert (found["path"] or found["short"]) == path


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.org/data.git", "git://git.example.org/data.git", "ssh://-oProxyCommand=x/data",
        "-oProxyCommand=x:data", "ssh://git@[::1]/data.git", "ssh://host/~ana/data.git", "host:'data'",
        "host:data;true", "host:-data", "ssh://host/$(true)", "git+ssh://host/data.git", "host:da ta",
        "a/b:c", "ssh://user:password@host/data.git", "host:", "ssh://host", "ssh://host:/data",
    ],
)  # fmt: skip
def test_an_unusual_address_is_left_to_git(url: str):
    assert not _SSH_URL.fullmatch(url)
