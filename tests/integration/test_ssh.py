"""
Pushing over real ssh: a deploy key, a host key that is known, and both wrong.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.dev import accepts, free_port
from tests.parts import Bare, wait_until

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(
    SSHD is None and not os.environ.get("CI"),
    reason="needs sshd, which PyPI does not carry: apt install openssh-server",
)


@dataclass(frozen=True)
class Server:
    port: int
    directory: Path

    @property
    def key(self):
        return self.directory / "deploy-key"

    @property
    def known_hosts(self):
        return self.directory / "known_hosts"

    def url(self, bare):
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{bare.path}"


def _make_key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


@pytest.fixture
def server(tmp_path):
    """
    An sshd of our own, on loopback, that takes one key and nothing else.
    """
    directory = tmp_path / "ssh files"  # a blank in the path, as people have them
    directory.mkdir(mode=0o700)
    host_key = _make_key(directory / "host-key")
    (directory / "authorized_keys").write_text(_make_key(directory / "deploy-key"))
    running = Server(free_port(), directory)
    running.known_hosts.write_text(f"[127.0.0.1]:{running.port} {host_key}")
    config = directory / "sshd_config"
    config.write_text(
        f'HostKey "{directory}/host-key"\nAuthorizedKeysFile "{directory}/authorized_keys"\nPidFile none\n'
        "ListenAddress 127.0.0.1\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd drops its privileges
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config), "-p", str(running.port)], stderr=log)
    try:
        wait_until(lambda: accepts(running.port), what="sshd")
        yield running
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def env(env, server, remote):
    return {
        **env,
        "CFP_DATA_REMOTE": server.url(remote),
        "CFP_SSH_KEY_PATH": str(server.key),
        "CFP_SSH_KNOWN_HOSTS": str(server.known_hosts),
    }


def _write(api):
    return api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"}).json["commit"][
        "hash"
    ]


def test_a_commit_arrives_over_ssh(client, worker, remote):
    api = client()
    worker()
    commit = _write(api)
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")


def test_a_host_key_that_is_not_known_is_refused_and_never_learnt(client, worker, server, remote, sentry):
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {_make_key(server.directory / 'another')}")
    before = server.known_hosts.read_text()
    client()
    running = worker(SENTRY_DSN=sentry.dsn)

    assert running.await_event("push.failed")["reason"] == "host-key"
    wait_until(lambda: sentry.events, what="the page")
    assert remote.head() is None
    assert server.known_hosts.read_text() == before


def test_a_key_that_is_not_accepted_heals_when_it_is(client, worker, server, remote):
    """
    The right is given later: the next attempt uses it, with no restart.
    """
    accepted = (server.directory / "authorized_keys").read_text()
    (server.directory / "authorized_keys").write_text("")
    api, running = client(), worker()
    commit = _write(api)
    assert running.await_event("push.failed")["reason"] == "auth"

    (server.directory / "authorized_keys").write_text(accepted)
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")


def test_a_repository_that_is_not_there_is_named(client, worker, server, env, tmp_path):
    env["CFP_DATA_REMOTE"] = server.url(Bare(tmp_path / "nowhere.git"))
    client()
    assert worker().await_event("push.failed")["reason"] == "not-found"
