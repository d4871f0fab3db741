"""
Writers in many processes, and what a commit leaves on disk.
"""

from __future__ import annotations

import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ferry.app.errors import BusyError
from ferry.app.store.store import Store
from ferry.app.transact import transact
from ferry.worker.errors import RepositoryError
from ferry.worker.git.refs import move_ref
from ferry.worker.git.repository import Repository
from tests.parts import Process, wait_until

AUTHOR = ("Tess", "tess@example.org")


class _Queue:
    """
    Remembers what was queued, and what the branch held at that moment.
    """

    def __init__(self, repository):
        self._repository = repository
        self.queued = []

    def enqueue_push(self, commit):
        self.queued.append((commit, self._repository.head()))


@pytest.fixture
def repository(data):
    (data.path / "ferry").mkdir()
    return Repository(data.path, branch="main")


@pytest.fixture
def store(repository):
    return Store(repository)


@pytest.fixture
def queue(repository):
    return _Queue(repository)


def test_a_block_is_one_commit_and_then_one_push_is_queued(store, queue, data):
    before = data.head()

    with transact(store, queue, "two people", author=AUTHOR, trailers=[("Action", "test")]) as transaction:
        transaction.create("people", {"slug": "jane", "name": "Jane"})
        transaction.create("people", {"slug": "joan", "name": "Joan"})
        assert data.head() == before
        assert queue.queued == []

    assert queue.queued == [(transaction.commit, transaction.commit)]
    assert data.git("rev-list", f"{before}..main") == transaction.commit
    assert data.git("log", "-1", "--format=%an <%ae>%n%B") == (
        "Tess <tess@example.org>\ntwo people\n\nAction: test"
    )


def test_an_exception_discards_everything_and_queues_nothing(store, queue, data):
    before = data.head()

    def change_and_fail():
        with transact(store, queue, "never", author=AUTHOR) as transaction:
            transaction.create("people", {"slug": "jane", "name": "Jane"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()

    assert data.head() == before
    assert queue.queued == []
    with transact(store, queue, "the next one works", author=AUTHOR) as transaction:
        transaction.create("people", {"slug": "jane", "name": "Jane"})
    assert data.head() == transaction.commit


def test_a_block_that_changes_nothing_makes_no_commit(store, queue, data):
    before = data.head()
    record = store.snapshot()
    ada = record.record(record.sheet("people"), "ada-quill").record

    with transact(store, queue, "the same again", author=AUTHOR) as transaction:
        transaction.put("people", "ada-quill", ada)

    assert transaction.commit is None
    assert data.head() == before
    assert queue.queued == []


def test_a_lock_file_that_somebody_left_fails_the_write_and_moves_nothing(store, queue, data):
    before = data.head()
    (data.path / "refs/heads/main.lock").touch()

    with (
        pytest.raises(BusyError, match=r"main\.lock exists"),
        transact(store, queue, "blocked", author=AUTHOR) as transaction,
    ):
        transaction.create("people", {"slug": "jane", "name": "Jane"})

    assert data.head() == before
    assert queue.queued == []


def test_git_agrees_after_the_refs_were_packed(store, queue, data):
    data.git("pack-refs", "--all")
    assert not (data.path / "refs/heads/main").exists()

    with transact(store, queue, "onto a packed ref", author=AUTHOR) as transaction:
        transaction.create("people", {"slug": "jane", "name": "Jane"})

    assert data.head() == transaction.commit
    data.git("fsck", "--strict")


_WRITER = """
    import sys, threading
    from pathlib import Path
    from ferry.app.store.store import Store
    from ferry.worker.git.repository import Repository

    path, name, same, threads = sys.argv[1], sys.argv[2], sys.argv[3] == "same", int(sys.argv[4])
    store = Store(Repository(Path(path), branch="main"))

    def write(thread):
        for number in range(100 // threads):
            slug = "one-for-all" if same else f"{name}-{thread}-{number}"
            with store.commit(f"{name} {number}", author=("Tess", "tess@example.org")) as transaction:
                transaction.put("people", slug, {"slug": slug, "name": f"{name} {thread} {number}"})
            sys.stdout.write(f"{thread}:{transaction.commit}\\n")

    writing = [threading.Thread(target=write, args=(thread,)) for thread in range(threads)]
    for thread in writing: thread.start()
    for thread in writing: thread.join()
"""


@pytest.mark.parametrize(
    ("processes", "threads", "same"),
    [(4, 1, "different"), (2, 1, "same"), (2, 5, "different"), (2, 5, "same")],
)
def test_writers_in_several_processes_lose_nothing_and_fail_nothing(
    data, repository, tmp_path, processes, threads, same
):
    """
    100 commits from each process, of records of its own or all of the same one: every
    commit that somebody was told of is on the branch, in one line of history.
    """
    before = data.head()
    command = [sys.executable, "-c", textwrap.dedent(_WRITER), str(data.path)]
    writers = [
        Process([*command, f"w{number}", same, str(threads)], {}, tmp_path / f"{number}.log")
        for number in range(processes)
    ]
    for writer in writers:
        writer.spawn()
    assert [writer.wait(100) for writer in writers] == [0] * processes, [each.text() for each in writers]
    told: dict[str, list[str]] = {}
    for number, writer in enumerate(writers):
        for line in writer.text().split():
            thread, commit = line.split(":")
            told.setdefault(f"{number}.{thread}", []).append(commit)

    history = data.git("rev-list", "--first-parent", "--reverse", f"{before}..main").split()
    assert sorted(history) == sorted(commit for commits in told.values() for commit in commits)
    assert len(history) == 100 * processes
    for commits in told.values():
        assert commits == [commit for commit in history if commit in set(commits)]
    data.git("fsck", "--strict")


# --- What others do to the branch at that very moment ---


def _meddle(monkeypatch, data, *, before=lambda: None, after=lambda: None):
    def meddled(*args, **kwargs):
        before()
        move_ref(*args, **kwargs)
        after()

    monkeypatch.setattr("ferry.app.store.store.move_ref", meddled)


def _write(store, slug="jane"):
    with store.commit("a write", author=AUTHOR) as transaction:
        transaction.put("people", slug, {"slug": slug, "name": slug.title()})
    return transaction.commit


def test_a_commit_on_which_others_have_gone_on_is_acknowledged(store, data, monkeypatch):
    """
    A fetch or a merge by hand knows no lock of ours, and comes right after our move.
    """
    with monkeypatch.context() as busy:
        _meddle(busy, data, after=data.commit)
        commit = _write(store)
    assert data.head() != commit
    assert data.has(commit)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_branch_that_was_moved_away_is_busy(client, data, monkeypatch, when):
    """
    Before our move it fails, and after it the commit is gone: nothing is acknowledged, and a repeat succeeds.
    """
    api, before = client(), data.head()
    people = "/api/sheets/people/records"

    def move_away():
        data.git("update-ref", "refs/heads/main", elsewhere)

    elsewhere = data.git("commit-tree", "-p", before, "-m", "by hand", f"{before}^{{tree}}")
    with monkeypatch.context() as busy:
        _meddle(busy, data, **{when: move_away})
        answer = api.post(people, json={"slug": "jane", "name": "Jane"})

    assert (answer.status_code, answer.json["code"]) == (503, "repository-busy")
    assert answer.headers["Retry-After"] == "1"
    assert data.head() == elsewhere
    again = api.post(people, json={"slug": "jane", "name": "Jane"})
    assert again.status_code == 201
    assert data.head() == again.json["commit"]["hash"]


def test_a_branch_that_cannot_be_read_after_the_move_fails_no_write(store, data, monkeypatch):
    """
    The commit is on the disk by then, and no file may be had for looking.
    """

    def no_more_files():
        def refuse(*_):
            raise RepositoryError("Too many open files")

        monkeypatch.setattr(Repository, "head", refuse)

    with monkeypatch.context() as broken:
        _meddle(broken, data, after=no_more_files)
        commit = _write(store)
    monkeypatch.undo()
    assert data.head() == commit


def test_what_a_thread_moved_that_was_ended_is_acknowledged_to_the_others(store, data, monkeypatch):
    """
    It was ended between its move of the branch and its word to them.
    """

    class Ended(BaseException):
        pass

    def be_ended():
        # Not this thread, which lands by itself what is there while the others take long.
        if ends and threading.current_thread() is not threading.main_thread():
            raise ends.pop()

    ends = [Ended()]
    with ThreadPoolExecutor(2) as pool, monkeypatch.context() as ending:
        _meddle(ending, data, after=be_ended)
        with store._writers.turn() as group:
            writing = [pool.submit(_write, store, slug) for slug in ("ann", "bob")]
            wait_until(lambda: len(store._writers._queue) == 3, what="both to wait")
            group.closes_at += 30
        outcomes = [each.exception(30) for each in writing]

    assert sorted(map(type, outcomes), key=str) == sorted([Ended, type(None)], key=str)
    (told,) = (each.result() for each in writing if not each.exception())
    assert data.has(told)
    assert len(data.git("log", "--format=%H", "--grep=^a write$", "main").split()) == 2
