"""
The lines that ``ferry dev`` prints, and how commands in another terminal find its stack.
"""

from __future__ import annotations

import json
import re

import pytest

from ferry.app.dev import running
from ferry.app.dev.console import Console
from ferry.worker.errors import WorkerError


class _Still:
    def head(self):
        return None


@pytest.fixture
def said(tmp_path, capsys):
    log = tmp_path / "log"
    log.touch()
    console = Console(log, _Still())

    def look(*lines):
        with log.open("a") as file:
            file.writelines(line if isinstance(line, str) else f"{json.dumps(line)}\n" for line in lines)
        console.look()
        return [line[10:] for line in capsys.readouterr().out.splitlines()]

    return look


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {"event": "push.done", "level": "info", "remote": "origin", "commit": "c42bdcf51", "lag_ms": 41},
            "push     c42bdcf is on origin, 41 ms after the commit",
        ),
        (
            {"event": "push.done", "level": "info", "remote": "m", "commit": "c42bdcf51", "commits": 3,
             "lag_ms": 9000},
            "push     3 commits up to c42bdcf are on m, 9000 ms after the oldest of them",
        ),
        (
            {"event": "push.failed", "level": "warning", "remote": "m", "attempt": 2, "reason": "network",
             "error": "could not resolve host"},
            "trouble  m: attempt 2 failed, network: could not resolve host",
        ),
        ({"event": "push.recovered", "level": "info", "remote": "m", "reason": "auth"},
         "push     m takes pushes again, after ? s of auth"),
        ({"event": "sheet.outdated", "level": "warning", "timestamp": "t", "sheet": "a", "keys": 1},
         "trouble  sheet.outdated: sheet=a, keys=1"),
    ],
)  # fmt: skip
def test_what_happens_is_a_line(said, event, line):
    assert said(event) == [line]


def test_an_event_writes_one_line_and_no_escape_sequence(said):
    event = {"event": "push.failed", "level": "warning", "remote": "m", "attempt": 2, "reason": "rejected"}
    assert said({**event, "error": "\x1b[2Jno\u202e\nentry"}) == [
        "trouble  m: attempt 2 failed, rejected: no entry"
    ]


def test_what_tells_a_developer_nothing_is_not_shown(said):
    assert said(
        {"event": "worker.serves", "level": "info"},
        {"event": "of a library", "level": "warning", "logger": "celery.worker"},
        "no JSON\n", "[1]\n", "{}\n",
    ) == []  # fmt: skip


def test_each_process_gives_the_same_warning_and_it_is_shown_once(said):
    warning = {"event": "environment.ignored", "level": "warning", "variables": ["GIT_DIR"]}
    assert said(warning, {**warning, "timestamp": "later"}) == [
        "trouble  environment.ignored: variables=['GIT_DIR']"
    ]


def test_each_request_shows_its_own_trouble_once(said):
    trouble = {"event": "extension.failed", "level": "error", "extension": "town", "request_id": "one"}
    shown = "trouble  extension.failed: extension=town"
    assert said(trouble, {**trouble, "timestamp": "later"}) == [shown]
    assert said({**trouble, "request_id": "two"}) == [shown]


def test_a_line_is_read_once_it_is_whole(said):
    whole = json.dumps({"event": "push.disabled", "level": "warning", "hint": "no remote"})
    assert said(whole[:20]) == []
    assert said(f"{whole[20:]}\n") == ["trouble  no remote"]


@pytest.fixture
def stacks(tmp_path, monkeypatch):
    monkeypatch.setattr(running.tempfile, "tempdir", str(tmp_path))

    def directory(name):
        path = tmp_path / f"{running.PREFIX}{name}"
        path.mkdir(mode=0o700)
        return path

    return directory


def test_a_command_finds_the_settings_of_the_one_running_stack(stacks):
    settings = {
        "CFP_DATA_REPO_PATH": "/srv/a b's",
        "CFP_REDIS_URL": "redis://x/0",
        "PYTHONPATH": "/home/ana/town",
    }
    with running.announced(stacks("one"), {**settings, "HOME": "/root"}) as path:
        assert running.find() == settings
    assert running.find() == {}
    path.write_text("export CFP_DATA_REPO_PATH=/left/behind\n")
    assert running.find() == {}


def test_of_several_stacks_one_has_to_be_chosen(stacks):
    with (
        running.announced(stacks("one"), {"CFP_A": "1"}) as one,
        running.announced(stacks("two"), {"CFP_A": "2"}) as two,
        pytest.raises(WorkerError, match=re.escape(f". {one}; or . {two}")),
    ):
        running.find()


def test_a_directory_that_others_can_write_to_is_not_believed(stacks):
    directory = stacks("one")
    with running.announced(directory, {"CFP_A": "1"}):
        directory.chmod(0o777)
        assert running.find() == {}
