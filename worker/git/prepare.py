"""
Checking at the start that the data repository can be written and pushed.

The API and the worker both call ``prepare`` before anything else. Several processes may call it at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ferry.worker.errors import RepositoryError
from ferry.worker.files.atomic_json import replace_file
from ferry.worker.files.locks import LockTimeoutError
from ferry.worker.files.ownership import not_ours, owners_named
from ferry.worker.files.places import prepare_lock, remotes_directory, state_directory
from ferry.worker.files.room import NO_ROOM
from ferry.worker.files.sharing import learn, make_directories, share_all
from ferry.worker.git.config import (
    Configured,
    Key,
    is_true,
    partial_clone,
    pushes_elsewhere,
    read_all,
    read_without_git,
    replace_config,
    values_of,
)
from ferry.worker.git.tracking import Tracking
from ferry.worker.observe.logs import log
from ferry.worker.observe.redaction import redact
from ferry.worker.settings import ORIGIN, Settings

COMMITTER = ("Ferry", "ferry@localhost")
_LOCAL_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=posix"})
_LOCK_TIMEOUT_S = 30.0
_LOCK_IS_OLD_S = 60.0  # git holds a lock file for milliseconds
_IDENTITY: Key = ("ferry", "id")
_HEAD = re.compile(rb"ref:\s*refs/|[0-9a-f]{40}")


def prepare(settings: Settings) -> str:
    """
    Check the data repository, set its remotes to the URLs of the settings, and return its identity.

    The identity is made once and stored in the repository's configuration. It names this repository's queue,
    so that several repositories can share one broker.

    Raises:
        RepositoryError: The repository is not usable; the message names the fault and the remedy.
    """
    with owners_named(settings.data_repo_path):
        return _prepare(settings)


def _prepare(settings: Settings) -> str:
    path = settings.data_repo_path
    _check(path)
    _restore_head(path, settings)
    _check_branch(path, settings)
    _report_locks(path)
    state = state_directory(path)
    try:
        configured = _configuration(path)
        _check_configuration(configured, path, settings)
        learn(str(path), _last(configured, ("core", "sharedRepository")) or "umask")
        make_directories(str(path), remotes_directory(path))
        _check_file_system(state)
        with prepare_lock(path).hold(_LOCK_TIMEOUT_S):
            identity = _configure(configured, path, settings)
            share_all(str(path), state)
            return identity
    except PermissionError:
        raise
    except (OSError, LockTimeoutError) as exc:
        raise RepositoryError(f"cannot prepare {path}: {exc}") from exc


def _check(path: Path) -> None:
    # In Python 3.14 Path.exists() is False if access is denied.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        (path / "HEAD").stat()
    if not path.exists():
        raise RepositoryError(f"CFP_DATA_REPO_PATH: {path} does not exist; make it with: ferry init")
    if (path / ".git").exists():
        raise RepositoryError(
            f"CFP_DATA_REPO_PATH: {path} has a working tree, and Ferry needs a bare repository; "
            f"make one with: git clone --bare {path} {path}.git"
        )
    if not (path / "HEAD").is_file() or not (path / "objects").is_dir():
        raise RepositoryError(
            f"CFP_DATA_REPO_PATH: {path} is not a complete git repository; "
            f"move it away, and clone CFP_DATA_REMOTE with: ferry init"
        )
    for part in (path, path / "objects", path / "refs", path / "HEAD", path / "config"):
        needed = os.R_OK | os.W_OK | os.X_OK if part.is_dir() else os.R_OK
        if part.exists() and not os.access(part, needed):
            raise RepositoryError(not_ours(part, path))
    if (path / "reftable").exists():
        raise RepositoryError(
            f"{path} stores its refs as reftable, and Ferry supports only the files backend; "
            "convert it with: git refs migrate --ref-format=files"
        )
    if (path / "shallow").exists():
        raise RepositoryError(
            f"{path} is a shallow clone, and many servers refuse pushes from one; "
            f"complete it with: git -C {path} fetch --unshallow"
        )


def _restore_head(path: Path, settings: Settings) -> None:
    """
    Restore a ``HEAD`` that a power cut emptied: without it git does not recognise the repository.
    """
    if not _HEAD.match((path / "HEAD").read_bytes()):
        replace_file(path / "HEAD", f"ref: {settings.ref}\n".encode(), durably=True)
        log().warning("repository.head_restored", path=str(path / "HEAD"), ref=settings.ref)


def _check_branch(path: Path, settings: Settings) -> None:
    """
    Refuse a branch that is a symbolic ref: moving it would move the ref that it points to.
    """
    branch = path / settings.ref
    target = None
    with contextlib.suppress(OSError):
        target = (
            str(branch.readlink()) if branch.is_symlink() else branch.read_text("utf-8", "replace").strip()
        )
    if target is not None and (branch.is_symlink() or target.startswith("ref:")):
        target = target.removeprefix("ref:").strip()
        raise RepositoryError(
            f"{settings.ref} of {path} is a symbolic ref to {target}; set CFP_DATA_BRANCH to that "
            f"branch, or make it a real branch with: git -C {path} update-ref --no-deref {settings.ref} "
            f"$(git -C {path} rev-parse {settings.ref})"
        )


def _report_locks(path: Path) -> None:
    """
    Log git's lock files that are so old that they may be left over. The operator decides whether they are.

    Ferry recognises its own lock files by their inode and removes them when it needs the lock, see
    ``ferry.worker.git.refs``.
    """
    for lock, age_s in old_locks(path).items():
        hint = "if no git process runs on this repository, remove that file"
        log().warning("repository.lock_found", path=str(lock), age_seconds=round(age_s), hint=hint)


def old_locks(path: Path) -> dict[Path, float]:
    """
    Return git's lock files in *path* that are too old for a running git process, with their age in seconds.
    """
    found = {}
    for lock in (*path.glob("*.lock"), *(path / "refs").rglob("*.lock")):
        with contextlib.suppress(FileNotFoundError):
            age_s = time.time() - lock.stat().st_mtime
            if age_s > _LOCK_IS_OLD_S:
                found[lock] = age_s
    return found


def _check_file_system(state: Path) -> None:
    """
    Refuse a volume whose locks do not exclude other hosts, or that has no hard links.

    Raises:
        RepositoryError: The message names the volume and what it lacks.
    """
    mount = _mount_of(state)
    # https://man7.org/linux/man-pages/man5/nfs.5.html
    if mount and mount.kind.startswith("nfs") and _LOCAL_LOCKS.intersection(mount.options):
        raise RepositoryError(
            f"the locks on {mount.point} do not exclude other hosts ({', '.join(mount.options)}); "
            "mount it by NFS version 4, without nolock and local_lock"
        )
    probe = state / f"probe.{uuid.uuid4().hex}"
    linked = state / f"{probe.name}.linked"
    try:
        probe.touch()
        os.link(probe, linked)
    except OSError as exc:
        if exc.errno in NO_ROOM:
            return  # every write will be refused, and reads go on
        raise RepositoryError(f"{state} must be writable, on a file system with hard links: {exc}") from exc
    finally:
        probe.unlink(missing_ok=True)
        linked.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    point: str
    kind: str
    options: frozenset[str]


def _mount_of(path: Path) -> _Mount | None:
    """
    Return the mount that *path* is on (https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    found, resolved = None, f"{path.resolve()}/"
    for line in lines:
        before, _, after = line.partition(" - ")
        point, (kind, _, options) = before.split()[4], after.split(" ", 2)
        covers = resolved.startswith(point.replace("\\040", " ").rstrip("/") + "/")
        if covers and (found is None or len(point) >= len(found.point)):
            found = _Mount(point=point, kind=kind, options=frozenset(options.split(",")))
    return found


def _configure(configured: Sequence[Configured], path: Path, settings: Settings) -> str:
    """
    Write into the repository's own configuration what it lacks, and return the identity in it.
    """
    own = [each for each in configured if each.is_own]
    wanted = _wanted(own, path, settings)
    if _lacking(own, wanted):
        # Another process may have written it before this one held the lock.
        own = [each for each in _configuration(path) if each.is_own]
        wanted = _wanted(own, path, settings)
    tracking = Tracking(path, settings.data_branch)
    for name, url in settings.remotes.items():
        tracking.set_address(name, url, before=_last(own, _url_of(name)))
    if lacking := _lacking(own, wanted):
        replace_config(path, lacking)
    return wanted[_IDENTITY][0]


def _wanted(own: Sequence[Configured], path: Path, settings: Settings) -> dict[Key, list[str]]:
    """
    Return what the repository's own configuration is to contain.

    Raises:
        RepositoryError: It contains what Ferry cannot work with.
    """
    if not _is_true(own, ("core", "bare")):
        raise RepositoryError(
            f"CFP_DATA_REPO_PATH: {path} is not bare; set it with: git config core.bare true"
        )
    if (kind := _last(own, ("extensions", "objectformat")) or "sha1") != "sha1":
        raise RepositoryError(
            f"CFP_DATA_REPO_PATH: {path} names its objects by {kind}, and gitsheets supports only sha1; "
            "create it again with: git init --bare --object-format=sha1"
        )
    wanted = {_IDENTITY: [_last(own, _IDENTITY) or uuid.uuid4().hex[:12]], **_kept_whole(own)}
    # For commits that an operator makes here with git; commits of records have their own authors.
    for option, value in (("name", COMMITTER[0]), ("email", COMMITTER[1])):
        if not _last(own, ("user", option)):
            wanted["user", option] = [value]
    for name, url in settings.remotes.items():
        section, _ = _url_of(name)
        if _is_true(own, (section, "mirror")):
            raise RepositoryError(
                f"the remote {name} of {path} is a mirror, which pushes and deletes every ref; "
                f"stop that with: git config --unset remote.{name}.mirror"
            )
        # For operators: Ferry itself does not use a remote of this name, see ``ferry.worker.git.remote``.
        wanted[_url_of(name)] = [url]
        wanted[section, "fetch"] = _refspecs(values_of(own, (section, "fetch")), name, settings.ref)
    return wanted


def _lacking(own: Sequence[Configured], wanted: Mapping[Key, list[str]]) -> dict[Key, list[str]]:
    return {key: values for key, values in wanted.items() if values_of(own, key) != values}


def _kept_whole(own: Sequence[Configured]) -> dict[Key, list[str]]:
    """
    Return the configuration that keeps other git commands from removing acknowledged objects or refs.

    ``git gc`` and ``git prune`` remove every object that no ref reached when they started, and so objects
    committed since. In a repository of precious objects they remove nothing.
    """
    wanted = {("extensions", "preciousObjects"): ["true"]}
    if not _last(own, ("transfer", "fsckObjects")):
        # Applies when an operator fetches or pushes into the repository.
        wanted["transfer", "fsckObjects"] = ["true"]
    if not _last(own, ("core", "fsync")):
        # Otherwise `git pack-refs` removes refs before their packed copy is on the disk.
        wanted["core", "fsync"] = ["reference"]
    extensions = {each.key for each in own if each.key.startswith("extensions.")}
    if extensions <= {"extensions.preciousobjects"}:
        # So that a git too old for precious objects refuses the repository. Format 0 ignores unknown
        # extensions, and format 1 refuses them: if there is an unknown one, the format stays unchanged.
        wanted["core", "repositoryformatversion"] = ["1"]
    return wanted


def _url_of(remote: str) -> Key:
    return f'remote "{remote}"', "url"


def _last(configured: Sequence[Configured], key: Key) -> str | None:
    return next(iter(values_of(configured, key)[-1:]), None)


def _is_true(configured: Sequence[Configured], key: Key) -> bool:
    return is_true(_last(configured, key) or "")


def _refspecs(found: list[str], remote: str, branch: str) -> list[str]:
    """
    Return the refspecs for an operator's ``git fetch``: the configured ones that do not move *branch*.
    """
    ours = f"+refs/heads/*:refs/remotes/{remote}/*"
    kept = [refspec for refspec in found if not _covers(refspec.rpartition(":")[2], branch)]
    return kept if ours in kept else [ours, *kept]


def _covers(pattern: str, ref: str) -> bool:
    before, star, after = pattern.partition("*")
    return ref.startswith(before) and ref.endswith(after) if star else ref == pattern


def _configuration(path: Path) -> list[Configured]:
    """
    Return git's configuration of all scopes.

    Raises:
        RepositoryError: It cannot be read.
    """
    try:
        return read_all(path)
    except RepositoryError as exc:
        # The API serves without git, and each push reports the error.
        log().warning("git.not_started", error=str(exc))
        return read_without_git(path)


def _check_configuration(configured: Sequence[Configured], path: Path, settings: Settings) -> None:
    """
    Refuse a configuration of git, in any scope, that contradicts the settings.

    Raises:
        RepositoryError: The message names the key and the file that sets it.
    """
    if found := partial_clone(configured):
        raise RepositoryError(
            f"CFP_DATA_REPO_PATH: {path} is a partial clone ({found.key}), which lacks objects that Ferry "
            f"reads and pushes; keep it, and make a full clone with: mv {path} {path}.partial && ferry init"
        )
    for name, url in settings.remotes.items():
        if found := pushes_elsewhere(configured, name, url):
            variable = "CFP_DATA_REMOTE" if name == ORIGIN else "CFP_DATA_MIRRORS"
            raise RepositoryError(
                f"{redact(found.key)} in {found.origin} sends pushes for {name} "
                f"to another URL than {variable}; remove it, or set {variable} to that URL"
            )
