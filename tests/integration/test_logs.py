"""
That every line of a process has one form, whoever wrote it, and gives no secret away.

Logging is configured once per process, so each test looks at a process of its own.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import nursery
from tests.parts import clean_environment

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s3cr3t-w0rd"
URL = f"https://ana:{SECRET}@host/data.git"
_STRICTLY = """
import warnings
warnings.simplefilter("error")
"""
_BEGIN = """
import logging
from pathlib import Path
from ferry.worker.observe.logs import configure, log
configure()
"""


def _lines(script: str) -> list[dict[str, Any]]:
    """
    Return what a process that runs *script* after ``configure()`` logs, one object for each line.
    """
    ran = nursery.run([sys.executable, "-c", _STRICTLY + _BEGIN + script], env=os.environ, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "", "the log goes to standard error and to nowhere else"
    return [json.loads(line) for line in ran.stderr.splitlines()]


def test_an_event_is_one_line_of_json_with_its_fields():
    (line,) = _lines(
        "log().info('push.done', remote='origin', commits=3, lag_ms=1.5, commit=None, there=True)"
    )

    assert (line["event"], line["level"]) == ("push.done", "info")
    fields = {name: line[name] for name in ("remote", "commits", "lag_ms", "commit", "there")}
    assert fields == {"remote": "origin", "commits": 3, "lag_ms": 1.5, "commit": None, "there": True}
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


def test_a_value_with_line_breaks_stays_on_one_line():
    (line,) = _lines(r"log().warning('push.failed', error='one\ntwo\r\nthree \u2028 four')")
    assert line["error"] == "one\ntwo\r\nthree \u2028 four"


def test_what_json_does_not_know_is_written_out():
    (line,) = _lines("log().info('x', path=Path('/srv'), error=ValueError('no'), both={1, 2})")
    assert (line["path"], line["error"]) == ("/srv", "no")


def test_other_libraries_lines_have_the_same_form():
    """
    Their logger is named, their message is the event, its arguments put in.
    """
    ours, theirs = _lines(
        "log().warning('push.failed')\nlogging.getLogger('celery.worker').warning('lost %d of %s', 3, 'many')"
    )

    assert ours.keys() - {"logger"} == theirs.keys() - {"logger"}
    assert (theirs["event"], theirs["level"]) == ("lost 3 of many", "warning")
    assert theirs["logger"] == "celery.worker"


@pytest.mark.parametrize("logger", ["log()", "logging.getLogger('other')"])
def test_an_exception_is_part_of_its_line(logger: str):
    (line,) = _lines(f"try:\n    1 / 0\nexcept ZeroDivisionError:\n    {logger}.exception('it.failed')")

    assert (line["event"], line["level"]) == ("it.failed", "error")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "call",
    [
        "log().warning('push.failed', error={!r})",
        "log().warning({!r})",
        "logging.getLogger('other').warning({!r})",
        "logging.getLogger('other').warning('to %s', {!r})",
        "log().exception('x', exc_info=ValueError({!r}))",
        "logging.getLogger('other').error('x', exc_info=ValueError({!r}))",
        "log().warning('push.failed', error=ValueError({!r}))",
        "log().warning('push.failed', context={{'remote': {!r}}})",
        "log().warning('push.failed', lines=['To ' + {!r}])",
        "log().warning('push.failed', deep=[(dict(deeper=ValueError({!r})),)])",
    ],
)
def test_no_line_gives_a_secret_away(call: str):
    """
    Wherever in the line it stands, and whoever wrote it.
    """
    (line,) = _lines(call.format(URL))

    assert SECRET not in json.dumps(line)
    assert "https://***@host/data.git" in json.dumps(line)


def test_details_of_other_libraries_are_left_out_and_their_warnings_are_not():
    lines = _lines(
        "for name in ('kombu.connection', 'git.cmd', 'urllib3', 'amqp'):\n"
        "    logging.getLogger(name).info('detail')\n"
        "    logging.getLogger(name).warning('trouble')\n"
        "logging.getLogger('celery.worker').debug('detail')\n"
        "log().debug('detail')\n"
        "logging.getLogger('celery.worker').info('ready')"
    )
    assert [line["event"] for line in lines] == ["trouble"] * 4 + ["ready"]


def test_configuring_twice_writes_nothing_twice():
    """
    Celery asks for it again after Ferry has done it.
    """
    lines = _lines(
        "log().info('one')\nconfigure()\nlog().info('two')\nlogging.getLogger('x').warning('three')"
    )
    assert [line["event"] for line in lines] == ["one", "two", "three"]


def test_a_person_at_a_terminal_gets_it_readable():
    """
    And redacted all the same.
    """
    ours, theirs = os.openpty()
    script = f"{_BEGIN}log().warning('push.failed', remote='origin', error={URL!r})"
    try:
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, stderr=theirs, check=True)
        assert select.select([ours], [], [], 5)[0]
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)

    assert "push.failed" in shown
    assert "***@host/data.git" in shown
    assert SECRET not in shown
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(shown)


def test_a_command_on_a_terminal_prints_its_sentences_alone(env, ferry, data, remote):
    data.git("push", "--quiet", remote.path, "main:main")
    command = [Path(sys.executable).parent / "ferry", "promote"]
    ours, theirs = os.openpty()
    try:
        told = subprocess.run(
            command, env={**clean_environment(), **env}, stdout=subprocess.PIPE, stderr=theirs, check=True
        ).stdout
        assert not select.select([ours], [], [], 0)[0], "the log"
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"this repository is the primary" in told
    assert '"event": "primary.promoted"' in ferry("promote").stderr, "elsewhere the log is there"


@pytest.mark.parametrize("closed", [False, True], ids=["a full disk", "closed"])
def test_a_line_that_cannot_be_written_fails_nothing(closed: bool):
    script = (
        "import os, sys\nsys.stderr = open('/dev/full', 'w')\nconfigure()\n"
        f"if {closed}: sys.stderr.detach()\n"
        "log().warning('x', error=1)\nos._exit(7)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", _BEGIN + script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (7, "")


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_task_that_has_done_nothing_is_told_of_at_debug_level(level: str):
    """
    As Celery logs it: what the task returned stands in the record's data.
    """
    lines = _lines(
        f"configure(logging.{level})\n"
        "for value in ('nothing to do', 'queued origin'):\n"
        "    data = {'name': 'sweep', 'return_value': repr(value)}\n"
        "    logging.getLogger('celery.app.trace').info('done: %(return_value)s', data, extra={'data': data})"
    )
    told = [(line["level"], line["event"]) for line in lines]
    quiet = [("debug", "done: 'nothing to do'")] if level == "DEBUG" else []
    assert told == [*quiet, ("info", "done: 'queued origin'")]
