"""
The remote-tracking ref of each remote. Ferry moves it, not git.

The ref is a cache: if it cannot be read, the next push asks the remote. A ref of another branch whose name
clashes is removed. The ref belongs to a URL: when CFP_DATA_REMOTE has changed, a push to the old URL that is
still running does not move it.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import gitsheets

from ferry.worker.errors import RepositoryError
from ferry.worker.files.atomic_json import read_json, write_json
from ferry.worker.files.locks import LockTimeoutError
from ferry.worker.files.places import addresses_directory, file_in, prepare_lock
from ferry.worker.files.sharing import make_directories
from ferry.worker.git.command import run_git
from ferry.worker.git.objects import Objects
from ferry.worker.git.refs import RefError, RefLockedError, move_ref, read_ref
from ferry.worker.observe.logs import log

_LOCK_TIMEOUT_S = 30.0
_TRIES = 4
# These errors are temporary, and not a fault of the ref.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.ESTALE})


class Tracking:
    """
    The remote-tracking refs of one branch.

    Args:
        repository: The bare repository.
        branch: The branch's short name.
    """

    def __init__(self, repository: Path, branch: str) -> None:
        self._path = repository
        self._branch = branch
        # Also held by a start that changes a remote's address, see ``ferry.worker.git.prepare``.
        self._addresses = prepare_lock(repository)
        self._reported: set[tuple[str, str]] = set()

    def ref(self, remote: str) -> str:
        """
        Return the full name of the remote-tracking ref of the branch on *remote*.
        """
        return f"refs/remotes/{remote}/{self._branch}"

    def read(self, remote: str) -> str | None:
        """
        Return the last seen tip of the branch on *remote*; None if not known.

        Raises:
            RepositoryError: It cannot be read at the moment.
        """
        ref = self.ref(remote)
        try:
            seen = read_ref(self._path, ref)
            if seen is not None:
                _check_commit(str(self._path), seen)
        except (RefError, LookupError) as exc:
            self._report(remote, str(exc))
            return None
        except OSError as exc:
            if exc.errno in _PASSING:
                raise RepositoryError(f"{self._path}: cannot read {ref}: {exc}") from exc
            self._report(remote, str(exc))
            return None
        return seen

    def write(self, remote: str, commit: str, *, url: str) -> None:
        """
        Record that the branch on *remote* is at *commit*, unless the URL of the remote is no longer *url*.

        The caller holds the claim on *remote*. A lock file older than a second is removed: its holder is
        dead, or may move the ref later.

        Raises:
            RepositoryError: The disk refused.
        """
        try:
            with self._addresses.hold(_LOCK_TIMEOUT_S):
                if self.is_at(remote, url):
                    self._move(remote, commit)
        except (RefError, OSError, LockTimeoutError) as exc:
            raise RepositoryError(f"cannot move {self.ref(remote)}: {exc}") from exc

    def clear(self, *remotes: str) -> None:
        """
        Remove the refs of *remotes* that cannot be read: git fetches nothing while one exists.

        Raises:
            RepositoryError, OSError: A ref cannot be removed.
        """
        for remote in remotes:
            if self.read(remote) is None:
                self._make_way(remote)

    def forget(self, remote: str) -> None:
        """
        Remove the remote-tracking ref of *remote*.

        Raises:
            RepositoryError: git failed.
        """
        self._remove(self.ref(remote))

    def is_at(self, remote: str, url: str) -> bool:
        """
        Whether the URL of *remote* was *url* at the last start.
        """
        return self._address(remote) in (None, _fingerprint(url))

    def at_address_since(self, remote: str) -> float | None:
        """
        Return when the URL of *remote* was last changed, in seconds since the epoch; None if not known.
        """
        try:
            return self._address_file(remote).stat().st_mtime
        except OSError:
            return None

    def set_address(self, remote: str, url: str, *, before: str | None) -> None:
        """
        Record the URL of *remote*. If it changed, remove the remote-tracking ref.

        For the holder of ``prepare.lock``.

        Args:
            before: Its URL until now, if an older version of Ferry recorded it.

        Raises:
            RepositoryError: The remote-tracking ref cannot be removed.
            OSError: The disk refused.
        """
        now, known = _fingerprint(url), self._address(remote) or (before and _fingerprint(before))
        if known not in (None, now):
            self.forget(remote)
        if self._address(remote) != now:
            path = self._address_file(remote)
            make_directories(str(self._path), path.parent)
            write_json(path, {"address": now})

    def _address(self, remote: str) -> str | None:
        path = self._address_file(remote)
        try:
            found = path.stat()
        except OSError:
            return None
        return _address_in(path, (found.st_ino, found.st_mtime_ns, found.st_size))

    def _address_file(self, remote: str) -> Path:
        return file_in(addresses_directory(self._path), f"{remote}.json")

    def _move(self, remote: str, commit: str) -> None:
        ref = self.ref(remote)
        for tries_left in reversed(range(_TRIES)):
            seen = self.read(remote)
            if seen is None:
                self._make_way(remote)
            try:
                if seen != commit:
                    # If a power cut undoes it, the next push asks the remote.
                    move_ref(self._path, ref, new=commit, old=seen, lasts=False)
            except RefLockedError as exc:
                self._report(remote, str(exc))
                (self._path / f"{ref}.lock").unlink(missing_ok=True)
                if not tries_left:
                    raise
            except RefError:  # a person's `git fetch` has just moved it
                if not tries_left:
                    raise
            else:
                return

    def _make_way(self, remote: str) -> None:
        """
        Remove files that are not refs, and refs of other branches whose names clash with this one.
        """
        ref = self.ref(remote)
        names = _packed_names(self._path)
        parents = [ref[: match.start()] for match in re.finditer("/", ref)][3:]
        for name in parents:
            if name in names or (self._path / name).is_symlink() or (self._path / name).is_file():
                self._report(remote, f"{name} is in the way of {ref}")
                self._remove(name)
        path = self._path / ref
        for name in (name for name in names if name.startswith(f"{ref}/")):
            self._report(remote, f"{name} is in the way of {ref}")
            self._remove(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            self._remove(ref)

    def _remove(self, ref: str) -> None:
        """
        Remove a ref itself, not the ref that it points to.
        """
        # A loose file that is not a valid ref is in git's way, too.
        try:
            (self._path / ref).unlink(missing_ok=True)
        except (IsADirectoryError, NotADirectoryError):
            return
        if ref not in _packed_names(self._path):
            return
        done = run_git(self._path, "update-ref", "--no-deref", "-d", ref)
        if done.exit_status != 0:
            raise RepositoryError(f"{self._path}: cannot remove {ref}: {done.stderr.strip()}")

    def _report(self, remote: str, problem: str) -> None:
        """
        Log a problem once per process: status and metrics read the ref often.
        """
        if (remote, problem) not in self._reported:
            self._reported.add((remote, problem))
            log().warning("remote.forgotten", remote=remote, ref=self.ref(remote), error=problem)


def _packed_names(git_dir: Path) -> set[str]:
    try:
        text = (git_dir / "packed-refs").read_text("utf-8", "replace")
    except FileNotFoundError:
        return set()
    return {line.partition(" ")[2] for line in text.splitlines() if not line.startswith(("#", "^"))}


@lru_cache(maxsize=256)
def _check_commit(git_dir: str, name: str) -> None:
    """
    Raises:
        LookupError: There is no such commit. The result is not cached.
    """
    try:
        found = Objects(git_dir).is_commit(name)
    except gitsheets.GitsheetsError as exc:
        raise LookupError(f"{name} cannot be read: {exc}") from exc
    if not found:
        raise LookupError(f"{name} is not a commit of this repository")


@lru_cache(maxsize=256)
def _address_in(path: Path, version: tuple[int, ...]) -> str | None:
    return read_json(path).get("address")


@lru_cache(maxsize=256)
def _fingerprint(url: str) -> str:
    """
    Return a digest of a URL without its user and password, which may change.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return hashlib.sha256(url.encode()).hexdigest()
    if parts.scheme in ("http", "https"):
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return hashlib.sha256(url.encode()).hexdigest()
