"""
``ferry dev`` and ``ferry demo`` as a user runs them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests import nursery
from tests.parts import Bare, least, wait_until

FERRY = str(Path(sys.executable).with_name("ferry"))


@pytest.fixture
def dev(tmp_path):
    """
    Start ``ferry dev`` on free ports; yields its process and a dict of what it printed.
    """
    started = []

    def start(*arguments, **env):
        log_path = tmp_path / f"dev-{len(started)}.log"
        with log_path.open("wb") as output:
            process = subprocess.Popen(
                [FERRY, "dev", "--port", "0", "--flower-port", "0", *arguments],
                env={**os.environ, "TMPDIR": str(tmp_path), **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        started.append(process)
        ready = wait_until(
            lambda: (
                re.search(r"^Ferry is ready: (\S+)$", log_path.read_text(), re.M)
                or process.poll() is not None
            ),
            timeout_s=60,
            what="ferry dev",
        )
        assert process.poll() is None, log_path.read_text()
        flower = re.search(r"^Flower shows the tasks: (\S+)$", log_path.read_text(), re.M)[1]
        return process, ready[1], flower, log_path

    yield start
    for process in started:
        everybody = _tree(process.pid)
        process.terminate()  # or its Valkey, a daemon, would be left behind
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for each in everybody:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(10)


def _tree(pid):
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _request(url, body=None):
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def _write(url, slug):
    return _request(f"{url}/api/sheets/people/records", {"slug": slug, "name": slug})["commit"]["hash"]


def _refused(url, headers, body=None):
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json", **headers})
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request, timeout=10):
        pass
    with refused.value:
        return refused.value.code == 403


def _other_repository(path):
    """
    A data repository that is not the sample: one sheet, no schema, on the branch ``trunk``.
    """
    bare = Bare.init(path)
    bare.git("symbolic-ref", "HEAD", "refs/heads/trunk")
    work = path.with_name("work")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "clone", "--quiet", str(path), str(work)], check=True, capture_output=True)
    (work / ".gitsheets").mkdir()
    (work / ".gitsheets/notes.toml").write_text("[gitsheet]\nroot = 'notes'\npath = '${{ id }}'\n")
    for arguments in (["checkout", "-q", "-B", "trunk"], ["add", "."], ["commit", "-q", "-m", "a sheet"]):
        subprocess.run(["git", "-C", str(work), *identity, *arguments], check=True, capture_output=True)
    subprocess.run(["git", "-C", str(work), "push", "-q", "origin", "trunk"], check=True, capture_output=True)
    return bare


def test_any_repository_is_served_and_a_post_lands_on_the_remote_within_a_second(dev, tmp_path):
    """
    Then Ctrl-C ends all of it with status 0 and leaves no process behind.
    """
    data, remote = _other_repository(tmp_path / "mine.git"), Bare.init(tmp_path / "remote.git")
    process, url, flower, log_path = dev(str(data.path), "--remote", os.path.relpath(remote.path))
    assert _request(f"{url}/api/sheets") == {"sheets": [{"name": "notes"}]}
    _status_is(url, "idle")

    numbers = itertools.count()

    def land():
        begun = time.monotonic()
        record = {"id": next(numbers), "text": "hello"}
        commit = _request(f"{url}/api/sheets/notes/records", record)["commit"]["hash"]
        wait_until(lambda: remote.git("rev-parse", "trunk") == commit, what="the commit on the remote")
        return time.monotonic() - begun

    assert least(land, below_s=1) < 1

    for line in (
        r"commit   [0-9a-f]{7} dev: POST /api/sheets/notes/records \(dev\)",
        r"push     [0-9a-f]{7} is on origin, \d+ ms after the commit",
    ):
        shown = re.compile(rf"^\d\d:\d\d:\d\d  {line}$", re.M)
        wait_until(lambda shown=shown: shown.search(log_path.read_text()), what=line)
    said = log_path.read_text()
    assert "Task push" not in said  # the whole log is in a file
    assert '"event"' in Path(re.search(r"^The log of every process: (\S+)$", said, re.M)[1]).read_text()
    bare = {name: value for name, value in os.environ.items() if not name.startswith("CFP_")}
    status = subprocess.run(
        [FERRY, "push", "status"],
        env={**bare, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (status.returncode, status.stdout.splitlines()[:1]) == (0, ["origin: idle"]), status.stderr

    tasks = wait_until(lambda: _request(f"{flower}/api/tasks"), what="a task in Flower")
    # Flower knows no name of a task that was received before it listened.
    assert {task["name"] for task in tasks.values() if task["received"]} <= {"push", "sweep"}
    for address in (f"{url}/api/sheets/notes/records", f"{flower}/api/task/send-task/push"):
        for name, value in (("Host", "evil.example"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")):
            assert _refused(address, {name: value}, b"{}")
    assert _refused(f"{flower}/api/tasks", {"Host": "evil.example"})
    with urllib.request.urlopen(f"{flower}/api/tasks", timeout=10) as response:
        assert "Access-Control-Allow-Origin" not in response.headers

    everybody = _tree(process.pid)
    assert len(everybody) > 5
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 0, log_path.read_text()
    _, alive = psutil.wait_procs(everybody, timeout=30)
    assert alive == []
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(_cmdline(each))
    ]


def _cmdline(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _status_is(url, state):
    wait_until(
        lambda: _request(f"{url}/api/_internal/push")["remotes"]["origin"]["state"] == state,
        what=f"a remote that is {state}",
    )


def _a_divergence_is_a_failed_task_in_flower(url, flower, remote):
    _status_is(url, "idle")
    remote.commit("theirs")
    commit = _write(url, "jill")

    def failed():
        failures = _request(f"{flower}/api/tasks?state=FAILURE&taskname=push").values()
        return [task for task in failures if commit[:12] in task["args"]]

    (task, *_) = wait_until(failed, what="a failed push in Flower")
    assert "NonFastForward" in task["exception"]


def test_stopping_and_starting_loses_nothing_and_a_divergence_is_a_failed_task_in_flower(dev):
    """
    A commit made while only the API ran, and while the worker was dead, arrives after the next start.
    """
    process, url, flower, log_path = dev(CFP_PUSH_SWEEP_INTERVAL="1")
    sample, where = re.search(
        r"Made a sample repository: (\S+), with the remote (\S+)", log_path.read_text()
    ).groups()
    remote = Bare(Path(where))
    _status_is(url, "idle")
    workers = [each for each in _tree(process.pid) if each.name() == "ferry-worker"]
    assert workers
    for each in workers:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended with another
            each.kill()
    lonely = _write(url, "jane")
    wait_until(lambda: remote.head() == lonely, what="the commit, by the worker that was started again")

    _status_is(url, "idle")  # or the push, which still ends there, leaves a lock in the remote
    away = remote.path.rename(f"{where}.away")
    stranded = _write(url, "joan")

    def seen():  # sweeps may be forgotten
        return {task for task, told in _request(f"{flower}/api/tasks").items() if told["name"] == "push"}

    pushes = wait_until(seen, what="a push in Flower")
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
    away.rename(remote.path)

    _, url, flower, _ = dev(sample, "--remote", where)
    wait_until(lambda: remote.head() == stranded, what="the commit, after the next start")
    assert pushes <= set(_request(f"{flower}/api/tasks")), "Flower's tasks of before the restart"
    _a_divergence_is_a_failed_task_in_flower(url, flower, remote)


def test_wrong_settings_end_the_start_with_one_clear_line(tmp_path):
    for env, arguments, words in (
        ({"CFP_PUSH_TIMOUT": "3"}, [], "CFP_PUSH_TIMOUT: unknown setting; did you mean CFP_PUSH_TIMEOUT?"),
        ({}, [str(tmp_path)], "is not a complete git repository"),
        ({}, ["--remote", "nowhere.git"], "/nowhere.git does not exist; make it with: git init --bare /"),
        ({"CFP_API_EXTENSIONS": "nowhere"}, [], "CFP_API_EXTENSIONS: nowhere: cannot be imported: "),
    ):
        command = [FERRY, "dev", "--port", "0", "--flower-port", "0", *arguments]
        done = nursery.run(command, env={**os.environ, "TMPDIR": str(tmp_path), **env}, timeout=60)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [["-m", "celery", "-A", "ferry.worker", "worker"], ["-c", "import ferry.app; ferry.app.create_app()"]],
)
def test_worker_and_api_end_at_a_wrong_environment_with_one_line(command):
    done = subprocess.run(
        [sys.executable, *command],
        env={"PATH": os.environ["PATH"], "CFP_PUSH_TIMEOUT": "soon"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("ferry: CFP_PUSH_TIMEOUT: ")
    assert "CFP_DATA_REPO_PATH: required" in line
    assert "Traceback" not in done.stderr


def test_gunicorn_ends_at_a_wrong_environment(tmp_path):
    """
    It would start its worker again and again, with the same line each time.
    """
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--bind",
        "127.0.0.1:0",
        "--workers",
        "1",  # of two that fail in one moment, gunicorn itself raises now and then
        "ferry.app:create_app()",
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CFP_PUSH_TIMEOUT": "soon"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 3
    lines = [line for line in done.stderr.splitlines() if line.startswith("ferry: CFP_PUSH_TIMEOUT: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr


def test_the_demo_shows_the_main_job_and_ends_with_a_summary(tmp_path):
    """
    Whatever locale is set, and however the user has configured git: here not readably.
    """
    (tmp_path / ".gitconfig").write_text("[broken\n")
    env = {**os.environ, "LC_ALL": "xx_XX.UTF-8", "HOME": str(tmp_path), "GIT_DIR": "/nowhere"}
    done = subprocess.run([FERRY, "demo"], env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.strip().splitlines()[-1]
    assert summary.startswith("Summary: 5 of 5 commits arrived; 1 divergence, 1 page")
    assert summary.endswith(f"For a browser: run {FERRY} dev, and open http://127.0.0.1:8000/")


def test_a_broken_git_configuration_is_one_line(tmp_path):
    (tmp_path / ".gitconfig").write_text("[broken\n")
    (tmp_path / "tmp").mkdir()
    env = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([FERRY, "dev"], env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "bad config line 1 in file" in done.stderr.splitlines()[-1]
    assert not [*(tmp_path / "tmp").iterdir()]
