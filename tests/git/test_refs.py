"""
That git and Ferry agree about a ref, whichever of them wrote it, and whoever is in the way.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ferry.worker.files import flushing
from ferry.worker.files.locks import FileLock
from ferry.worker.git import refs
from ferry.worker.git.objects import Objects
from ferry.worker.git.refs import RefError, RefLockedError, RefMovedError, draft_of, move_ref, read_ref
from tests.parts import Bare

MAIN = "refs/heads/main"
NESTED = "refs/heads/a/b.c/d"

_MOVE = """
import sys
from pathlib import Path
from ferry.worker.files.locks import FileLock
from ferry.worker.git.refs import RefMovedError, move_ref
git_dir, ref, new, old, lock = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
try:
    with FileLock(Path(lock)).hold(30):
        move_ref(Path(git_dir), ref, new=new, old=old)
except RefMovedError:
    print("moved by another")
else:
    print("won")
"""


@pytest.fixture
def draft(data: Bare) -> Path:
    path = draft_of(data.path, MAIN)
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """
    The files, directories and file systems that are flushed from now on, in their order.
    """
    paths: list[Path] = []
    fsync, sync_file_system = os.fsync, refs.flush_file_system

    def noted_fsync(fd: int) -> None:
        paths.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def noted_sync(fd: int, path: Path) -> None:
        paths.append(path)
        sync_file_system(fd, path)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    for module in (refs, flushing):
        monkeypatch.setattr(module, "flush_file_system", noted_sync)
    return paths


@pytest.fixture
def commits(data: Bare) -> list[str]:
    """
    Ten commits beside the branch, none of which it holds.
    """
    objects, head = Objects(data.path), data.head()
    tree = objects.read(head)[len("tree ") :][:40].decode()
    author = ("Ana", "ana@example.org")
    return [
        objects.write_commit(tree, (head,), str(n), author=author, seconds=1_780_000_000) for n in range(10)
    ]


def _lock(data: Bare, ref: str) -> Path:
    return data.path / f"{ref}.lock"


# --- Reading ---


@pytest.mark.parametrize("ref", [MAIN, NESTED, "refs/remotes/origin/main"])
@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
def test_a_ref_is_read_as_git_wrote_it(data: Bare, commits: list[str], ref: str, packed: bool):
    data.git("update-ref", ref, commits[0])
    if packed:
        data.git("pack-refs", "--all")
        assert not (data.path / ref).exists()

    assert read_ref(data.path, ref) == commits[0] == data.git("rev-parse", ref)


def test_a_loose_ref_is_newer_than_a_packed_one(data: Bare, commits: list[str]):
    data.git("pack-refs", "--all")
    data.git("update-ref", MAIN, commits[0])
    assert read_ref(data.path, MAIN) == commits[0]


@pytest.mark.parametrize("neighbour", ["refs/heads/main-2", "refs/heads/main.old", "refs/x/refs/heads/main"])
def test_a_packed_ref_is_not_taken_for_its_neighbour(data: Bare, commits: list[str], neighbour: str):
    data.git("update-ref", neighbour, commits[0])
    data.git("pack-refs", "--all")

    assert read_ref(data.path, MAIN) == data.head()
    data.git("update-ref", "-d", MAIN)
    assert read_ref(data.path, MAIN) is None


def test_a_dot_in_a_refs_name_is_a_dot(data: Bare):
    data.git("pack-refs", "--all")
    assert read_ref(data.path, "refs/heads/m.in") is None


def test_a_packed_tag_is_the_tag_and_not_what_it_points_at(data: Bare):
    data.git("tag", "-a", "-m", "one", "v1", "main")
    tag = data.git("rev-parse", "refs/tags/v1")
    data.git("pack-refs", "--all")

    assert read_ref(data.path, "refs/tags/v1") == tag != data.head()


@pytest.mark.parametrize("ref", ["refs/heads/none", f"{MAIN}/below", "refs/heads", "refs/heads/a/b.c"])
@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
def test_what_does_not_exist_is_none(data: Bare, commits: list[str], ref: str, packed: bool):
    """
    Nor is a directory a ref, or what lies below a ref.
    """
    data.git("update-ref", NESTED, commits[0])
    if packed:
        data.git("pack-refs", "--all")
    else:
        assert not (data.path / "packed-refs").exists()

    assert read_ref(data.path, ref) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        "0123456789abcdef\n",
        f"{'g' * 40}\n",
        f"{'0' * 41}\n",
        "ref: refs/heads/other\n",
        "\0" * 41,
        "é" * 40,
    ],
)
def test_a_damaged_ref_is_an_error_and_not_an_empty_branch(data: Bare, content: str):
    """
    A power loss may leave a file of the right length and nothing in it.
    """
    data.git("pack-refs", "--all")
    (data.path / MAIN).write_text(content, "utf-8")

    with pytest.raises(RefError, match=MAIN):
        read_ref(data.path, MAIN)


def test_a_ref_that_git_packs_at_this_moment_is_never_missed(data: Bare, commits: list[str]):
    done = threading.Event()

    def pack_again_and_again() -> None:
        for commit in commits * 2:
            data.git("update-ref", MAIN, commit)
            data.git("pack-refs", "--all", "--prune")
        done.set()

    with ThreadPoolExecutor() as pool:
        packing = pool.submit(pack_again_and_again)
        seen = set()
        while not done.is_set() and not packing.done():
            seen.add(read_ref(data.path, MAIN))
        packing.result()

    assert None not in seen
    assert len(seen) > 2


# --- Moving ---


@pytest.mark.parametrize("ref", [NESTED, "refs/remotes/origin/main"])
def test_a_new_ref_is_made_where_there_was_none(data: Bare, commits: list[str], ref: str):
    move_ref(data.path, ref, new=commits[0], old=None)

    assert data.git("rev-parse", "--verify", ref) == commits[0]
    assert not draft_of(data.path, ref).exists()
    data.git("fsck", "--strict")


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
def test_git_sees_a_moved_ref_and_we_see_what_git_moves(data, draft, commits, packed: bool):
    if packed:
        data.git("pack-refs", "--all")
    move_ref(data.path, MAIN, new=commits[0], old=data.head())
    assert data.head() == commits[0]

    data.git("update-ref", MAIN, commits[1], commits[0])
    move_ref(data.path, MAIN, new=commits[2], old=commits[1])

    assert data.head() == commits[2]
    assert not _lock(data, MAIN).exists()
    assert not draft.exists()


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
@pytest.mark.parametrize(
    ("ref", "expect_missing"),
    [(MAIN, True), (MAIN, False), (NESTED, False)],
    ids=["exists", "moved", "missing"],
)
def test_a_ref_that_stands_elsewhere_is_not_moved(data, commits, packed, ref, expect_missing):
    """
    Not where it was to be new, nor where somebody else has moved or removed it; and nothing is left behind.
    """
    if packed:
        data.git("pack-refs", "--all")
    before = data.git("for-each-ref")

    with pytest.raises(RefMovedError, match=ref):
        move_ref(data.path, ref, new=commits[0], old=None if expect_missing else commits[1])

    assert data.git("for-each-ref") == before
    assert not _lock(data, ref).exists()


def test_somebody_elses_lock_file_is_respected_and_left(data: Bare, commits: list[str]):
    """
    Nobody but its owner can know whether git still works on the ref.
    """
    before, lock = data.head(), _lock(data, MAIN)
    lock.touch()

    with pytest.raises(RefLockedError, match=str(lock)):
        move_ref(data.path, MAIN, new=commits[0], old=before)

    assert lock.exists()
    assert data.head() == before
    lock.unlink()
    move_ref(data.path, MAIN, new=commits[0], old=before)
    assert data.head() == commits[0]


def test_a_lock_that_goes_away_in_time_is_waited_for(data: Bare, commits: list[str]):
    lock = _lock(data, MAIN)
    lock.touch()
    releasing = threading.Timer(0.1, lock.unlink)
    releasing.start()

    move_ref(data.path, MAIN, new=commits[0], old=data.head())

    releasing.join()
    assert data.head() == commits[0]


def test_git_respects_our_lock(data: Bare, commits: list[str], monkeypatch: pytest.MonkeyPatch):
    """
    What git says while we hold the lock is seen from within: at the moment before the rename.
    """
    said = []
    rename = Path.rename

    def ask_git_first(lock: Path, target: Path) -> Path:
        update = ["git", "-C", str(data.path), "update-ref", MAIN, commits[1]]
        said.append(subprocess.run(update, capture_output=True, text=True, check=False).stderr)
        return rename(lock, target)

    monkeypatch.setattr(Path, "rename", ask_git_first)
    move_ref(data.path, MAIN, new=commits[0], old=data.head())

    assert "main.lock': File exists" in said[0]
    assert data.head() == commits[0]


# --- After a crash, and on a bad disk ---


def test_the_lock_of_a_killed_predecessor_is_cleared(data: Bare, draft: Path, commits: list[str]):
    """
    It died between making the lock and the rename: lock and draft are one file.
    """
    draft.write_text("half a comm")
    os.link(draft, _lock(data, MAIN))

    move_ref(data.path, MAIN, new=commits[0], old=data.head())

    assert data.head() == commits[0]
    assert not _lock(data, MAIN).exists()


def test_a_predecessor_killed_after_the_rename_costs_the_branch_nothing(data, draft, commits):
    """
    The draft it left is the ref itself by another name; writing into it would move the branch.
    """
    before = data.head()
    os.link(data.path / MAIN, draft)

    with pytest.raises(RefMovedError):
        move_ref(data.path, MAIN, new=commits[0], old=commits[1])
    assert data.head() == before

    move_ref(data.path, MAIN, new=commits[0], old=before)
    assert data.head() == commits[0]


@pytest.mark.parametrize("name", ["os.write", "ferry.worker.git.refs.flush_file_system", "os.link"])
def test_a_disk_that_refuses_leaves_the_ref_where_it_stood(data, commits, monkeypatch, name: str):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = data.head()
    with monkeypatch.context() as broken:
        broken.setattr(name, refuse)
        with pytest.raises(OSError, match="No space left"):
            move_ref(data.path, MAIN, new=commits[0], old=before)

    assert data.head() == before
    assert not _lock(data, MAIN).exists()
    move_ref(data.path, MAIN, new=commits[0], old=before)
    assert data.head() == commits[0]


class Killed(BaseException):
    """
    The end of a process at some line: nothing after it is done, not even what follows an error.
    """


def _die(*_: object, **__: object) -> None:
    raise Killed


def _left_by_one_that_died_before_its_flush(data: Bare, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(refs, "flush_directory", _die)
        with pytest.raises(Killed):
            move_ref(data.path, MAIN, new=commit, old=data.head())


def test_a_move_that_no_flush_has_followed_is_flushed_by_who_reads_it(data, commits, monkeypatch, flushed):
    """
    Its mover was killed between the rename and the flush of the directory.
    """
    _left_by_one_that_died_before_its_flush(data, commits[0], monkeypatch)
    flushed.clear()

    assert read_ref(data.path, MAIN) == commits[0]
    assert flushed == [data.path / "refs/heads"]

    move_ref(data.path, MAIN, new=commits[1], old=commits[0])
    flushed.clear()
    assert read_ref(data.path, MAIN) == commits[1]
    assert flushed == [], "a move that was completed costs its readers nothing"


def test_a_move_that_a_power_cut_may_undo_waits_for_the_disk_once(data, commits, flushed):
    """
    For its content: a ref that is empty after a power cut would be damaged, and not undone.
    """
    ref = "refs/remotes/origin/main"
    for new, old in ((commits[0], None), (commits[1], commits[0])):
        flushed.clear()
        move_ref(data.path, ref, new=new, old=old, lasts=False)
        assert flushed == [draft_of(data.path, ref)]
        assert read_ref(data.path, ref) == new
        assert len(flushed) == 1


def test_who_takes_over_flushes_before_the_draft_goes(data, commits, monkeypatch, flushed):
    """
    Without the draft a reader takes the ref for flushed.
    """
    _left_by_one_that_died_before_its_flush(data, commits[0], monkeypatch)
    draft = draft_of(data.path, MAIN)
    flushed.clear()
    unlink, before = Path.unlink, []

    def noted_unlink(path: Path, missing_ok: bool = False) -> None:
        if path == draft:
            before.append(list(flushed))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", noted_unlink)
    move_ref(data.path, MAIN, new=commits[1], old=commits[0])

    assert before[0] == [draft.parent], "the whole file system"


def test_what_git_packed_of_a_move_that_was_not_flushed_is_flushed(data, commits, monkeypatch, flushed):
    _left_by_one_that_died_before_its_flush(data, commits[0], monkeypatch)
    data.git("pack-refs", "--all")
    flushed.clear()

    assert read_ref(data.path, MAIN) == commits[0]
    assert flushed == [data.path / "packed-refs", data.path]
    assert read_ref(data.path, MAIN) == commits[0]
    assert len(flushed) == 2, "once"


def test_nobody_is_told_of_a_move_that_the_disk_will_not_keep(data, commits, monkeypatch):
    """
    Neither who moved it nor who reads it, until a flush succeeds.
    """

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as bad:
        bad.setattr(refs, "flush_directory", broken)
        with pytest.raises(OSError, match="Input/output"):
            move_ref(data.path, MAIN, new=commits[0], old=data.head())
        with pytest.raises(OSError, match="Input/output"):
            read_ref(data.path, MAIN)
    assert read_ref(data.path, MAIN) == commits[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (MAIN, "refs/remotes/write/main"),
        (MAIN, "refs/remotes/scratch/main"),
        (MAIN, "refs/remotes/refs-heads-main/main"),
        ("refs/heads/a", "refs/heads/a/b"),
    ],
)
def test_no_two_refs_share_a_draft(data: Bare, commits: list[str], one: str, other: str, monkeypatch):
    """
    What was left of a move of one is no concern of the other's.
    """
    with monkeypatch.context() as dying:
        dying.setattr(refs, "_take_lock", _die)
        with pytest.raises(Killed):
            move_ref(data.path, one, new=commits[0], old=None)
    left = draft_of(data.path, one)

    move_ref(data.path, other, new=commits[1], old=None)

    assert left.exists()
    assert data.git("rev-parse", other) == commits[1]


def test_threads_that_move_different_refs_do_not_meet(data: Bare, commits: list[str]):
    """
    The branch under the write lock, and a remote's tracking ref of any name under its claim.
    """
    names = [MAIN, *(f"refs/remotes/{name}/main" for name in ("write", "scratch", "we-ird_1.x", "drafts"))]

    def move_again_and_again(ref: str) -> None:
        before = read_ref(data.path, ref)
        for commit in commits:
            move_ref(data.path, ref, new=commit, old=before)
            before = commit

    with ThreadPoolExecutor(len(names)) as pool:
        for moving in [pool.submit(move_again_and_again, ref) for ref in names]:
            moving.result()

    assert {read_ref(data.path, ref) for ref in names} == {commits[-1]}
    assert not [path for path in (data.path / "ferry").rglob("*") if path.is_file()]


def test_what_is_renamed_is_what_was_meant(data: Bare, commits: list[str], monkeypatch: pytest.MonkeyPatch):
    """
    Whoever changes the lock file, by another of the name or by its content, does not move the branch.
    """
    before, lock, take_lock = data.head(), _lock(data, MAIN), refs._take_lock

    def replaced(*paths: Path) -> None:
        take_lock(*paths)
        lock.unlink()
        lock.write_text(f"{commits[1]}\n")

    def rewritten(*paths: Path) -> None:
        take_lock(*paths)
        lock.write_text(f"{commits[1]}\n")

    for change, is_ours in ((replaced, False), (rewritten, True)):
        with monkeypatch.context() as meddling:
            meddling.setattr(refs, "_take_lock", change)
            with pytest.raises(RefLockedError, match="another program changed"):
                move_ref(data.path, MAIN, new=commits[0], old=before)
        assert data.head() == before
        assert lock.exists() is not is_ours, "another's lock is another's"
        lock.unlink(missing_ok=True)


def test_half_a_write_moves_nothing(data: Bare, commits: list[str], monkeypatch: pytest.MonkeyPatch):
    """
    A disk that has room for some bytes takes those, and reports no error.
    """
    before, write = data.head(), os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, content: write(fd, content[:20]))
        with pytest.raises(OSError, match="No space left"):
            move_ref(data.path, MAIN, new=commits[0], old=before)
    assert data.head() == before


@pytest.mark.parametrize("missing", ["ferry", "ferry/drafts", "refs/heads/a"])
def test_a_directory_that_is_missing_is_made(data: Bare, commits: list[str], missing: str):
    move_ref(data.path, NESTED, new=commits[0], old=None)
    data.git("pack-refs", "--all")
    shutil.rmtree(data.path / missing, ignore_errors=True)

    move_ref(data.path, NESTED, new=commits[1], old=commits[0])

    assert data.git("rev-parse", NESTED) == commits[1]


def test_a_nested_branch_is_moved_while_git_removes_its_directory(
    data: Bare, commits: list[str], monkeypatch: pytest.MonkeyPatch
):
    """
    ``git pack-refs`` removes the directories that it has emptied.
    """
    monkeypatch.setattr("ferry.worker.git.refs._LOCK_WAIT_S", 30.0)  # git may be kept from its work for long
    done = threading.Event()

    def pack_again_and_again() -> None:
        while not done.is_set():
            data.git("pack-refs", "--all", "--prune")

    with ThreadPoolExecutor() as pool:
        packing = pool.submit(pack_again_and_again)
        try:
            before = None
            for new in commits * 10:
                move_ref(data.path, NESTED, new=new, old=before)
                before = new
        finally:
            done.set()
        packing.result()
    assert read_ref(data.path, NESTED) == commits[-1]


def test_a_nested_branch_that_git_packs_at_once_is_on_the_disk(
    data: Bare, commits: list[str], monkeypatch: pytest.MonkeyPatch
):
    """
    Its directory is gone before it is flushed.
    """
    flushed: list[Path] = []
    flush = refs.flush

    def pack(path: Path) -> None:
        data.git("pack-refs", "--all", "--prune")
        path.stat()

    monkeypatch.setattr(refs, "flush_directory", pack)
    monkeypatch.setattr(refs, "flush", lambda path: (flushed.append(path), flush(path)))

    move_ref(data.path, NESTED, new=commits[0], old=None)

    assert read_ref(data.path, NESTED) == commits[0]
    assert flushed == [data.path]


# --- Races ---


def _outcome(move: Callable[[], None]) -> str:
    try:
        move()
    except RefMovedError:
        return "moved by another"
    return "won"


def test_of_threads_that_race_exactly_one_wins(data: Bare, tmp_path: Path, commits: list[str]):
    """
    Time and again, and the branch is where the winner put it.
    """
    lock = FileLock(tmp_path / "lock")
    for _ in range(5):
        before = data.head()
        candidates = [commit for commit in commits if commit != before]
        start = threading.Barrier(len(candidates))

        def race(new: str, old: str | None = before, start: threading.Barrier = start) -> str:
            start.wait()
            with lock.hold(30):
                return _outcome(lambda: move_ref(data.path, MAIN, new=new, old=old))

        with ThreadPoolExecutor(len(candidates)) as pool:
            outcomes = list(pool.map(race, candidates))

        assert sorted(outcomes) == ["moved by another"] * (len(candidates) - 1) + ["won"]
        assert data.head() == candidates[outcomes.index("won")]


def test_of_processes_that_race_exactly_one_wins(data: Bare, tmp_path: Path, commits: list[str]):
    racers = {
        new: subprocess.Popen(
            [sys.executable, "-c", _MOVE, data.path, MAIN, new, data.head() or "", tmp_path / "lock"],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for new in commits[:4]
    }
    for racer in racers.values():
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers.values():
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outcomes = {new: racer.communicate(timeout=30)[0].strip() for new, racer in racers.items()}

    assert sorted(outcomes.values()) == ["moved by another"] * 3 + ["won"]
    assert outcomes[data.head() or ""] == "won"


def test_in_a_race_with_git_exactly_one_wins(data: Bare, commits: list[str]):
    """
    git's lock and ours are the same file.
    """
    for ours, theirs in zip(commits[::2], commits[1::2], strict=True):
        before = data.head()
        update = ["git", "-C", str(data.path), "update-ref", MAIN, theirs, before or ""]
        git = subprocess.Popen(update, stderr=subprocess.PIPE)
        outcome = _outcome(lambda o=ours, b=before: move_ref(data.path, MAIN, new=o, old=b))
        git.communicate(timeout=30)

        assert data.head() == (ours if outcome == "won" else theirs)
        assert (git.returncode == 0) == (outcome != "won")
