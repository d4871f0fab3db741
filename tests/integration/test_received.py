"""
What comes from a remote is looked at before it is anywhere: git's own checks, as hosts make them.
"""

from __future__ import annotations

import pytest

from ferry.app.dev.stack import make_sample
from tests.fuzz import Hostile
from tests.parts import Bare

WHO = b"A <a@example.org> 1700000000 +0000"


@pytest.fixture
def stranger(data, remote):
    """
    Someone who commits raw objects to the remote, which takes everything.
    """
    remote.git("config", "transfer.fsckObjects", "false")
    remote.git("fetch", "-q", str(data.path), "main:main")
    return Hostile(remote.path)


def _sharing(stranger: Hostile, name: bytes, mode: str = "100644", who: bytes = WHO) -> None:
    head, tree = stranger.head()
    entries = stranger.listed(tree)
    entries[name] = (mode, stranger.raw("blob", b"words"))
    if mode == "40000":
        entries[name] = (mode, entries[b"people"][1])
    stranger.commit(stranger.tree(entries), b"author %b\ncommitter %b\n\nhello\n" % (who, who), [head])


@pytest.mark.parametrize("name", [b".git", b"..", b".", b".GIT", b"git~1"])
def test_a_tree_that_would_write_beyond_a_checkout_stays_out(client, data, stranger, name):
    api, before = client(), data.head()
    _sharing(stranger, name, "40000")

    answer = api.post("/api/_internal/reload-data", json={})

    assert (answer.status_code, answer.json["code"]) == (502, "fetch-failed")
    assert data.head() == before
    assert api.get("/api/sheets/people/records").status_code == 200


@pytest.mark.parametrize(
    ("mode", "who"),
    [
        ("0100644", WHO),
        ("100644", b"A <a@example.org> 1700000000 +051800"),
        ("100644", b"A <a@b>1700000000 +0000"),
    ],
)
def test_what_old_tools_did_is_taken(client, data, stranger, mode, who):
    api = client()
    _sharing(stranger, b"notes.txt", mode, who)

    answer = api.post("/api/_internal/reload-data", json={})

    assert (answer.status_code, answer.json["state"]) == (200, "fast-forwarded")


def test_repositories_of_ours_look_at_what_they_receive(client, data, tmp_path):
    """
    Also where people fetch and push by hand; and what an operator has set there stays.
    """
    client()
    assert data.git("config", "transfer.fsckObjects") == "true"
    data.git("config", "transfer.fsckObjects", "false")
    client()
    assert data.git("config", "transfer.fsckObjects") == "false"
    for path in make_sample(tmp_path):
        assert Bare(path).git("config", "transfer.fsckObjects") == "true"
