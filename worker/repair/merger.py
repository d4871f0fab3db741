"""
Merging two commits of one repository, with what an operator decides where they conflict.

gitsheets merges. Where both sides changed the same field, it leaves the field open; an operator takes ours or
theirs. gitsheets can take one side for all conflicts, so it makes two trees that differ in the open places
alone, and the result is the first of them with the files that are taken of the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import gitsheets

from ferry.worker.errors import RepositoryError, TakeError
from ferry.worker.git.prepare import COMMITTER
from ferry.worker.git.repository import Repository
from ferry.worker.git.trees import side_by_side, tree_of, with_files_of
from ferry.worker.hosting.merges import Review
from ferry.worker.ledger.entry import Refusal
from ferry.worker.observe.printable import in_line
from ferry.worker.process.apart import ApartError, CrowdedError, Limit, OverrunError, Pool
from ferry.worker.repair.merging import SIDES, compared, merged
from ferry.worker.repair.unreadable import stand_ins, unreadable

Side = Literal["ours", "theirs"]
# The side that decides a conflict, by ``PATH`` or ``PATH:FIELD``.
Takes = Mapping[str, Side]
# What the rules of extensions make of our tip and a merged tree.
Reviewer = Callable[[str, str], Review]

_MERGE = Limit(cpu_s=20.0, wall_s=25.0, memory_bytes=1 << 30)
# Writers and pushes wait for a merge, so its process gives way to nothing.
mergers = Pool(nice=0)
_COMPARED = 200  # files; an operator reads these


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """
    A record, or one field of it, that both sides changed differently.

    Attributes:
        path: The file's path in the tree.
        kind: ``field``, ``delete-modify``, or ``blob`` for what is no record.
        field: The field's name, where it is one.
    """

    path: str
    kind: str
    field: str | None = None

    def __str__(self) -> str:
        return self.path if self.field is None else f"{self.path}:{self.field}"

    def is_decided(self, takes: Takes) -> bool:
        """
        Whether *takes* names a side for it.
        """
        return str(self) in takes or self.path in takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """
    One field of a record in which versions differ, as TOML; None where a version does not have it.

    Attributes:
        name: The field's name; None for a file as a whole.
        base: Its value in the last commit that both sides have.
        ours: Its value here.
        theirs: Its value on the remote.
        result: Its value after the reconcile.
        conflict: Whether an operator has to decide it first.
    """

    name: str | None
    base: str | None
    ours: str | None
    theirs: str | None
    result: str | None
    conflict: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    One file that a side changed.

    Attributes:
        path: Its path in the tree.
        ours: What our side did to it: ``unchanged``, ``added``, ``changed`` or ``removed``.
        theirs: What the remote's side did.
        result: What comes of it, likewise; ``conflict`` while an operator has to decide.
        fields: The fields that differ.
    """

    path: str
    ours: str
    theirs: str
    result: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """
    What came of a merge.

    Attributes:
        commit: The merge commit, which no branch names yet; None while something conflicts.
        tree: The tree to compare: of what is decided, where an operator decided a part.
        conflicts: What is left to decide.
        refusal: Why the rules of an extension do not let it be made.
        detail: Why there is no commit, or "".
        ran_out: Whether it took longer than writers can wait for.
    """

    commit: str | None = None
    tree: str | None = None
    conflicts: tuple[Conflict, ...] = ()
    refusal: Refusal | None = None
    detail: str = ""
    ran_out: bool = False


def parse_takes(texts: Iterable[str]) -> dict[str, Side]:
    """
    Return what *texts*, each ``PATH=SIDE`` or ``PATH:FIELD=SIDE``, take.

    Raises:
        ValueError: One of them names no side, or two take both sides of one place.
    """
    takes: dict[str, Side] = {}
    for text in texts:
        place, _, side = text.rpartition("=")
        if not place or side not in SIDES:
            raise ValueError(f"{text!r} is not PATH[:FIELD]=ours or PATH[:FIELD]=theirs")
        if takes.setdefault(place, cast(Side, side)) != side:
            raise ValueError(f"both sides of {place!r} cannot be taken")
    return takes


def with_rest(takes: Takes, left: Iterable[Conflict], side: str) -> Takes:
    """
    Return *takes*, and *side* of each conflict that they leave.

    Raises:
        ValueError: *side* is neither ours nor theirs.
    """
    return {**takes, **parse_takes(f"{conflict}={side}" for conflict in left)}


class Merger:
    """
    Merges commits of one repository. What both sides changed is merged apart: gitsheets opens the sheets for
    it, which may run their code.

    Args:
        repository: The data repository.
        clock: Seconds since the epoch, for the commits.
    """

    def __init__(self, repository: Repository, clock: Callable[[], float] = time.time) -> None:
        self._repository = repository
        self._clock = clock

    def merge(
        self,
        ours: str,
        theirs: str,
        *,
        message: str,
        takes: Takes | None = None,
        reviewer: Reviewer = lambda ours, tree: Review(tree=tree),
    ) -> Merged:
        """
        Merge two commits. No branch is moved.

        Args:
            message: Of the commit; "" to make none.
            takes: What an operator decided.
            reviewer: Asked once nothing conflicts; may refuse the merge, or change what it stores.

        Raises:
            TakeError: *takes* names what does not conflict, or cannot be taken so.
            ReconcileError: *reviewer* cannot tell.
            RepositoryError: The merge could not be started.
        """
        seconds = int(self._clock())
        if not takes and (tree := self._side_by_side(ours, theirs)) is not None:
            return self._reviewed(reviewer(ours, tree), (ours, theirs), message, seconds)
        try:
            found = self._merged(ours, theirs, seconds, takes and dict(takes))
        except gitsheets.GitsheetsError as exc:  # no common history
            return Merged(detail=str(exc))
        except OverrunError as exc:
            return Merged(detail=f"the records cannot be merged: {exc}", ran_out=True)
        except (ValueError, OverflowError) as exc:
            raise TakeError(f"take one side of the whole file: {exc}") from exc
        conflicts = [Conflict(**each) for each in found["conflicts"]]
        refuse_unknown(takes or {}, conflicts)
        if takes:
            tree = with_files_of(
                self._repository, *found["trees"].values(), paths=found["theirs"], texts=found["mixed"]
            )
            told = "\n".join(in_line(f"Take {side} of {place}") for place, side in sorted(takes.items()))
            message = message and f"{message}\n\n{told}"
        else:
            tree = found["tree"]
        if left := [conflict for conflict in conflicts if not conflict.is_decided(takes or {})]:
            shown = tree if takes else found["shown"]
            return Merged(tree=shown, conflicts=tuple(left), detail="records conflict")
        return self._reviewed(reviewer(ours, tree), (ours, theirs), message, seconds)

    def _reviewed(self, review: Review, parents: tuple[str, str], message: str, seconds: int) -> Merged:
        """
        Commit the merged tree, unless the review refuses it.
        """
        if review.refusal is not None:
            return Merged(tree=review.tree, refusal=review.refusal, detail=str(review.refusal))
        commit = self._commit(review.tree, parents, message, seconds) if message else None
        return Merged(commit=commit, tree=review.tree)

    def _merged(self, ours: str, theirs: str, seconds: int, takes: Takes | None) -> Any:
        """
        Return what ``merged`` says; a record that both sides changed and it cannot read is a conflict.
        """
        try:
            return self._call(merged, ours, theirs, seconds, takes)
        except gitsheets.ConfigError:
            if not (paths := unreadable(self._repository, ours, theirs)):
                raise
            sides = stand_ins(self._repository, ours, theirs, paths, seconds)
            return self._call(merged, ours, theirs, seconds, takes, paths, sides)

    def _side_by_side(self, ours: str, theirs: str) -> str | None:
        """
        Return the tree of both where no file was changed by both; else None.
        """
        objects, bases = self._repository.objects, self._repository.merge_bases(ours, theirs)
        if len(bases) != 1:
            return None
        try:
            return side_by_side(objects, *(tree_of(objects, commit) for commit in (*bases, ours, theirs)))
        except (gitsheets.GitsheetsError, OSError):
            return None  # gitsheets meets the same, and says what it is

    def _commit(self, tree: str, parents: tuple[str, ...], message: str, seconds: int) -> str:
        objects = self._repository.objects
        who = objects.committer.identity or COMMITTER
        try:
            return objects.write_commit(tree, parents, message, author=who, seconds=seconds)
        except OSError as exc:
            raise RepositoryError(f"cannot merge: {exc}") from exc

    def compare(
        self,
        versions: tuple[str, str, str, str | None],
        *,
        conflicts: Iterable[Conflict],
        paths: Iterable[str],
    ) -> tuple[Change, ...]:
        """
        Compare the files at *paths*, field by field; those in conflict first, and not more than two hundred.

        Args:
            versions: The commits of the base, of ours, of theirs and of the result, or their trees. Without a
                result it is what a merge leaves outside of the conflicts.

        Raises:
            RepositoryError: They cannot be compared.
        """
        fields: dict[str, list[str | None]] = {}
        for conflict in conflicts:
            fields.setdefault(conflict.path, []).append(conflict.field)
        wanted = sorted(paths, key=lambda path: path not in fields)[:_COMPARED]
        try:
            found = self._call(compared, versions, int(self._clock()), fields, wanted)
        except (gitsheets.GitsheetsError, OverrunError) as exc:
            raise RepositoryError(f"cannot compare both sides: {exc}") from exc
        return tuple(
            Change(**{**each, "fields": tuple(Field(**field) for field in each["fields"])}) for each in found
        )

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        place = str(self._repository.path), self._repository.root
        try:
            return mergers.call(function, *place, *arguments, limit=_MERGE)
        except (CrowdedError, ApartError) as exc:
            raise RepositoryError(f"cannot merge: {exc}") from exc


def refuse_unknown(takes: Takes, conflicts: Sequence[Conflict]) -> None:
    """
    Refuse *takes* that name what does not conflict.

    Raises:
        TakeError: One of them does.
    """
    known = {str(conflict) for conflict in conflicts} | {conflict.path for conflict in conflicts}
    if unknown := sorted(set(takes) - known):
        raise TakeError(
            f"nothing conflicts at {unknown[0]!r}, so that no side of it can be taken; nothing was changed. "
            f"In conflict: {', '.join(map(str, conflicts)) or 'nothing'}"
        )
