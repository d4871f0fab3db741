"""
Cloning the data repository from its remote at the first start, completely or not at all.

``git clone`` takes the URL on its command line, where ``ps`` shows a token, and leaves an incomplete
repository if it is killed. So this module fetches into a directory beside the final path, and moves it there
when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

from ferry.worker.errors import RepositoryError
from ferry.worker.files.atomic_json import read_json, write_json
from ferry.worker.files.flushing import flush
from ferry.worker.files.locks import FileLock, LockTimeoutError
from ferry.worker.files.ownership import owners_named
from ferry.worker.files.places import whole_record
from ferry.worker.git.command import run_git
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.inventory import is_whole
from ferry.worker.git.prepare import prepare
from ferry.worker.git.refs import RefError, move_ref
from ferry.worker.git.remote import Remote
from ferry.worker.git.repository import Repository
from ferry.worker.settings import ORIGIN, Settings

_TIMEOUT_S = 3600.0  # for the whole history over a slow link
_LOCK_TIMEOUT_S = 2 * _TIMEOUT_S
_FREE_BYTES = 64 * 1024 * 1024  # with less than this not even a small repository can be packed


def make(settings: Settings, credentials: Credentials) -> bool:
    """
    Clone the data repository from origin if there is none yet; returns whether this call made it.

    Several processes may call this at once: one clones, and the others find the repository.

    Raises:
        RepositoryError: The directory cannot be made, or origin cannot be fetched; nothing is left behind.
    """
    with owners_named(settings.data_repo_path):
        return _make(settings, credentials)


def _make(settings: Settings, credentials: Credentials) -> bool:
    path = settings.data_repo_path
    if not is_empty(path):
        return False
    if ORIGIN not in settings.remotes:
        raise RepositoryError(
            f"CFP_DATA_REPO_PATH: there is nothing at {path}, and CFP_DATA_REMOTE is not set; set it to "
            f"clone the repository from there, or make one with: git init --bare {path}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place = _place(path)
        with FileLock(place / f".{path.name}.ferry-init.lock").hold(_LOCK_TIMEOUT_S):
            if not is_empty(path):
                return False
            for left_over in place.glob(f".{path.name}.ferry-init-*"):  # left by a process that was killed
                shutil.rmtree(left_over)
            draft = place / f".{path.name}.ferry-init-{uuid.uuid4().hex[:8]}"
            try:
                fetch_into(draft, settings, credentials)
                _move(draft, path)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except PermissionError:
        raise
    except (OSError, LockTimeoutError, RefError) as exc:
        raise RepositoryError(f"cannot make {path}: {exc}") from exc
    return True


def fetched_bytes(path: Path) -> int:
    """
    Return how many bytes of the running clone for *path* have arrived.
    """
    total = 0
    for place in (path, path.parent):
        for pack in place.glob(f".{path.name}.ferry-init-*/objects/pack/*"):
            with contextlib.suppress(FileNotFoundError):
                total += pack.stat().st_size
    return total


def check(settings: Settings, repository: Repository) -> list[str]:
    """
    Check what ``prepare`` does not; returns warnings.

    Raises:
        RepositoryError: The repository is an interrupted clone, or the disk has no room.
    """
    path = settings.data_repo_path
    warnings = []
    free = os.statvfs(path)
    if free.f_bavail * free.f_frsize < _FREE_BYTES:
        raise RepositoryError(
            f"{path} has less than {_FREE_BYTES >> 20} MiB of free space; make room on its volume"
        )
    if path.stat().st_uid != os.geteuid():
        warnings.append(
            f"{path} belongs to another user, so git commands that people type there are refused; "
            f"allow them with: git config --global --add safe.directory {path}"
        )
    head = repository.head()
    if head is None:
        if list((path / "objects" / "pack").glob("tmp_pack_*")):
            raise RepositoryError(
                f"{path} is an interrupted clone; remove it and clone again: rm -r {path} && ferry init"
            )
        warnings.append(
            f"{path} has no branch {repository.branch!r}, so no sheets; push one into it, "
            "or set CFP_DATA_BRANCH"
        )
    elif not _is_whole(repository, head):
        raise RepositoryError(
            f"{path} lacks objects of its branch {repository.branch!r}: a clone that was interrupted, or a "
            f"damaged disk. Keep it, and make another with: mv {path} {path}.damaged && ferry init"
        )
    return warnings


def _is_whole(repository: Repository, head: str) -> bool:
    """
    Whether every object that arrived since the last start is here; at the first start, every object.
    """
    record = whole_record(repository.path)
    known = read_json(record).get("commit")
    is_ancestor = known and repository.contains(known, head)
    found = is_whole(repository.git, head, known=known if is_ancestor else None)
    if found:
        with contextlib.suppress(OSError):  # without the record the next start checks more objects
            write_json(record, {"commit": head})
    return found is not False


def is_empty(path: Path) -> bool:
    """
    Whether *path* is missing or holds only what a file system or ``ferry init`` puts there.
    """
    if not path.exists():
        return True
    if not path.is_dir():
        raise RepositoryError(f"CFP_DATA_REPO_PATH: {path} is not a directory")
    return all(
        entry.name == "lost+found" or entry.name.startswith(f".{path.name}.ferry-init")
        for entry in path.iterdir()
    )


def _place(path: Path) -> Path:
    """
    Return the draft's directory: beside *path*, or in *path* if that is a volume of its own.
    """
    inside = path.is_mount() or (path.exists() and not os.access(path.parent, os.W_OK))
    return path if inside else path.parent


def fetch_into(draft: Path, settings: Settings, credentials: Credentials) -> Repository:
    """
    Make a bare repository at *draft* with origin's branch and its whole history.

    Raises:
        RepositoryError: It cannot be fetched, or objects are missing.
    """
    _check_files(settings)
    draft.mkdir()
    made = run_git(draft, "init", "--quiet", "--bare", f"--initial-branch={settings.data_branch}")
    if made.exit_status != 0:
        raise RepositoryError(f"git cannot make {draft}: {made.stderr.strip()}")
    there = replace(settings, data_repo_path=draft)
    prepare(there)
    repository = Repository.of(there, credentials)
    tip = Remote(repository, ORIGIN, timeout_s=settings.push_timeout_s).ask()
    if tip is None:
        raise RepositoryError(
            f"{ORIGIN} has no branch {settings.data_branch!r}; "
            "push one there, or set CFP_DATA_BRANCH to the one it has"
        )
    tip = Remote(repository, ORIGIN, timeout_s=_TIMEOUT_S).fetch()
    if tip is None or is_whole(repository.git, tip) is False:
        raise RepositoryError(f"{ORIGIN} did not send every object of the branch")
    move_ref(draft, repository.ref, new=tip, old=None)
    return repository


def _check_files(settings: Settings) -> None:
    # If ssh cannot read a key, it reports only that access was denied.
    files = {
        "CFP_SSH_KEY_PATH": settings.ssh_key_path,
        "CFP_SSH_KNOWN_HOSTS": settings.ssh_known_hosts,
        "CFP_HTTPS_TOKEN_PATH": settings.https_token_path,
    }
    for variable, path in files.items():
        if path is not None and not os.access(path, os.R_OK):
            state = "cannot be read by the user that Ferry runs as" if path.exists() else "does not exist"
            raise RepositoryError(f"{variable}: {path} {state}")


def _move(draft: Path, path: Path) -> None:
    if draft.parent != path:
        try:
            draft.rename(path)  # replaces an empty directory
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise RepositoryError(f"another process wrote to {path} meanwhile") from exc
    else:
        # HEAD last: without it, other processes do not see a repository.
        for entry in sorted(draft.iterdir(), key=lambda entry: entry.name == "HEAD"):
            entry.rename(path / entry.name)
    flush(path)
