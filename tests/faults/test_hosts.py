"""
Several hosts on one repository volume and one Redis, as far as one machine can show it.
"""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from ferry.app.dev.stack import free_port
from ferry.worker.errors import RepositoryError
from ferry.worker.git import prepare
from tests.parts import Process, wait_until


def test_two_apis_and_two_workers_work_together(env, worker, data, remote, tmp_path):
    """
    Writers at both APIs, both workers awake: one line of history, never two pushes
    at a time, and everything on the remote.
    """
    overlaps, busy = tmp_path / "overlaps", tmp_path / "busy"
    remote.hook("pre-receive", f"mkdir {busy} || echo overlap >> {overlaps}; sleep 0.02; rmdir {busy}")
    apis = []
    for number in range(2):
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--threads", "4"]
        api = Process(
            [*command, "ferry.app:create_app(open_access=True)"], env, tmp_path / f"api-{number}.log"
        )
        api.spawn()
        apis.append((api, f"http://127.0.0.1:{port}"))
    workers = [worker(), worker()]
    told = [[] for _ in range(4)]

    def write(number):
        url = apis[number % 2][1] + "/api/sheets/people/records"
        for count in range(20):
            body = json.dumps({"slug": f"w{number}-{count}", "name": "Visitor"}).encode()
            with urllib.request.urlopen(_json(url, body), timeout=60) as response:
                told[number].append(json.load(response)["commit"]["hash"])

    try:
        for _, url in apis:
            wait_until(lambda url=url: _answers(url), what="an API")
        before = data.head()
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        wait_until(lambda: remote.head() == data.head(), what="everything on the remote")
    finally:
        for api, _ in apis:
            api.kill()

    history = data.git("rev-list", "--first-parent", f"{before}..main").split()
    assert sorted(history) == sorted(commit for commits in told for commit in commits)
    assert not overlaps.exists()
    assert all(each.logged("push") for each in workers)
    data.git("fsck", "--strict")


def _answers(url):
    try:
        with urllib.request.urlopen(f"{url}/api/health", timeout=1):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("kind", "options", "refused"),
    [
        ("nfs", "rw,vers=3,nolock,addr=10.0.0.1", True),
        ("nfs4", "rw,vers=4.2,local_lock=all", True),
        ("nfs4", "rw,vers=4.2,local_lock=none", False),
        ("ext4", "rw", False),
    ],
)
def test_a_volume_whose_locks_stay_on_one_host_is_refused(kind, options, refused, tmp_path, monkeypatch):
    """
    What the kernel says of the mount decides; a real NFS server is not at hand.
    """
    listed = tmp_path / "mountinfo"
    listed.write_text(
        f"1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / {tmp_path} rw - {kind} server:/x {options}\n"
    )
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, *a, **k: read(listed if str(path) == "/proc/self/mountinfo" else path, *a, **k),
    )
    if refused:
        with pytest.raises(RepositoryError, match="do not exclude other hosts"):
            prepare._check_file_system(tmp_path)
    else:
        prepare._check_file_system(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["mountinfo"]


def _json(url, body):
    return urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
