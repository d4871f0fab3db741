"""
Writers in many processes, and what a commit leaves on disk.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from app.errors import BusyError
from app.store import Store
from app.transact import transact
from worker.git import Repository

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
    from app.store import Store
    from worker.git import Repository

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
    data, repository, processes, threads, same
):
    """
    100 commits from each process, of records of its own or all of the same one: every
    commit that somebody was told of is on the branch, in one line of history.
    """
    before = data.head()
    command = [sys.executable, "-c", textwrap.dedent(_WRITER), str(data.path)]
    writers = [
        subprocess.Popen([*command, f"w{number}", same, str(threads)], stdout=subprocess.PIPE, text=True)
        for number in range(processes)
    ]
    told: dict[str, list[str]] = {}
    for number, writer in enumerate(writers):
        for line in writer.communicate(timeout=100)[0].split():
            thread, commit = line.split(":")
            told.setdefault(f"{number}.{thread}", []).append(commit)

    assert [writer.returncode for writer in writers] == [0] * processes
    history = data.git("rev-list", "--first-parent", "--reverse", f"{before}..main").split()
    assert sorted(history) == sorted(commit for commits in told.values() for commit in commits)
    assert len(history) == 100 * processes
    for commits in told.values():
        assert commits == [commit for commit in history if commit in set(commits)]
    data.git("fsck", "--strict")
