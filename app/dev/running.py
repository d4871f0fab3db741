"""
The settings of the stack that ``ferry dev`` runs, for commands in another terminal.

The stack writes them to a file in its own directory, and holds a lock on it for as long as it runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ferry.worker.errors import WorkerError

PREFIX = "ferry-dev-"  # of a stack's directory
_NAME = "environment"


@contextmanager
def announced(directory: Path, env: Mapping[str, str]) -> Iterator[Path]:
    """
    Keep the settings in *env* in a file, for a shell and for ``find``, for as long as the block runs.

    Args:
        directory: The stack's, which no other user can read: settings hold secrets.
    """
    path = directory / _NAME
    # Where the modules of extensions are, too: rules of theirs are asked about a merge.
    told = (name for name in sorted(env) if name.startswith("CFP_") or name == "PYTHONPATH")
    lines = [f"export {name}={shlex.quote(env[name])}\n" for name in told]
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("".join(lines))
        file.flush()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def find() -> dict[str, str]:
    """
    Return the settings of this user's running stack; none where there is no such stack.

    Raises:
        WorkerError: There are several.
    """
    found = _running()
    if len(found) > 1:
        sourced = "; or ".join(f". {path}" for path in sorted(found))
        raise WorkerError(f"ferry dev runs {len(found)} times; choose one: {sourced}")
    return next(iter(found.values()), {})


def serves(repository: Path) -> bool:
    """
    Whether a running stack of this user serves the data repository *repository*.
    """
    served = (Path(env.get("CFP_DATA_REPO_PATH", "/")) for env in _running().values())
    return repository.resolve() in {path.resolve() for path in served}


def _running() -> dict[Path, dict[str, str]]:
    """
    Return the settings of each running stack of this user, by the file that holds them.
    """
    return {path: _settings(text) for path in _candidates() if (text := _read(path)) is not None}


def _settings(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(text) if "=" in word)


def _candidates() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{_NAME}"))


def _read(path: Path) -> str | None:
    """
    Return the content of *path*, if it is this user's and its stack still runs.
    """
    with contextlib.suppress(OSError):
        directory = path.parent.lstat()
        if directory.st_uid != os.geteuid() or stat.S_IMODE(directory.st_mode) & 0o077:
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(fd) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read()
    return None
