"""
The quick form of the crash images of ``make soak``.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from ferry.app import create_app
from ferry.worker.git import refs
from tests import nursery
from tests.crash_images import KINDS, copy_still, make_disk, mounted, run, why_not
from tests.parts import Bare, clean_environment


@pytest.fixture(params=KINDS)
def kind(request):
    if reason := why_not(request.param):
        pytest.skip(f"no crash images of {request.param}: {reason}")
    return request.param


def test_what_was_acknowledged_under_load_survives_a_power_cut(kind, tmp_path, own_valkey):
    """
    Two images while API and worker work, the second just after an API process was killed.
    """
    redis_url = f"redis://127.0.0.1:{own_valkey.port}"
    report = run(tmp_path, kind=kind, redis_url=redis_url, seed=20261126, seconds=0, images=2)

    assert report.wrong == []
    assert report.acknowledged > 10


_DIES = """
    import os, signal, sys
    from pathlib import Path
    from ferry.app import create_app
    from ferry.worker.git import refs

    refs.flush_directory = lambda path: os.kill(os.getpid(), signal.SIGKILL)
    client = create_app(open_access=True).test_client()
    client.post(
        "/api/sheets/people/records",
        json={"slug": "jane", "name": "Jane"},
        headers={"Idempotency-Key": "jane-1"},
    )
"""
_JANE = {"slug": "jane", "name": "Jane"}
_SPEAKING = {
    "the same key": lambda api: api.post(
        "/api/sheets/people/records", json=_JANE, headers={"Idempotency-Key": "jane-1"}
    ),
    "no change": lambda api: api.put("/api/sheets/people/records/jane", json=_JANE),
    "a read": lambda api: api.get("/api/sheets/people/records/jane"),
}


@pytest.mark.parametrize("speaking", _SPEAKING)
def test_what_another_process_answers_survives_a_power_cut(kind, env, data, tmp_path, speaking):
    """
    Its writer was killed between the rename of the ref and the flush; a second process speaks of the commit.
    """
    disk, image = tmp_path / "disk", tmp_path / "image"
    make_disk(kind, disk)
    with mounted(disk, tmp_path / "mounted") as place:
        here = Bare.copy(data.path, place / "data.git")
        before, env["CFP_DATA_REPO_PATH"] = here.head(), str(here.path)
        subprocess.run(["sync", "--file-system", str(place)], check=True)
        command = [sys.executable, "-c", textwrap.dedent(_DIES)]
        died = nursery.run(command, env={**clean_environment(), **env}, timeout=60)
        assert died.returncode == -9

        answer = _SPEAKING[speaking](create_app(env, open_access=True).test_client())

        assert answer.status_code < 500
        copy_still(disk, image)
        commit = here.head()
        assert commit != before
    with mounted(image, tmp_path / "booted") as place:
        assert Bare(place / "data.git").has(commit or "")


def test_a_commit_whose_last_flush_fails_is_told_to_nobody_until_one_succeeds(env, client, data, monkeypatch):
    """
    The branch has moved, and a power cut may undo that: neither its writer hears of it, nor a reader.
    """

    def broken(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    api, before = client(), data.head()
    jane = {"slug": "jane", "name": "Jane"}
    headers = {"Idempotency-Key": "jane-1"}
    with monkeypatch.context() as bad:
        bad.setattr(refs, "flush_directory", broken)
        assert api.post("/api/sheets/people/records", json=jane, headers=headers).status_code == 503
        assert data.head() != before
        for answer in (
            api.get("/api/sheets/people/records/jane"),
            api.get("/api/commits"),
            api.put("/api/sheets/people/records/jane", json=jane),
            api.post("/api/sheets/people/records", json=jane, headers=headers),
        ):
            assert answer.status_code == 503, answer.json

    again = api.post("/api/sheets/people/records", json=jane, headers=headers)
    assert again.status_code == 201
    assert again.json["commit"]["hash"] == data.head()
    assert data.git("rev-list", "--count", f"{before}..main") == "1"
