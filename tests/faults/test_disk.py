"""
Full disks, here and there.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.parts import Bare, wait_until

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
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)], check=True)
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


def test_a_full_disk_refuses_the_write_and_nothing_is_half_written(env, client, data, small_disk):
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
    assert api.get("/api/sheets/people/records/jane").status_code == 404
    assert not list(here.path.glob("refs/heads/*.lock"))

    ballast.unlink()
    response = api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"})
    assert response.status_code == 201
    assert here.head() == response.json["commit"]["hash"]
    here.git("fsck", "--strict")


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
