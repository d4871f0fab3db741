"""
A pytest plugin for the tests of an extension: the API over a data repository and a remote of the test's own.

It is loaded by ``pytest_plugins = ["ferry.testing"]`` in the ``conftest.py`` at the top of your tests. A test
takes the fixture ``ferry``, which is a ``ferry.testing.Ferry``. Two fixtures are there to be overridden:

- ``ferry_settings``: settings by the names of their variables, such as ``{"CFP_API_EXTENSIONS": "town"}``.
  What ``CFP_*`` variables your own environment has does not count.
- ``ferry_files``: what the data repository begins with, as texts by path, or as the ``Path`` of a directory.
  By default it is the sample of ``ferry dev``, with the sheets people, places and events.

API, rules, pushes and what follows them run in the test's process, on real repositories of git. No broker and
no worker is started. ``pip install 'gitsheets-ferry[testing]'`` installs pytest, too.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from ferry import Caller, Extension
from ferry.app.dev.sample import make_sample_repository
from ferry.app.factory import build_app
from ferry.app.services import EXTENSION, Services
from ferry.extension import EVENTS, Event
from ferry.worker.after.work import Work
from ferry.worker.bootstrap import build
from ferry.worker.enqueue import PushQueue
from ferry.worker.errors import PushError, RepositoryError
from ferry.worker.git.command import Git
from ferry.worker.process.gitpython import git
from ferry.worker.push import Request

__all__ = ["Commit", "Ferry", "NotPushed", "Repository", "ferry", "ferry_files", "ferry_settings"]

Files = Mapping[str, str | None] | Path | None

_OURS = ("CFP_", "SENTRY_", "OTEL_")
_BRANCH = "refs/heads/main"


class NotPushed(Exception):
    """
    ``Ferry.push`` did not bring the commits to the remote.

    Attributes:
        reason: The reason by Ferry's name, such as ``non-fast-forward`` or ``rejected``.
    """

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(said)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Commit:
    """
    A commit of a ``Repository``.

    Attributes:
        hash: Its object name.
        author: The author's name.
        subject: The first line of its message.
    """

    hash: str
    author: str
    subject: str


class Repository:
    """
    A bare repository of a test, and its branch ``main``.

    Attributes:
        path: Its directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def head(self) -> str | None:
        """
        The object name of the last commit; None before the first.
        """
        return self.git("for-each-ref", "--format=%(objectname)", _BRANCH).strip() or None

    def files(self) -> list[str]:
        """
        Return the paths of all files, sorted.
        """
        return self.git("ls-tree", "-r", "-z", "--name-only", "--full-tree", _BRANCH).split("\0")[:-1]

    def read(self, path: str) -> str:
        """
        Return the text of a file.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if path not in self.files():
            raise FileNotFoundError(path)
        return self.git("cat-file", "blob", f"{_BRANCH}:{path}")

    def record(self, path: str) -> dict[str, Any]:
        """
        Return the fields of a record's file, such as ``people/jane.toml``.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return tomllib.loads(self.read(path))

    def log(self) -> list[Commit]:
        """
        Return the commits, the newest first.
        """
        if self.head is None:
            return []
        lines = (
            self.git("log", "-z", "--topo-order", "--format=%H%n%an%n%s", _BRANCH).rstrip("\0").split("\0")
        )
        return [Commit(*each.split("\n", 2)) for each in lines]

    def commit(self, files: Mapping[str, str | None], *, message: str = "edit", author: str = "Sam") -> str:
        """
        Commit texts by path, as a person with a clone would; None deletes a file. Returns the commit.
        """
        lines = [
            f"D {path}\n" if text is None else f"M 100644 inline {path}\ndata {len(text.encode())}\n{text}\n"
            for path, text in files.items()
        ]
        who = f"{author} <{author.lower()}@example.org> {int(time.time())} +0000"
        head = f"commit {_BRANCH}\nauthor {who}\ncommitter {who}\ndata {len(message.encode())}\n{message}\n"
        if self.head:
            head += f"from {self.head}\n"
        with tempfile.TemporaryFile() as stream:
            stream.write(f"{head}{''.join(lines)}\n".encode())
            stream.seek(0)
            Git(self.path).query("fast-import", "--quiet", stdin=stream)
        return str(self.head)

    def git(self, *arguments: str) -> str:
        """
        Run a git command here; returns what it prints.

        Raises:
            RuntimeError: It fails.
        """
        try:
            return Git(self.path).query(*arguments)
        except RepositoryError as exc:
            raise RuntimeError(str(exc)) from exc


class Ferry:
    """
    The API with your extensions, over a data repository and its remote. The fixture ``ferry`` is one.

    Attributes:
        app: The Flask app.
        data: The data repository.
        remote: Its remote, which has all of its commits at the beginning.
        client: A Flask test client with the token of a caller ``tester``, who may read and write every sheet.
    """

    def __init__(self, app: Flask, data: Repository, remote: Repository) -> None:
        self.app = app
        self.data = data
        self.remote = remote
        self._callers: dict[str, Caller] = {}
        known = Extension("testing")
        known.authenticate(lambda request: self._callers.get(request.headers.get("Authorization", "")))
        services: Services = app.extensions[EXTENSION]
        self._hooks = [extension.hooks.after for extension in services.extensions]
        self._pipeline = services.pipeline
        self._work = Work(services.pipeline.repository, services.pipeline.ledger)
        self._positions = {event: self._work.now(event) for event in EVENTS}
        app.extensions[EXTENSION] = replace(
            services,
            extensions=(known, *services.extensions),
            push_queue=PushQueue(services.pipeline.celery, []),  # no worker would take a message
        )
        self.client = self.client_of("tester")

    def client_of(self, name: str, scopes: Sequence[str] = ("read:*", "write:*")) -> FlaskClient:
        """
        Return a Flask test client with a token of its own, that of the caller *name*.

        Args:
            scopes: As those of ``ferry.Caller``.
        """
        authorization = f"Bearer {secrets.token_hex(16)}"
        self._callers[authorization] = Caller(name, scopes)
        client = self.anonymous()
        client.environ_base["HTTP_AUTHORIZATION"] = authorization
        return client

    def anonymous(self) -> FlaskClient:
        """
        Return a Flask test client without a token: for logins of your own, and for unknown senders.
        """
        return self.app.test_client()

    def push(self) -> None:
        """
        Do what the worker does: push what the remote lacks, and call the functions under ``after_commit``,
        ``after_push`` and ``after_divergence`` for what has happened. An exception in them is raised here;
        the next ``push`` calls them again.

        Raises:
            NotPushed: The remote did not accept it.
        """
        try:
            self._call("commit")
            self._push()
        finally:
            self._call("divergence")
        self._call("push")

    def _push(self) -> None:
        for name in self._pipeline.settings.remotes:
            try:
                said = self._pipeline.pusher.push(Request(remote=name, chain="test", occasion="operator"))
            except PushError as exc:
                raise NotPushed(exc.reason, str(exc)) from exc
            if not self._pipeline.repository.is_pushed(name):
                raise NotPushed("unknown", f"{name}: {said}")

    def _call(self, event: Event) -> None:
        for _, given, position in self._work.items(event, self._positions[event]):
            for hooks in self._hooks:
                for function in hooks.get(event, ()):
                    function(given)
            self._positions[event] = position

    def follow(self) -> None:
        """
        Take over what was committed to the remote, as the worker does after a webhook.
        """
        self._pipeline.follower.follow()


@pytest.fixture
def ferry_settings() -> Mapping[str, str]:
    """
    Settings for the API, by the names of their variables. Override it, to name your extension.
    """
    return {}


@pytest.fixture
def ferry_files() -> Files:
    """
    What the data repository begins with: texts by path, or a directory; None: the sample of ``ferry dev``.
    """
    return None


@pytest.fixture
def ferry(
    ferry_settings: Mapping[str, str],
    ferry_files: Files,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ferry]:
    """
    The API with your extensions, over a data repository and a remote that end with the test.
    """
    home = tmp_path_factory.mktemp("ferry")
    data, remote = home / "data.git", home / "remote.git"
    _make_data(data, ferry_files, tmp_path_factory.getbasetemp() / "ferry-sample.git")
    git.Repo.init(remote, bare=True, initial_branch="main").close()
    env = {
        "CFP_DATA_REPO_PATH": str(data),
        "CFP_DATA_REMOTE": str(remote),
        "CFP_REDIS_URL": "redis://127.0.0.1:1/0",
        **ferry_settings,
    }
    with _environment(env), _logging(), _running(env) as app:
        yield Ferry(app, Repository(data), Repository(remote))


def _make_data(path: Path, files: Files, sample: Path) -> None:
    if files is None:
        if not sample.exists():
            make_sample_repository(sample)
        shutil.copytree(sample, path)
        return
    if isinstance(files, Path):
        found = sorted(each for each in files.rglob("*") if each.is_file())
        if not found:
            raise FileNotFoundError(f"ferry_files: there is no file in {files}")
        files = {each.relative_to(files).as_posix(): each.read_text("utf-8") for each in found}
    git.Repo.init(path, bare=True, initial_branch="main").close()
    Repository(path).commit(files, message="The beginning")


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """
    Set *env* for the block, and nothing else of Ferry's: extensions read their own settings there.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [each for each in os.environ if each.startswith(_OURS)]:
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        yield


@contextmanager
def _logging() -> Iterator[None]:
    """
    Log as Ferry does for the block, to the standard error that pytest captures.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _running(env: Mapping[str, str]) -> Iterator[Flask]:
    pipeline = build(env, publisher=True)
    pipeline.pusher.push(Request(remote="origin", chain="test", occasion="operator"))
    app = build_app(env, open_access=False)
    try:
        yield app
    finally:
        app.extensions[EXTENSION].pipeline.watchdog.stop()
