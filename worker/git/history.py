"""
The commits of a repository: their ancestry, and the files that each of them changed.

Ferry reads a few commits in this process, and starts git for more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import gitsheets

from ferry.worker.git.command import QUERY_TIMEOUT_S, Git, run_git
from ferry.worker.git.loose import path_of
from ferry.worker.git.objects import Objects
from ferry.worker.git.refs import OBJECT_NAME
from ferry.worker.git.signing import Committer

WALK_TIMEOUT_S = 300.0  # for commands that read a whole history
_CHANGED = re.compile(r":([0-7]+) ([0-7]+) ([0-9a-f]{40}) ([0-9a-f]{40}) [A-Z][0-9]*")
_A_FEW_COMMITS = 100  # commits read in this process; starting git takes 3 ms
_NEIGHBOURS = 100  # a burst
_LEAST_ALIKE = "40%"  # of the lines of a small record, one is its path
_MOST_COMPARED = 200  # files that a commit adds, each with all that it removes
# Separated by NUL, the one character that a commit cannot contain.
_LOG_FORMAT = "%H%x00%P%x00%an%x00%ae%x00%aI%x00%B%x00%(trailers:only,unfold)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """
    One commit: its author, its message and its parents.

    Attributes:
        hash: Full object name.
        parents: Full object names of its parents.
        author: Name and e-mail address.
        authored_at: RFC 3339, with the author's offset.
        message: The whole message, trailers included.
        trailers: Its trailers; if a key occurs twice, its last value.
        trailer_lines: Key and value of each of them, in order.
    """

    hash: str
    parents: tuple[str, ...]
    author: tuple[str, str]
    authored_at: str
    message: str
    trailers: Mapping[str, str]
    trailer_lines: tuple[tuple[str, str], ...] = ()

    @property
    def subject(self) -> str:
        """
        The first line of its message.
        """
        return self.message.partition("\n")[0]

    def as_json(self) -> dict[str, Any]:
        """
        Return the commit in the API's shape; a trailer that occurs several times has a list of values.
        """
        name, email = self.author
        values: dict[str, list[str]] = {}
        for key, value in self.trailer_lines:
            values.setdefault(key, []).append(value)
        return {
            "hash": self.hash,
            "parents": list(self.parents),
            "author": {"name": name, "email": email},
            "authored_at": self.authored_at,
            "message": self.message,
            "trailers": {key: each if len(each) > 1 else each[0] for key, each in values.items()},
        }


class History:
    """
    The commits of a bare repository.

    Args:
        git: The repository's git.
        committer: Who makes new commits; see ``Objects``.
    """

    def __init__(self, git: Git, committer: Committer | None = None) -> None:
        self.git = git
        self.path = git.path
        self.objects = Objects(git.path, committer)

    def contains(self, commit: str, tip: str | None) -> bool:
        """
        Whether *commit* is *tip* or one of its ancestors; False if the repository lacks either.

        Clients send names of commits, so only a full object name is used in a path or an argument of git.
        """
        if tip is None or commit == tip:
            return commit == tip
        if not OBJECT_NAME.fullmatch(commit):
            return False
        try:
            return _is_ancestor(str(self.path), commit, tip)
        except gitsheets.GitsheetsError:
            return False

    def commits_between(self, old: str | None, new: str, *, first_parents: bool = False) -> list[str]:
        """
        Return the commits that are in *new* and not in *old*, newest first.

        Args:
            first_parents: Follow only the first parents, and leave out merged commits.

        Raises:
            RepositoryError: git failed.
        """
        if old == new:
            return []
        if old and (few := self.objects.lineage(old, new, longest=_A_FEW_COMMITS)):
            return few
        options = ["--first-parent"] if first_parents else []
        return self.git.query("rev-list", *options, new, *([f"^{old}"] if old else []), "--").split()

    def commit_time(self, commit: str) -> float:
        """
        Return when *commit* was made, in seconds since the epoch.

        git stores whole seconds. The file system has the time at which a commit's loose object was written,
        to the millisecond.
        """
        try:
            return os.stat(path_of(str(self.path), commit)).st_mtime
        except FileNotFoundError:
            return float(self.git.query("show", "--no-patch", "--format=%ct", commit, "--"))

    def log(
        self,
        tip: str,
        *,
        limit: int = -1,
        skip: int = 0,
        without: str | Sequence[str] | None = None,
        file: str | None = None,
        children_first: bool = False,
        saying: str | None = None,
    ) -> list[Commit]:
        """
        Return commits that are in *tip*, newest first by their committers' clocks.

        Args:
            tip: Full object name of a commit.
            limit: How many to return at most; default: all.
            skip: How many to leave out first.
            without: Leave out what this commit contains, or any of these.
            file: Only commits that change the file at this path of the tree.
            children_first: Whether each commit comes after all of its children, even if clocks differed.
            saying: Only commits with this text in one line of their message.
        """
        left_out = [without] if isinstance(without, str) else without or ()
        said = ["--fixed-strings", f"--grep={saying}"] if saying else []
        text = self.git.query(
            "log", "-z", f"--format={_LOG_FORMAT}", f"--skip={skip}", f"--max-count={limit}", *said,
            *(["--date-order"] if children_first else []), tip, *(f"^{name}" for name in left_out),
            # With `:(top)` git could not use the commit-graph's changed paths.
            "--", *([f":(literal){file}"] if file else []),
            gives_way=True,
        )  # fmt: skip
        return _commits(text)

    def commits_named(self, names: Sequence[str]) -> list[Commit]:
        """
        Return the commits with the full object names *names*, in their order.

        Raises:
            RepositoryError: One of them is not known here.
        """
        return _commits(
            self.git.query("log", "-z", "--no-walk=unsorted", f"--format={_LOG_FORMAT}", *names, "--")
        )

    def outstanding(self, tip: str, done: Sequence[str], *, limit: int) -> list[tuple[str, list[str]]]:
        """
        Return the commits that are in *tip* and in none of *done*, each after its parents, with those.

        Args:
            limit: How many to return at most: those that come first.

        Raises:
            RepositoryError: One of them is not known here.
        """
        wanted = (tip, *(f"^{commit}" for commit in done), "--")
        if not (count := self.count_outstanding(tip, done)):
            return []
        skip = f"--skip={max(0, count - limit)}"  # git counts from the newest
        lines = self.git.query(
            "rev-list", "--topo-order", "--reverse", "--parents", skip, *wanted, timeout_s=WALK_TIMEOUT_S
        )
        return [(name, parents) for name, *parents in map(str.split, lines.splitlines())]

    def count_outstanding(self, tip: str, done: Sequence[str]) -> int:
        """
        Count the commits that are in *tip* and in none of *done*.

        Raises:
            RepositoryError: One of them is not known here.
        """
        without = [f"^{commit}" for commit in done]
        return int(self.git.query("rev-list", "--count", tip, *without, "--", timeout_s=WALK_TIMEOUT_S))

    def count_between(self, old: str | None, new: str) -> int:
        """
        Count the commits that are in *new* and not in *old*; *old* may be None.

        Raises:
            RepositoryError: One of them is not known here.
        """
        if old is None and (few := self._few(new)):
            return len(few)
        return int(self.git.query("rev-list", "--count", new, *([f"^{old}"] if old else []), "--"))

    def root_of(self, tip: str) -> str:
        """
        Return the root commit of *tip*; of several, the oldest.

        Raises:
            RepositoryError: git failed.
        """
        if few := self._few(tip):
            return few[-1]
        return self.git.query("rev-list", "--max-parents=0", tip, "--").split()[-1]

    def _few(self, tip: str) -> list[str]:
        """
        Return all commits of a young history, newest first, if they are loose and none is a merge.
        """
        return self.objects.lineage(None, tip, longest=_A_FEW_COMMITS, packed=False)

    def merge_base(self, one: str, other: str) -> str | None:
        """
        Return the merge base of both, or None if they share no history.

        Raises:
            RepositoryError: One of them is not known here.
        """
        return next(iter(self.merge_bases(one, other)), None)

    def merge_bases(self, one: str, other: str) -> list[str]:
        """
        Return the best commits that are in both: more than one where each has merged the other before.

        Raises:
            RepositoryError: One of them is not known here.
        """
        asked = "merge-base", "--all", one, other
        found = self.git.run(*asked, timeout_s=QUERY_TIMEOUT_S)
        if found.exit_status == 1 and not found.stderr:
            return []
        return self.git.answer(found, *asked).split()

    def files_changed(self, old: str, new: str) -> list[str]:
        """
        Return the paths of the files in which the trees of two commits differ, sorted.

        Raises:
            RepositoryError: One of them is not known here.
        """
        changed = self.git.query("diff-tree", "-r", "-z", "--name-only", "--no-renames", old, new, "--")
        return sorted(filter(None, changed.split("\0")))

    def files_of(self, commit: str) -> list[str]:
        """
        Return the paths of the files that *commit* changes against its first parent, sorted.

        Raises:
            RepositoryError: git failed.
        """
        changed = self.git.query(
            "diff-tree", "-r", "-z", "--root", "--name-only", "--no-renames", "--no-commit-id",
            "-m", "--first-parent", commit, "--",
        )  # fmt: skip
        return sorted(filter(None, changed.split("\0")))

    def moves_of(self, commit: str) -> dict[str, str]:
        """
        Return where files that *commit* adds were before, by their paths: git finds pairs of similar content.

        Raises:
            RepositoryError: git failed.
        """
        said = self.git.query(
            "diff-tree", "-r", "-z", "--root", "--name-status", "--diff-filter=R",
            f"--find-renames={_LEAST_ALIKE}", f"-l{_MOST_COMPARED}",
            "--no-commit-id", "-m", "--first-parent", commit, "--",
        )  # fmt: skip
        parts = said.split("\0")
        return dict(zip(parts[2::3], parts[1::3], strict=True))

    def changes_of(
        self, commits: Sequence[Commit], file: str
    ) -> dict[str, tuple[tuple[str, str], tuple[str, str]]]:
        """
        Return mode and full object name of *file* before and after each commit, by the commit's name.

        "Before" is the commit's first parent. A mode of zeros means that there is no file. Commits that do
        not change the file are left out.

        Raises:
            RepositoryError: git failed.
        """
        lines = "".join(f"{' '.join((commit.hash, *commit.parents[:1]))}\n" for commit in commits)
        with open(os.memfd_create("commits"), "w+b") as wanted:
            wanted.write(lines.encode())
            wanted.seek(0)
            said = self.git.query(
                "diff-tree", "--stdin", "--root", "-r", "-z", "--raw", "--no-abbrev", "--no-renames", "--",
                f":(literal){file}", timeout_s=WALK_TIMEOUT_S, stdin=cast(BinaryIO, wanted), gives_way=True,
            )  # fmt: skip
        found, commit = {}, ""
        for part in said.split("\0"):
            if OBJECT_NAME.fullmatch(part):
                commit = part
            elif changed := _CHANGED.fullmatch(part):
                found[commit] = (changed[1], changed[3]), (changed[2], changed[4])
        return found


@lru_cache(maxsize=4096)
def _is_ancestor(git_dir: str, commit: str, tip: str) -> bool:
    # Asked several times for each push. The answer never changes.
    objects = Objects(git_dir)
    if objects.lineage(tip, commit, longest=_NEIGHBOURS, packed=False):
        return False
    if (known := objects.is_ancestor(commit, tip, most=_NEIGHBOURS)) is not None:
        return known
    # gitsheets would hold the interpreter lock for the whole walk, and err if committers' clocks differ.
    found = run_git(Path(git_dir), "merge-base", "--is-ancestor", commit, tip)
    if found.exit_status not in (0, 1):
        raise gitsheets.GitsheetsError(f"git cannot compare {commit} with {tip}: {found.stderr.strip()}")
    return found.exit_status == 0


def _commits(text: str) -> list[Commit]:
    """
    Return the commits that ``git log`` has written by ``_LOG_FORMAT``.
    """
    values = text.split("\0")[: -1 if text.endswith("\0") else None]
    width = _LOG_FORMAT.count("%x00") + 1
    return [_commit(values[start : start + width]) for start in range(0, len(values) - width + 1, width)]


def _commit(values: list[str]) -> Commit:
    name, parents, author, email, authored_at, message, trailers = values
    pairs = (line.partition(": ") for line in trailers.splitlines())
    lines = tuple((key, value) for key, _, value in pairs if value)
    return Commit(
        hash=name,
        parents=tuple(parents.split()),
        author=(author, email),
        authored_at=authored_at,
        message=message.strip("\n"),
        trailers=dict(lines),
        trailer_lines=lines,
    )
