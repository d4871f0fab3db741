"""
Full disks, here and there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery

from ferry.worker.git.prepare import prepare
from ferry.worker.pipeline import assemble
from ferry.worker.settings import Settings
from ferry.worker.turns.turn import Turn
from tests.parts import Bare, clean_environment, wait_until

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="mounting a small disk needs root"
)


@pytest.fixture
def small_disk(tmp_path):
    """
    A file system of three megabytes.
    """
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,nr_inodes=2000", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def _fill(path):
    """
    Leave no room at all; returns the file that takes it.
    """
    ballast = path / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def _use_up_names(path):
    """
    Leave no file that could be made; returns those that take them.
    """
    made = []
    with contextlib.suppress(OSError):
        for number in itertools.count():
            (path / f"ballast-{number}").touch()
            made.append(path / f"ballast-{number}")
    return made


def test_a_full_disk_refuses_the_write_and_nothing_is_half_written(env, client, data, small_disk, ferry):
    """
    507 and a remedy, however often; reads go on; and the same write works when there is room.
    """
    here = Bare.copy(data.path, small_disk / "data.git")
    env["CFP_DATA_REPO_PATH"] = str(here.path)
    api = client()
    before = here.head()
    ballast = _fill(small_disk)

    for _ in range(3):
        response = api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"})
        assert (response.status_code, response.json["code"]) == (507, "disk-full"), response.json
        assert response.content_type == "application/problem+json"
    assert here.head() == before
    assert api.get("/api/sheets/people/records/ada-quill").status_code == 200
    assert "The data disk is full: every write is refused." in api.get("/status").text
    shown = ferry("push", "status")
    assert (shown.returncode, shown.stdout.partition("\n")[0]) == (1, "disk: full: 0 MiB of 3 MiB free")
    assert "failed   disk: full" in ferry("doctor").stdout
    status = api.get("/api/_internal/push").json["disk"]
    assert (status["state"], status["needs_person"]["reason"]) == ("full", "local")
    assert re.search(r"^ferry_repository_free_bytes.* 0\.0$", api.get("/metrics").text, re.MULTILINE)
    assert api.get("/api/sheets/people/records/jane").status_code == 404
    assert not list(here.path.glob("refs/heads/*.lock"))

    ballast.unlink()
    response = api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"})
    assert response.status_code == 201
    assert here.head() == response.json["commit"]["hash"]
    here.git("fsck", "--strict")


def test_an_api_that_starts_on_a_full_disk_serves_reads(env, client, data, small_disk):
    """
    Else the restart of one process would end them all.
    """
    here = Bare.copy(data.path, small_disk / "data.git")
    env["CFP_DATA_REPO_PATH"] = str(here.path)
    client()
    ballast = [_fill(small_disk), *_use_up_names(small_disk)]

    api = client()

    assert api.get("/api/sheets/people/records/ada-quill").status_code == 200
    assert api.get("/api/health/ready").status_code == 200
    assert api.get("/api/_internal/push").status_code == 200
    written = api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"})
    assert (written.status_code, written.json["code"]) == (507, "disk-full")
    for file in ballast:
        file.unlink()
    assert api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"}).status_code == 201


def test_a_disk_that_fills_up_at_any_moment_of_a_write_breaks_nothing(env, client, data, small_disk):
    """
    No room, then a block more each time: whichever step of the commit finds none, the branch stays whole.
    """
    here = Bare.copy(data.path, small_disk / "data.git")
    env["CFP_DATA_REPO_PATH"] = str(here.path)
    api = client()
    statuses = []
    for number in range(24):
        ballast = _fill(small_disk)
        os.truncate(ballast, max(0, ballast.stat().st_size - number * 4096))
        before = here.head()
        slug = f"visitor-{number}"
        response = api.post("/api/sheets/people/records", json={"slug": slug, "name": slug})
        statuses.append(response.status_code)
        assert here.head() == (response.json["commit"]["hash"] if response.status_code == 201 else before)

    assert set(statuses) == {201, 507}
    ballast.unlink()
    here.git("fsck", "--strict")


def test_a_full_disk_at_the_remote_is_a_named_failure_that_is_retried(env, client, worker, small_disk):
    full = Bare.init(small_disk / "remote.git")
    env |= {"CFP_DATA_REMOTE": str(full.path), "CFP_PUSH_BACKOFF_CAP": "0.5"}
    ballast = _fill(small_disk)
    api, running = client(), worker()
    failed = running.await_event("push.failed")
    assert failed["reason"] == "server"
    assert "No space left on device" in failed["error"]

    ballast.unlink()
    wait_until(
        lambda: api.get("/api/_internal/push").json["remotes"]["origin"]["state"] == "idle",
        what="an idle remote",
    )
    full.git("fsck", "--strict")


_ATTEMPTS = """
import os
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.files.places import remotes_directory, write_lock
from ferry.worker.push import Pusher, Request
from ferry.worker.turns.turn import Turn
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker import paging
from ferry.worker.errors import PushError
from ferry.worker.settings import Settings
settings = Settings.from_env(os.environ)
paging.configure(settings)
path = settings.data_repo_path
repository, ledger = Repository(path, branch="main"), Ledger(remotes_directory(path))
pusher = Pusher(settings, repository, ledger, Reconciler(settings, repository, ledger, write_lock(path)))
for number in range(3):
    try:
        print(pusher.push(Request(remote="origin", chain=f"{os.getpid()}-{number}")))
    except PushError as error:
        print(f"retried in {error.retry_in_s:.0f} s, paged: {bool(ledger.read('origin').paged)}")
paging.flush(5)
"""


def test_a_full_disk_here_is_one_retry_and_one_page_for_every_process(
    env, data, small_disk, sentry, tmp_path
):
    """
    The ledger has room for its next entry in its last one.
    """
    here = Bare.copy(data.path, small_disk / "data.git")
    env |= {"CFP_DATA_REPO_PATH": str(here.path), "CFP_PUSH_BACKOFF_BASE": "1000", "SENTRY_DSN": sentry.dsn}
    env |= {"CFP_PUSH_BACKOFF_CAP": "1000"}
    # There is no remote: a reason that pages at once.
    env["CFP_DATA_REMOTE"] = str(tmp_path / "away.git")
    prepare(Settings.from_env(env))
    assemble(Settings.from_env(env), env, Celery(), queue="push", name="", packing=None)
    _fill(small_disk)

    done = [
        subprocess.run(
            [sys.executable, "-c", _ATTEMPTS],
            cwd=ROOT,
            env={**clean_environment(), **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        for _ in range(2)
    ]

    said = [line for each in done for line in each.stdout.splitlines()]
    assert [line.partition(" s, ")[2] for line in said if "retried" in line] == ["paged: True"], done
    assert said.count(Turn.RETRYING.sentence) == 5
    assert len(sentry.events) == 1
