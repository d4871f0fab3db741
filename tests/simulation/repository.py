"""
A model of git: commits, and a data repository with the refs that Ferry reads and moves.

A set of commits is one number with a bit for each commit, so that "is an ancestor of" is one shift.
``test_git_model.py`` holds the answers equal to real git's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ferry.worker.errors import RepositoryError
from ferry.worker.git.history import Commit
from ferry.worker.git.refs import RefMovedError
from ferry.worker.git.repository import Repository
from ferry.worker.repair.merger import Conflict, Merged
from tests.simulation.machine import Disk

BRANCH = "main"


@dataclass
class Commits:
    """
    Every commit of the world, whoever has it, by number.

    Attributes:
        ancestors: The set of each commit's ancestors, with itself.
        touched: The file that each changes; None: a merge.
        promotions: Their names, by the number of the commit that makes a repository the primary.
    """

    seed: int = 0
    names: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    parents: list[tuple[int, ...]] = field(default_factory=list)
    ancestors: list[int] = field(default_factory=list)
    authors: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    touched: list[str | None] = field(default_factory=list)
    promotions: dict[int, str] = field(default_factory=dict)

    def promote(self, tip: int, *, author: str, at: float) -> int:
        """
        Add the commit on top of *tip* that makes a repository the primary.
        """
        number = self.add(tip, author=author, at=at, touches=None)
        self.promotions[number] = f"{number:032x}"
        return number

    def add(self, *parents: int, author: str, at: float, touches: str | None) -> int:
        number = len(self.names)
        name = hashlib.sha1(f"{self.seed} {number}".encode(), usedforsecurity=False).hexdigest()
        self.names.append(name)
        self.numbers[name] = number
        self.parents.append(parents)
        ancestors = 1 << number
        for parent in parents:
            ancestors |= self.ancestors[parent]
        self.ancestors.append(ancestors)
        self.authors.append(author)
        self.times.append(at)
        self.touched.append(touches)
        return number

    def of(self, tip: int | None) -> int:
        """
        Return the set of the commits in *tip*.
        """
        return 0 if tip is None else self.ancestors[tip]

    def has(self, tip: int | None, commit: int | None) -> bool:
        return commit is None or (tip is not None and bool(self.ancestors[tip] >> commit & 1))

    def between(self, old: int | None, new: int) -> list[int]:
        """
        Return the commits that are in *new* and not in *old*, newest first.
        """
        return [*members(self.ancestors[new] & ~self.of(old))][::-1]

    def bases(self, one: int, other: int) -> list[int]:
        """
        Return the best common ancestors.
        """
        both = self.ancestors[one] & self.ancestors[other]
        return [each for each in members(both) if not self._is_below(each, both)][::-1]

    def _is_below(self, commit: int, others: int) -> bool:
        return any(each != commit and self.ancestors[each] >> commit & 1 for each in members(others))


def members(commits: int) -> Iterator[int]:
    """
    Yield the numbers of a set of commits, oldest first.
    """
    while commits:
        low = commits & -commits
        yield low.bit_length() - 1
        commits ^= low


class DataRepository(Repository):
    """
    The data repository as one process sees it: Ferry's ``Repository`` on the model's refs.

    Args:
        disk: Has the refs.
        store: The refs and objects that all processes share.
        urls: Addresses of the remotes.
    """

    def __init__(self, disk: Disk, store: Store, urls: dict[str, str]) -> None:
        self.path: Any = disk.root
        self.branch, self.ref = BRANCH, f"refs/heads/{BRANCH}"
        self.name, self.pushes, self.express = "town", True, False
        self.store = store
        self.objects: Any = SimpleNamespace(is_commit=store.holds)
        self.git: Any = SimpleNamespace(given=dict, query=self._query)
        self.credentials: Any = SimpleNamespace(
            remotes=urls,
            configuration=lambda remote: (),
            environment=lambda remote, **_: {},
            hang_up_command=lambda remote: None,
        )
        self._tracking: Any = Tracking(store)

    def head(self) -> str | None:
        return self.store.read(self.ref)

    def contains(self, commit: str, tip: str | None) -> bool:
        store = self.store
        if tip is None or commit == tip:
            return commit == tip
        if not (store.holds(commit) and store.holds(tip)):
            return False
        return store.commits.has(store.number(tip), store.number(commit))

    def commits_between(self, old: str | None, new: str, *, first_parents: bool = False) -> list[str]:
        commits, store = self.store.commits, self.store
        known, tip = (None if old is None else store.known(old)), store.known(new)
        if not first_parents:
            return [commits.names[each] for each in commits.between(known, tip)]
        line: list[str] = []
        step: int | None = tip
        while step is not None and not (known is not None and commits.has(known, step)):
            line.append(commits.names[step])
            step = next(iter(commits.parents[step]), None)
        return line

    def count_between(self, old: str | None, new: str) -> int:
        return len(self.commits_between(old, new))

    def commit_time(self, commit: str) -> float:
        return self.store.commits.times[self.store.known(commit)]

    def merge_bases(self, one: str, other: str) -> list[str]:
        commits, known = self.store.commits, self.store.known
        return [commits.names[each] for each in commits.bases(known(one), known(other))]

    def files_changed(self, old: str, new: str) -> list[str]:
        return sorted(self.store.files(self.store.known(old), self.store.known(new)))

    def log(self, tip: str, *, limit: int = -1, without: Any = None, **_: Any) -> list[Commit]:
        names = self.commits_between(without, tip)
        return [self._commit(name) for name in names[: limit if limit >= 0 else None]]

    def _commit(self, name: str) -> Commit:
        commits, number = self.store.commits, self.store.number(name)
        parents = tuple(commits.names[each] for each in commits.parents[number])
        author = commits.authors[number]
        return Commit(
            hash=name,
            parents=parents,
            author=(author, f"{author}@example.org"),
            authored_at="",
            message="a change",
            trailers={"Ferry-Promotion": commits.promotions[number]} if number in commits.promotions else {},
        )

    def _query(self, *arguments: str, **_: object) -> str:
        """
        List the promotions of some name among commits, which is all that Ferry asks where it decides.
        """
        wanted = next((each for each in arguments if each.startswith("--grep=")), None)
        if wanted is None:
            raise RepositoryError(f"git {arguments[0]} is not simulated")
        name = wanted.partition(": ")[2]
        commits, known = self.store.commits, self.store.known
        tips = [each for each in arguments[1:] if each[0] not in "-"]
        (tip,) = [known(each) for each in tips if each[0] != "^"]
        without = next((known(each[1:]) for each in tips if each[0] == "^"), None)
        found = [each for each in commits.between(without, tip) if each in commits.promotions]
        names = [commits.names[each] for each in found if name in ("", commits.promotions[each])]
        return "\n".join(names)

    def url_of(self, remote: str) -> str:
        return str(self.credentials.remotes[remote])


class Store:
    """
    Refs and objects of the data repository, on its disk.

    A ref is moved durably or not at all, as ``move_ref`` does it.

    Attributes:
        objects: The set of the commits that it has.
        moved: Called with a ref, its old and its new commit after each move.
    """

    def __init__(self, commits: Commits, disk: Disk) -> None:
        self.commits = commits
        self.disk = disk
        self.objects = 0
        self.refs: dict[str, int] = {}
        self.moved: Callable[[str, int | None, int | None], object] = lambda ref, old, new: None

    # --- objects ---

    def number(self, name: str) -> int:
        return self.commits.numbers[name]

    def known(self, name: str) -> int:
        if not self.holds(name):
            raise RepositoryError(f"bad object {name}")
        return self.number(name)

    def holds(self, name: str) -> bool:
        number = self.commits.numbers.get(name)
        return number is not None and bool(self.objects >> number & 1)

    def take(self, tip: int) -> None:
        self.objects |= self.commits.of(tip)

    def files(self, old: int, new: int) -> set[str]:
        commits = self.commits
        found = {commits.touched[each] for each in commits.between(old, new)}
        return {each for each in found if each is not None}

    # --- refs ---

    def read(self, ref: str) -> str | None:
        self.disk.machine.effect(f"reads {ref}")
        number = self.refs.get(ref)
        return None if number is None else self.commits.names[number]

    def read_ref(self, path: object, ref: str) -> str | None:
        return self.read(ref)

    def move_ref(self, path: object, ref: str, *, new: str, old: str | None) -> None:
        self.disk.machine.effect(f"is to move {ref} to {new[:7]}")
        found = self.refs.get(ref)
        if (None if found is None else self.commits.names[found]) != old:
            raise RefMovedError(f"{ref} is not at {old}")
        self.disk.require_room(ref)  # for the draft
        self.disk.sync()  # which is flushed with all that was written before
        self.set(ref, self.number(new))

    def set(self, ref: str, new: int | None) -> None:
        old = self.refs.get(ref)
        if new is None:
            self.refs.pop(ref, None)
        else:
            self.refs[ref] = new
        self.moved(ref, old, new)
        self.disk.machine.effect(f"has moved {ref}")


class Tracking:
    """
    Where each remote's branch was last seen. Stands for Ferry's ``Tracking``.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def ref(self, remote: str) -> str:
        return f"refs/remotes/{remote}/{BRANCH}"

    def read(self, remote: str) -> str | None:
        return self._store.read(self.ref(remote))

    def write(self, remote: str, commit: str, *, url: str) -> None:
        disk, ref = self._store.disk, self.ref(remote)
        disk.machine.effect(f"is to track {remote} at {commit[:7]}")
        try:
            disk.require_room(ref)
        except OSError as exc:
            raise RepositoryError(f"cannot move {ref}: {exc}") from exc
        disk.sync()
        self._store.set(self.ref(remote), self._store.number(commit))

    def clear(self, *remotes: str) -> None:
        pass

    def forget(self, remote: str) -> None:
        self._store.set(self.ref(remote), None)

    def is_at(self, remote: str, url: str) -> bool:
        return True

    def at_address_since(self, remote: str) -> float | None:
        return None


class Merger:
    """
    Merges two commits; those that change one file on both sides conflict. Stands for gitsheets' merge.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock

    def merge(self, ours: str, theirs: str, *, message: str, **_: object) -> Merged:
        store, commits = self._store, self._store.commits
        store.disk.machine.effect("merges")
        one, other = store.known(ours), store.known(theirs)
        bases = commits.bases(one, other)
        base = bases[0] if bases else None
        mine, others = (commits.between(base, each) for each in (one, other))
        both = {commits.touched[each] for each in mine} & {commits.touched[each] for each in others} - {None}
        if both or base is None:
            conflicts = tuple(Conflict(path=str(each), kind="blob") for each in sorted(map(str, both)))
            return Merged(conflicts=conflicts, detail="both sides changed it")
        number = commits.add(one, other, author="Ferry", at=self._clock(), touches=None)
        store.objects |= 1 << number
        return Merged(commit=commits.names[number])
