"""
Reporting a file that this process may not use, with its owner and the command that corrects it.

Any command may find a volume that another user filled or another pod mounted. All commands report it with the
same line.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ferry.worker.errors import RepositoryError


@contextmanager
def owners_named(repository: Path) -> Iterator[None]:
    """
    Turn a refused access in the block into one line with path, owner and remedy.

    Raises:
        RepositoryError: The kernel denied access to a file or a directory.
    """
    try:
        yield
    except PermissionError as exc:
        raise RepositoryError(refused(exc, repository)) from exc


def refused(error: PermissionError, repository: Path) -> str:
    """
    Return a line on *error*: the path, its owner, and the command that corrects it.
    """
    # fcntl's errors do not name a file.
    return not_ours(Path(os.fsdecode(error.filename or repository)), repository)


def not_ours(path: Path, repository: Path) -> str:
    """
    Return the line for *path*, or for the directory above it that denies access.
    """
    culprit, uid = _nearest(path.absolute()), os.geteuid()
    found = culprit.stat()
    return (
        f"{culprit} belongs to {_named(found.st_uid)} with mode {found.st_mode & 0o7777:04o}, and "
        f"Ferry, which runs as {_named(uid)}, may not use it; {_remedy(culprit, path, repository.absolute())}"
    )


def _nearest(path: Path) -> Path:
    """
    Return *path*, or its nearest parent that this process can stat.
    """
    for each in (path, *path.parents):
        with contextlib.suppress(OSError):
            each.stat()
            return each
    return Path("/")


def _remedy(culprit: Path, path: Path, repository: Path) -> str:
    uid, gid = os.geteuid(), os.getegid()
    if culprit.is_relative_to(repository):
        command = "chmod -R u+rwX" if culprit.stat().st_uid == uid else f"chown -R {uid}:{gid}"
        return f"correct it with: {command} {repository}"
    if not culprit.is_dir():
        return f"correct it with: chown {uid}:{gid} {culprit}"
    if not os.access(culprit, os.X_OK):
        return f"allow access with: chmod o+x {culprit}"
    wanted = repository if repository.is_relative_to(culprit) else path
    return f"make the directory with: install -d -o {uid} -g {gid} {wanted}"


def _named(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (user {uid})"
    except KeyError:
        return f"user {uid}"
