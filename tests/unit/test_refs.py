"""
That git and Ferry agree about a ref, whichever of them wrote it, and whoever is in the way.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.parts import Bare
from worker.refs import RefError, RefLockedError, RefMovedError, move_ref, read_ref

MAIN = "refs/heads/main"
NESTED = "refs/heads/a/b.c/d"

_MOVE = """
import sys
from pathlib import Path
from worker.refs import RefMovedError, move_ref
git_dir, ref, new, old, draft = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
try:
    move_ref(Path(git_dir), ref, new=new, old=old, draft=Path(draft))
except RefMovedError:
    print("moved by another")
else:
    print("won")
"""


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    return tmp_path / "branch.draft"


@pytest.fixture
def commits(data: Bare) -> list[str]:
    """
    Ten commits beside the branch, none of which it holds.
    """
    return [data.git("commit-tree", "-p", "main", "-m", str(n), "main^{tree}") for n in range(10)]


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
def test_a_new_ref_is_made_where_there_was_none(data: Bare, draft: Path, commits: list[str], ref: str):
    move_ref(data.path, ref, new=commits[0], old=None, draft=draft)

    assert data.git("rev-parse", "--verify", ref) == commits[0]
    assert not draft.exists()
    data.git("fsck", "--strict")


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
def test_git_sees_a_moved_ref_and_we_see_what_git_moves(data, draft, commits, packed: bool):
    if packed:
        data.git("pack-refs", "--all")
    move_ref(data.path, MAIN, new=commits[0], old=data.head(), draft=draft)
    assert data.head() == commits[0]

    data.git("update-ref", MAIN, commits[1], commits[0])
    move_ref(data.path, MAIN, new=commits[2], old=commits[1], draft=draft)

    assert data.head() == commits[2]
    assert not _lock(data, MAIN).exists()
    assert not draft.exists()


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
@pytest.mark.parametrize(
    ("ref", "expect_missing"),
    [(MAIN, True), (MAIN, False), (NESTED, False)],
    ids=["exists", "moved", "missing"],
)
def test_a_ref_that_stands_elsewhere_is_not_moved(data, draft, commits, packed, ref, expect_missing):
    """
    Not where it was to be new, nor where somebody else has moved or removed it; and nothing is left behind.
    """
    if packed:
        data.git("pack-refs", "--all")
    before = data.git("for-each-ref")

    with pytest.raises(RefMovedError, match=ref):
        move_ref(data.path, ref, new=commits[0], old=None if expect_missing else commits[1], draft=draft)

    assert data.git("for-each-ref") == before
    assert not _lock(data, ref).exists()


def test_somebody_elses_lock_file_is_respected_and_left(data: Bare, draft: Path, commits: list[str]):
    """
    Nobody but its owner can know whether git still works on the ref.
    """
    before, lock = data.head(), _lock(data, MAIN)
    lock.touch()

    with pytest.raises(RefLockedError, match=str(lock)):
        move_ref(data.path, MAIN, new=commits[0], old=before, draft=draft)

    assert lock.exists()
    assert data.head() == before
    lock.unlink()
    move_ref(data.path, MAIN, new=commits[0], old=before, draft=draft)
    assert data.head() == commits[0]


def test_a_lock_that_goes_away_in_time_is_waited_for(data: Bare, draft: Path, commits: list[str]):
    lock = _lock(data, MAIN)
    lock.touch()
    releasing = threading.Timer(0.1, lock.unlink)
    releasing.start()

    move_ref(data.path, MAIN, new=commits[0], old=data.head(), draft=draft)

    releasing.join()
    assert data.head() == commits[0]


def test_git_respects_our_lock(data: Bare, draft: Path, commits: list[str], monkeypatch: pytest.MonkeyPatch):
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
    move_ref(data.path, MAIN, new=commits[0], old=data.head(), draft=draft)

    assert "main.lock': File exists" in said[0]
    assert data.head() == commits[0]


# --- After a crash, and on a bad disk ---


def test_the_lock_of_a_killed_predecessor_is_cleared(data: Bare, draft: Path, commits: list[str]):
    """
    It died between making the lock and the rename: lock and draft are one file.
    """
    draft.write_text("half a comm")
    os.link(draft, _lock(data, MAIN))

    move_ref(data.path, MAIN, new=commits[0], old=data.head(), draft=draft)

    assert data.head() == commits[0]
    assert not _lock(data, MAIN).exists()


def test_a_predecessor_killed_after_the_rename_costs_the_branch_nothing(data, draft, commits):
    """
    The draft it left is the ref itself by another name; writing into it would move the branch.
    """
    before = data.head()
    os.link(data.path / MAIN, draft)

    with pytest.raises(RefMovedError):
        move_ref(data.path, MAIN, new=commits[0], old=commits[1], draft=draft)
    assert data.head() == before

    move_ref(data.path, MAIN, new=commits[0], old=before, draft=draft)
    assert data.head() == commits[0]


@pytest.mark.parametrize("name", ["os.write", "worker.refs._sync_file_system", "os.link"])
def test_a_disk_that_refuses_leaves_the_ref_where_it_stood(data, draft, commits, monkeypatch, name: str):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = data.head()
    with monkeypatch.context() as broken:
        broken.setattr(name, refuse)
        with pytest.raises(OSError, match="No space left"):
            move_ref(data.path, MAIN, new=commits[0], old=before, draft=draft)

    assert data.head() == before
    assert not _lock(data, MAIN).exists()
    move_ref(data.path, MAIN, new=commits[0], old=before, draft=draft)
    assert data.head() == commits[0]


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
    for _ in range(5):
        before = data.head()
        candidates = [commit for commit in commits if commit != before]
        start = threading.Barrier(len(candidates))

        def race(new: str, old: str | None = before, start: threading.Barrier = start) -> str:
            start.wait()
            return _outcome(
                lambda: move_ref(data.path, MAIN, new=new, old=old, draft=tmp_path / f"{new}.draft")
            )

        with ThreadPoolExecutor(len(candidates)) as pool:
            outcomes = list(pool.map(race, candidates))

        assert sorted(outcomes) == ["moved by another"] * (len(candidates) - 1) + ["won"]
        assert data.head() == candidates[outcomes.index("won")]


def test_of_processes_that_race_exactly_one_wins(data: Bare, tmp_path: Path, commits: list[str]):
    racers = {
        new: subprocess.Popen(
            [sys.executable, "-c", _MOVE, data.path, MAIN, new, data.head() or "", tmp_path / new],
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


def test_in_a_race_with_git_exactly_one_wins(data: Bare, draft: Path, commits: list[str]):
    """
    git's lock and ours are the same file.
    """
    for ours, theirs in zip(commits[::2], commits[1::2], strict=True):
        before = data.head()
        update = ["git", "-C", str(data.path), "update-ref", MAIN, theirs, before or ""]
        git = subprocess.Popen(update, stderr=subprocess.PIPE)
        outcome = _outcome(lambda o=ours, b=before: move_ref(data.path, MAIN, new=o, old=b, draft=draft))
        git.communicate(timeout=30)

        assert data.head() == (ours if outcome == "won" else theirs)
        assert (git.returncode == 0) == (outcome != "won")
