"""
The express lane over HTTP and HTTPS: one request on a kept connection, and what is left to git.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ferry.worker.git.credentials import Credentials
from ferry.worker.git.express import web
from ferry.worker.git.express.web import Place
from ferry.worker.git.remote import ASKED, EXPRESS, Pushed, Remote
from ferry.worker.git.repository import Repository
from tests.git_http import GitHttpServer, git_http_server, make_certificate
from tests.line import Deployment
from tests.parts import Bare, wait_until

GIT = "exit-status"


@dataclass
class Way:
    """
    The way from a repository to a remote over HTTP.
    """

    repository: Repository
    data: Bare
    remote: Bare
    server: GitHttpServer

    def push(self, *, timeout_s: float = 30) -> Pushed:
        """
        Push one commit more, as an attempt does.
        """
        remote = Remote(self.repository, "origin", timeout_s=timeout_s)
        self.server.requests.clear()
        return remote.push(self.data.commit("next"), noted=lambda group: None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitHttpServer]:
    root = tmp_path / "web"
    root.mkdir()
    certificate = make_certificate(tmp_path / "certificate.pem")
    with git_http_server(root, certificate) as running:
        yield running


@pytest.fixture
def remote(server: GitHttpServer) -> Bare:
    bare = Bare.init(server.root / "web.git")
    bare.git("config", "http.receivepack", "true")
    return bare


@pytest.fixture
def go(
    deploy: Callable[..., Deployment], data: Bare, remote: Bare, server: GitHttpServer, tmp_path, monkeypatch
) -> Iterator[Callable[..., Way]]:
    for name in os.environ:
        if name.startswith(("GIT_SSL_", "SSL_CERT_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_SSL_CAINFO", str(tmp_path / "certificate.pem"))
    monkeypatch.setenv("HOME", str(tmp_path))

    def gone(url: str = "", **env: str) -> Way:
        deployed = deploy(CFP_DATA_REMOTE=url or server.url("web.git"), **env)
        credentials = Credentials.from_settings(deployed.settings, os.environ)
        found = Way(Repository.of(deployed.settings, credentials), data, remote, server)
        assert found.push().verdict.rule == GIT, "what a remote has is not known before"
        return found

    yield gone
    web._forget_parents()


@pytest.fixture
def way(go) -> Way:
    return go()


def test_a_push_is_one_request_on_a_kept_connection(way: Way):
    assert way.push().verdict.rule == EXPRESS
    asked, connections = "GET /web.git/info/refs?service=git-receive-pack", way.server.connections
    assert way.server.requests == [asked, "POST /web.git/git-receive-pack"]
    for _ in range(2):
        assert way.push().verdict.rule == EXPRESS
        assert way.server.requests == ["POST /web.git/git-receive-pack"]
        assert way.remote.head() == way.data.head() == way.repository.remote_head("origin")
    assert way.server.connections == connections
    assert way.remote.git("fsck", "--full") == ""


@pytest.mark.parametrize("how", ["the server", "its age"])
def test_a_connection_that_has_ended_is_opened_again(way: Way, how: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web, "KEPT_FOR_S", 60.0 if how == "the server" else 0.01)
    way.push()
    [known] = web._known.values()
    if how == "the server":
        known.connection.sock.shutdown(socket.SHUT_RD)
    else:
        wait_until(lambda: known.connection.sock is None, what="the end of the connection")
    connections = way.server.connections
    assert way.push().verdict.rule == EXPRESS
    assert way.server.requests == ["POST /web.git/git-receive-pack"]
    assert way.server.connections == connections + 1


def test_a_token_in_a_file_lets_in_and_a_renewed_one_at_once(go, server: GitHttpServer, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("first\n")
    server.password = "first"
    way = go(CFP_HTTPS_TOKEN_PATH=str(token))
    assert way.push().verdict.rule == EXPRESS
    token.write_text("ana:second\n")
    server.password = "second"
    assert way.push().verdict.rule == EXPRESS
    server.password = "third"
    assert way.push().verdict.reason == "auth"


def test_a_password_in_the_url_lets_in(go, server: GitHttpServer):
    server.password = "s3/cret"
    way = go(server.url("web.git").replace("://", "://ana:s3%2Fcret@"))
    assert way.push().verdict.rule == EXPRESS


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("drop-reply", ASKED), ("truncate-reply", ASKED), ("502-after", ASKED), ("redirect", ASKED),
        ("say-more", ASKED), ("another-type", ASKED),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_plain_success_is_not_believed(way: Way, fault: str, rule: str):
    """
    git finds the commit there, and does not send it again.
    """
    way.push()
    way.server.fault, pushes = fault, way.server.pushes
    pushed = way.push()
    assert (pushed.verdict.reason, pushed.verdict.rule) == ("pushed", rule)
    assert way.remote.head() == way.data.head()
    assert way.server.pushes == pushes + 1


@pytest.mark.parametrize("fault", [401, 403, 404, 500])
def test_a_failure_is_named_by_git(way: Way, fault: int):
    way.push()
    way.server.fault = fault
    failed = way.push()
    assert failed.verdict.reason == {401: "auth", 403: "auth", 404: "not-found", 500: "server"}[fault]
    way.server.fault = None
    assert way.push().verdict.rule == GIT
    assert way.push().verdict.rule == EXPRESS


@pytest.mark.parametrize("fault", ["hang", "trickle"])
def test_a_server_that_hangs_is_left_at_the_timeout(way: Way, fault: str):
    way.push()
    way.server.fault = fault
    begun = time.monotonic()
    late = way.push(timeout_s=1)
    assert (late.exit_status, late.verdict.reason, late.verdict.ambiguous) == (None, "timeout", True)
    assert time.monotonic() - begun < 20
    assert web._known == {}


def test_what_others_have_pushed_is_not_overwritten(way: Way):
    way.push()
    theirs = way.remote.commit("theirs")
    assert way.push().verdict.reason == "non-fast-forward"
    assert way.remote.head() == theirs


def test_a_certificate_that_is_not_trusted_is_named_by_git(way: Way, tmp_path: Path, monkeypatch):
    way.push()
    other = make_certificate(tmp_path / "other.pem")
    monkeypatch.setenv("GIT_SSL_CAINFO", str(other))
    assert way.push().verdict.reason == "host-key"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("http.extraHeader", "X-Town: x"),
        ("http.proxy", ""),
        ("remote.origin.proxy", ""),
        ("http.sslVerify", "1"),
    ],
)
def test_a_configuration_about_http_is_git_s_to_obey(way: Way, data: Bare, key: str, value: str):
    data.git("config", key, value)
    assert way.push().verdict.rule == GIT


@pytest.mark.parametrize(
    ("name", "value"), [("https_proxy", ""), ("GIT_HTTP_LOW_SPEED_LIMIT", "1"), ("GIT_SSL_CAPATH", "/none")]
)
def test_a_variable_about_http_is_git_s_to_obey(way: Way, monkeypatch: pytest.MonkeyPatch, name, value):
    monkeypatch.setenv(name, value)
    way.push()
    assert (way.server.requests[0] != "POST /web.git/git-receive-pack") or not value
    place = Place.of(way.server.url("web.git"), {name: value or "x"}, None)
    assert place is None


def test_a_netrc_is_git_s_to_read(way: Way, tmp_path: Path):
    (tmp_path / ".netrc").write_text("machine elsewhere.example login ana password x\n")
    assert way.push().verdict.rule == GIT


@pytest.mark.parametrize(
    "url",
    [
        "https://ana@git.example.org/data.git", "https://git.example.org/data.git?x=1", "https://[::1]/data.git",
        "https://git.example.org", "https://git.example.org/a b", "https://git.example.org:many/data.git",
        "ftp://git.example.org/data.git", "https://git.example.org/%7Eana",
    ],
)  # fmt: skip
def test_an_unusual_address_is_left_to_git(url: str):
    assert Place.of(url, {"HOME": "/nonexistent"}, None) is None


def test_a_place_does_not_show_its_password():
    place = Place.of("https://ana:s3cret@git.example.org/data.git", {"HOME": "/nonexistent"}, None)
    assert place
    assert "s3cret" not in repr(place)
