"""
A write that is repeated is made once: whatever cannot be read, was damaged, or was told by the clock.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from ferry.app.api.writing import Change
from ferry.app.store.idempotency import IdempotencyStore
from tests import nursery
from tests.parts import Bare, clean_environment

PEOPLE = "/api/sheets/people/records"
ANN = {"slug": "ann", "name": "Ann"}
KEY = {"Idempotency-Key": "3f2c9f0e-6f5e-4c7e-9a44-0a1d2d6d1c11"}
_DAY_S = 24 * 3600


@pytest.fixture
def api(client: Callable[[], FlaskClient]) -> FlaskClient:
    return client()


def _create(api: FlaskClient, **options: Any) -> Any:
    return api.post(PEOPLE, json=ANN, headers={**KEY, **options.pop("headers", {})}, **options)


def _commits(data: Bare) -> int:
    return int(data.git("rev-list", "--count", "main"))


def _files(data: Bare) -> list[Path]:
    return [path for path in (data.path / "ferry" / "idempotency").rglob("*") if path.is_file()]


def _is_replayed(first: Any, again: Any) -> bool:
    same = (again.status_code, again.json) == (first.status_code, first.json)
    return same and again.headers.get("Idempotent-Replayed") == "true"


def _commits_of_others(data: Bare, count: int) -> None:
    lines = []
    for number in range(count):
        lines += ["commit refs/heads/main", "committer Bo <bo@example.org> 1790000000 +0000", "data 2", "hi"]
        lines += ["from refs/heads/main^0"] if number == 0 else []
    subprocess.run(
        ["git", "-C", str(data.path), "fast-import", "--quiet"],
        input="\n".join(lines) + "\n",
        text=True,
        check=True,
    )


# --- What cannot be read ---


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize(
    "call", ["pathlib.Path.read_bytes", "pathlib.Path.stat", "os.listdir", "pathlib.Path.read_text"]
)
def test_what_cannot_be_read_is_not_taken_for_never_seen(api, data, monkeypatch, number, call):
    first, before = _create(api), _commits(data)
    module, _, name = call.rpartition(".")
    whole = Path if module == "pathlib.Path" else os
    real = getattr(whole, name)

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if "idempotency" in str(path):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **options)

    with monkeypatch.context() as broken:
        broken.setattr(whole, name, refuse)
        again = _create(api)
    assert (again.status_code, again.json["code"]) == (503, "repository-busy")
    assert again.headers["Retry-After"] == "1"
    assert _is_replayed(first, _create(api))
    assert _commits(data) == before


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EMFILE, (503, "repository-busy")),
        (errno.ENOSPC, (507, "disk-full")),
        (errno.EDQUOT, (507, "disk-full")),
    ],
)
def test_an_answer_that_cannot_be_kept_is_refused_before_it_is_done(api, data, monkeypatch, number, expected):
    before = _commits(data)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr("ferry.app.store.idempotency.replace_file", refuse)
        answer = _create(api)
    assert (answer.status_code, answer.json["code"]) == expected
    assert _commits(data) == before
    assert _create(api).status_code == 201


# --- What crashes leave ---


def _killed(env: dict[str, str], where: str, *, then: bool) -> None:
    """
    Let a process write, and be killed at the function *where*, before it or after it.
    """
    script = textwrap.dedent(
        f"""
        import os, signal
        from unittest import mock
        from ferry.app import create_app
        api = create_app(dict(os.environ), open_access=True).test_client()
        import {where.rpartition(".")[0]} as module
        real = module.{where.rpartition(".")[2]}
        def die(*args, **kwargs):
            if {then}:
                real(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        with mock.patch("{where}", die):
            api.post("{PEOPLE}", json={ANN!r}, headers={KEY!r})
        """
    )
    command = [sys.executable, "-c", script]
    dead = nursery.run(command, env={**clean_environment(), **env}, timeout=60)
    assert dead.returncode == -signal.SIGKILL


def test_a_crash_before_the_answer_is_complete_is_found_behind_any_number_of_commits(env, data, client):
    _killed(env, "ferry.app.store.store.move_ref", then=True)
    commit = data.head()
    _commits_of_others(data, 1100)
    before = _commits(data)

    again = _create(client())

    assert (again.status_code, again.json["commit"]["hash"]) == (201, commit)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert _commits(data) == before


@pytest.mark.parametrize(
    ("where", "then"),
    [("ferry.app.store.idempotency.replace_file", False), ("ferry.app.store.idempotency.replace_file", True)],
)
def test_a_crash_before_the_commit_writes_nothing_and_the_next_answer_is_the_one_that_is_kept(
    env, data, client, where, then
):
    """
    The state has changed meanwhile, and so has the answer.
    """
    before = _commits(data)
    _killed(env, where, then=then)
    assert _commits(data) == before
    api = client()
    put = {"json": ANN, "headers": {"Idempotency-Key": "other"}}
    assert api.put(f"{PEOPLE}/ann", **put).status_code == 201
    assert api.delete(f"{PEOPLE}/ann").status_code == 200
    first = _create(api)
    assert first.status_code == 201
    assert _is_replayed(first, _create(client()))


def test_an_answer_on_the_disk_is_replaced_by_one_on_the_disk(env, data, client, monkeypatch):
    """
    A renamed file that was not flushed may be empty after a power cut.
    """
    _killed(env, "ferry.app.store.idempotency.replace_file", then=True)
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1]
    )
    monkeypatch.setattr(os, "replace", lambda path, to: (done.append(f"{path}>{to}"), replace(path, to))[1])

    assert _create(client()).status_code == 201

    renamed = next(line for line in done if "idempotency" in line and ">" in line)
    fresh, _, record = renamed.partition(">")
    assert record.endswith(".json")
    assert done.index(fresh) < done.index(renamed)


def test_a_record_is_never_written_again(api, data):
    _create(api)
    (record,) = [path for path in _files(data) if path.suffix == ".json"]
    was = record.stat()
    _create(api)
    assert (record.stat().st_ino, record.stat().st_mtime_ns) == (was.st_ino, was.st_mtime_ns)


def test_an_answer_to_a_change_of_nothing_is_on_the_disk_and_repeated(api, data, monkeypatch):
    api.put(f"{PEOPLE}/ann", json=ANN)
    flushed: list[Path] = []
    monkeypatch.setattr("ferry.app.store.idempotency.flush", flushed.append)
    first = api.put(f"{PEOPLE}/ann", json=ANN, headers=KEY)
    assert first.json["commit"] is None
    assert len(flushed) == 1
    api.put(f"{PEOPLE}/ann", json={**ANN, "name": "Another"})
    before = _commits(data)
    assert _is_replayed(first, api.put(f"{PEOPLE}/ann", json=ANN, headers=KEY))
    assert _commits(data) == before


def _write(api: FlaskClient, kind: str, name: str = "Ann") -> Any:
    if kind == "create":
        return api.post(PEOPLE, json={"slug": "ann", "name": name}, headers=KEY)
    if kind == "delete":
        return api.delete(f"{PEOPLE}/ann", headers={**KEY, "Commit-Message": name})
    if kind == "attach":
        return api.put(f"{PEOPLE}/ann/attachments/a.txt", data=name.encode(), headers=KEY)
    operation = {"op": "patch", "sheet": "people", "path": "ann", "record": {"name": name}}
    return api.post("/api/transactions", json={"operations": [operation]}, headers=KEY)


@pytest.mark.parametrize("kind", ["create", "delete", "attach", "transaction"])
@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b'{"fingerprint": "', b"[]", b"{}"])
def test_a_damaged_answer_is_found_out_again_from_the_commit(client, data, kind, damage):
    """
    As a power cut leaves it. The repeated request does on the commit's parent what it did then.
    """
    api = client()
    if kind != "create":
        api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Before"})
    first = _write(api, kind)
    assert first.status_code in (200, 201)
    api.put(f"{PEOPLE}/bob", json={"slug": "bob", "name": "Bob"})
    before = _commits(data)
    for path in _files(data):
        path.write_bytes(damage)

    assert _is_replayed(first, _write(client(), kind))
    if kind != "delete":
        other = _write(client(), kind, "Another")
        assert (other.status_code, other.json["code"]) == (422, "idempotency-key-reused")
    assert _commits(data) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": [1]}, {"answer": {"x": 1}}, {"answer": None}, {"base": 5}, {"base": "zz"},
        {"base": "1" * 40}, {"id": "("}, {"id": 5}, {"fingerprint": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_with_something_else_in_it_is_a_damaged_one(api, data, changes):
    first = _create(api)
    [record] = [path for path in _files(data) if path.suffix == ".json"]
    record.write_text(json.dumps({**json.loads(record.read_text()), **changes}))
    (record.parent.parent / "1234").touch()
    for name in (record.with_suffix(".commit"), None):
        assert _is_replayed(first, _create(api))
        if name:
            name.unlink()


def test_what_the_release_before_kept_is_repeated(api, data):
    first = _create(api)
    for path in _files(data):
        if path.suffix == ".json":
            record = json.loads(path.read_text())
            del record["id"]
            path.write_text(json.dumps({**record, "commit": first.json["commit"]["hash"]}))
        else:
            path.unlink()
    assert _is_replayed(first, _create(api))


# --- The clock ---


@pytest.mark.parametrize("days", [[2], [-2], [2, 0], [-2, 0], [400], [-400, 3], [2, 2.5, 0], [-2, 1, -1]])
def test_a_clock_that_steps_forgets_nothing(api, data, days):
    """
    Each step is followed by other writes with keys, which clear away what is old.
    """
    answers: IdempotencyStore = api.application.extensions["ferry"].idempotency
    first = _create(api)
    for number, day in enumerate(days):
        answers._clock = lambda day=day: time.time() + day * _DAY_S
        other = api.put(
            f"{PEOPLE}/bob",
            json={"slug": "bob", "name": f"Bob {number}"},
            headers={"Idempotency-Key": f"{number}"},
        )
        assert other.status_code in (200, 201)
        before = _commits(data)
        assert _is_replayed(first, _create(api))
        assert _commits(data) == before


def test_what_is_old_goes_in_the_end(api, data):
    answers: IdempotencyStore = api.application.extensions["ferry"].idempotency
    _create(api)
    for day in range(1, 10):
        answers._clock = lambda day=day: time.time() + day * _DAY_S
        headers = {"Idempotency-Key": f"{day}"}
        api.put(f"{PEOPLE}/bob", json={"slug": "bob", "name": f"Bob {day}"}, headers=headers)
    assert len(list((data.path / "ferry" / "idempotency").iterdir())) <= 5


# --- After the commit ---


@pytest.mark.parametrize("fails", ["ferry.app.api.writing.commit_states", "ferry.app.arrivals.Arrivals.wait"])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread"), ValueError],
)
@pytest.mark.parametrize("headers", [{}, KEY])
def test_nothing_after_the_commit_fails_the_request(api, data, monkeypatch, fails, error, headers):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(fails, fail)
    answer = api.put(f"{PEOPLE}/ann", json=ANN, headers={"Prefer": "wait=1", **headers})
    assert answer.status_code == 202
    assert answer.json["commit"] == {"hash": data.head(), "push": {"origin": "pending"}}


def test_what_cannot_be_answered_is_refused_before_it_is_done(api, data, monkeypatch):
    before = data.head()
    with monkeypatch.context() as broken:
        broken.setattr("ferry.app.api.records.changed", lambda *_, **__: Change(body={"odd": object()}))
        assert api.put(f"{PEOPLE}/ann", json=ANN).status_code == 500
    assert data.head() == before
    assert api.put(f"{PEOPLE}/ann", json=ANN).status_code == 201


# --- What is kept ---


@pytest.mark.parametrize("kind", ["create", "patch", "transaction", "unchanged"])
def test_no_record_is_kept_beside_the_repository_and_the_answer_is_the_same(api, data, kind):
    """
    Also after the record has changed, and after it is gone.
    """
    secret = "a name that only the record says"
    if kind != "create":
        api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": secret if kind == "unchanged" else "Before"})

    def repeat() -> Any:
        if kind == "transaction":
            place = {"op": "delete", "sheet": "people", "path": "ann"}
            person = {"op": "upsert", "sheet": "people", "record": {"slug": "ann", "name": secret}}
            return api.post("/api/transactions", json={"operations": [place, person]}, headers=KEY)
        if kind == "create":
            return api.post(PEOPLE, json={"slug": "ann", "name": secret}, headers=KEY)
        return api.patch(f"{PEOPLE}/ann", json={"name": secret}, headers=KEY)

    first = repeat()
    assert secret in first.text
    assert not [path for path in _files(data) if secret.encode() in path.read_bytes()]
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "After"})
    assert _is_replayed(first, repeat())
    api.delete(f"{PEOPLE}/ann")
    again = repeat()
    assert _is_replayed(first, again)
    assert again.headers.get("ETag") == first.headers.get("ETag")


def test_an_answer_whose_sheet_is_gone_says_so(api, data):
    _create(api)
    unchanged = api.patch(f"{PEOPLE}/ann", json={"name": "Ann"}, headers={"Idempotency-Key": "2"})
    assert unchanged.json["commit"] is None
    data.git("read-tree", "main")
    data.feed("update-index", "--index-info", content=b"0 %b\t.gitsheets/people.toml\n" % (b"0" * 40))
    commit = data.git("commit-tree", "-p", "main", "-m", "gone", data.git("write-tree"))
    data.git("update-ref", "refs/heads/main", commit)

    again = api.patch(f"{PEOPLE}/ann", json={"name": "Ann"}, headers={"Idempotency-Key": "2"})
    assert (again.status_code, again.json["code"]) == (404, "sheet-not-found")


def test_a_caller_has_so_many_keys_a_day(api, monkeypatch):
    """
    Those that were used go on to be answered.
    """
    monkeypatch.setattr("ferry.app.store.idempotency.MOST_KEYS", 3)
    answers = [
        api.put(f"{PEOPLE}/ann", json={**ANN, "name": f"Ann {n}"}, headers={"Idempotency-Key": f"{n}"})
        for n in range(4)
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 429]
    assert answers[3].json["code"] == "idempotency-keys-exhausted"
    assert 0 < int(answers[3].headers["Retry-After"]) <= _DAY_S
    again = api.put(f"{PEOPLE}/ann", json={**ANN, "name": "Ann 1"}, headers={"Idempotency-Key": "1"})
    assert _is_replayed(answers[1], again)
    assert api.put(f"{PEOPLE}/ann", json=ANN).status_code == 200
