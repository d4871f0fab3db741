"""
What git is let in with: the ssh command as ssh itself reads it, keys that are too open, a token in a file.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from ferry.worker.errors import RepositoryError, SettingsError
from ferry.worker.git import credentials as credentials_module
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.remote import Remote, hang_up
from ferry.worker.git.repository import Repository
from tests.git_http import GitHttpServer
from tests.line import Deployment
from tests.needs import need
from tests.parts import Bare

URL = "ssh://git@git.town.example/data.git"


@pytest.fixture(autouse=True)
def private_place(tmp_path: Path, short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # tmp_path is asked for so that pytest has its own place before this one is all there is.
    monkeypatch.setattr(credentials_module.tempfile, "tempdir", str(short_directory))
    return short_directory


def _ssh_command(url: str = URL, **given) -> str:
    return Credentials(remotes={"origin": url}, **given).environment("origin")["GIT_SSH_COMMAND"]


def _effective(command: str, *, host: str = "git.town.example") -> dict[str, list[str]]:
    """
    Return what ssh itself makes of the options in *command*.
    """
    need("ssh")
    shown = subprocess.run(["sh", "-c", f"{command} -G {host}"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    options: dict[str, list[str]] = {}
    for line in shown.stdout.splitlines():
        name, _, value = line.partition(" ")
        options.setdefault(name, []).append(value)
    return options


def test_an_ssh_command_that_is_set_is_used_as_it_is():
    given = "ssh -F '/etc/ferry config' -v"
    environ = {"GIT_SSH_COMMAND": given}
    assert _ssh_command(environ=environ, key=Path("/key"), known_hosts=Path("/hosts")) == given


@pytest.mark.parametrize("environ", [{}, {"GIT_SSH_COMMAND": ""}], ids=["unset", "empty"])
def test_ssh_neither_prompts_nor_hangs(environ: dict[str, str]):
    command = _ssh_command(environ=environ)

    assert shlex.split(command)[0] == "ssh"
    options = _effective(command)
    assert options["batchmode"] == ["yes"]
    assert 0 < int(options["connecttimeout"][0]) <= 60
    assert 0 < int(options["serveraliveinterval"][0]) * int(options["serveralivecountmax"][0]) <= 60


@pytest.mark.parametrize("path", ["/run/ferry/key", "/run/ferry files/key", "/run/it's/key"])
def test_ssh_offers_that_key_and_trusts_those_hosts_and_no_others(path: str):
    options = _effective(_ssh_command(key=Path(path), known_hosts=Path(f"{path}.hosts")))

    assert options["identityfile"] == [path]
    assert options["identitiesonly"] == ["yes"]
    assert options["userknownhostsfile"] == [f"{path}.hosts"]
    assert options["stricthostkeychecking"] in (["yes"], ["true"])


def test_a_connection_is_shared_by_those_with_the_same_url_and_the_same_key(tmp_path: Path):
    """
    Another URL, another key, or the same key renewed has a connection of its own.
    """
    key, other = tmp_path / "key", tmp_path / "other"
    for path in (key, other):
        path.write_text("a key")
        path.chmod(0o600)

    def socket_of(url: str = URL, **given) -> str:
        options = _effective(_ssh_command(url, **given))
        assert options["controlmaster"] == ["auto"]
        return options["controlpath"][0]

    first = socket_of(key=key)
    assert socket_of(key=key) == first
    assert len({first, socket_of(), socket_of(key=other), socket_of("git@elsewhere.example:x", key=key)}) == 4
    os.utime(key, (1, 1))
    assert socket_of(key=key) != first


@pytest.mark.parametrize("url", ["/srv/remote.git", "file:///srv/remote.git", "https://git.example/x.git"])
def test_nothing_is_shared_with_a_remote_that_is_not_reached_by_ssh(url: str):
    assert "ControlMaster" not in _ssh_command(url)


def test_nothing_is_shared_where_the_socket_would_have_too_long_a_name(monkeypatch, tmp_path: Path):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(credentials_module.tempfile, "tempdir", str(long))
    assert "ControlMaster" not in _ssh_command()


def test_a_key_that_others_may_read_is_used_from_a_private_copy(tmp_path: Path):
    """
    So it comes from a Kubernetes secret, and ssh would refuse it.
    """
    key = tmp_path / "key"
    key.write_text("one")
    key.chmod(0o640)
    [copy] = map(Path, _effective(_ssh_command(key=key))["identityfile"])
    assert copy.read_text() == "one"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700

    key.write_text("two")
    [renewed] = map(Path, _effective(_ssh_command(key=key))["identityfile"])
    assert renewed.read_text() == "two"

    key.chmod(0o600)
    assert _effective(_ssh_command(key=key))["identityfile"] == [str(key)]


def test_a_private_directory_that_is_not_ours_alone_is_refused(tmp_path: Path, private_place: Path):
    (private_place / f"ferry-{os.getuid()}").mkdir(mode=0o755)
    key = tmp_path / "key"
    key.write_text("one")
    key.chmod(0o644)
    with pytest.raises(RepositoryError, match="TMPDIR"):
        _ssh_command(key=key)


def test_hanging_up_with_nobody_there_is_nothing(deploy):
    deployed: Deployment = deploy(CFP_DATA_REMOTE=URL)
    repository = _repository(deployed)
    hang_up(repository)
    path = Path(_effective(_ssh_command())["controlpath"][0])
    with socket.socket(socket.AF_UNIX) as gone:  # its listener died
        gone.bind(str(path))
    hang_up(repository, "origin")


def test_git_uses_the_ssh_command_it_was_given(data: Bare, deploy, tmp_path: Path):
    deployed: Deployment = deploy(CFP_DATA_REMOTE="ssh://git@127.0.0.1/data.git")
    called = tmp_path / "called"
    fake = tmp_path / "ssh.sh"
    fake.write_text(f'#!/bin/sh\necho "$@" > {called}\nexit 255\n')
    fake.chmod(0o755)
    environ = {"GIT_SSH_COMMAND": f"{fake} -o Marker=yes"}
    repository = _repository(deployed, environ)

    finished = Remote(repository, "origin", timeout_s=20).push(repository.head() or "")

    assert finished.exit_status == 128
    assert re.search(r"Marker=yes.*git@127\.0\.0\.1 git-receive-pack '/data\.git'", called.read_text())


# --- A token in a file ---


def _repository(deployed: Deployment, environ: dict[str, str] | None = None) -> Repository:
    settings = deployed.settings
    credentials = Credentials.from_settings(settings, environ or {})
    return Repository(settings.data_repo_path, branch="main", credentials=credentials)


@pytest.fixture
def guarded(http_remote: GitHttpServer, deploy, tmp_path: Path):
    """
    A remote that asks for the password ``t0ken``, and a file to hold it.
    """
    http_remote.password = "t0ken"
    token = tmp_path / "token file"
    deployed = deploy(CFP_DATA_REMOTE=http_remote.url("web.git"), CFP_HTTPS_TOKEN_PATH=str(token))
    return _repository(deployed), token


@pytest.mark.parametrize("content", ["t0ken", "t0ken\n", "ana:t0ken\n"])
def test_a_token_is_read_from_its_file_at_each_push(guarded, data: Bare, content: str):
    """
    Renewed, the next push has it, with no restart.
    """
    repository, token = guarded
    token.write_text("expired\n")
    assert Remote(repository, "origin", timeout_s=20).push(data.head()).exit_status == 128
    token.write_text(content)
    finished = Remote(repository, "origin", timeout_s=20).push(data.head())
    assert finished.exit_status == 0, finished.stderr
    assert "t0ken" not in finished.stdout + finished.stderr


def test_a_token_file_that_is_missing_is_named(guarded, data: Bare):
    repository, token = guarded
    finished = Remote(repository, "origin", timeout_s=20).push(data.head())
    assert finished.exit_status == 128
    assert str(token) in finished.stderr


def test_the_token_is_for_the_host_of_origin_alone(tmp_path: Path):
    credentials = Credentials(
        remotes={"origin": "https://ana@git.example:8443/data.git", "backup": "https://else.example/x"},
        token_file=tmp_path / "token",
    )
    (no_other, _), (helper, answer) = credentials.configuration("backup")
    assert no_other == helper == "credential.https://git.example:8443.helper"
    assert str(tmp_path / "token") == credentials.environment("backup")["FERRY_TOKEN_FILE"]
    assert "FERRY_TOKEN_FILE" in answer


def test_a_token_for_a_remote_without_http_is_refused_at_the_start(deploy, tmp_path: Path):
    with pytest.raises(SettingsError, match="CFP_HTTPS_TOKEN_PATH"):
        deploy(CFP_HTTPS_TOKEN_PATH=str(tmp_path / "token"))
