"""
File modes in a repository that several users write to: ``core.sharedRepository``.

With that option, git makes new files readable and writable by the group or by all users, whatever the umask
is. Ferry gives its files beside git's the same mode, and gives a file in one of its own directories the mode
of that directory (https://git-scm.com/docs/git-config#Documentation/git-config.txt-coresharedRepository).
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ferry.worker.errors import RepositoryError

_GROUP, _EVERYBODY = 0o660, 0o664
_NAMED = {"umask": 0, "group": _GROUP, "all": _EVERYBODY, "world": _EVERYBODY, "everybody": _EVERYBODY}
_BOOLEANS = {"true": _GROUP, "yes": _GROUP, "on": _GROUP, "false": 0, "no": 0, "off": 0, "": 0}
_PRIVATE = ".key"  # readable by its owner only
_OLD_NUMBERS = {0: 0, 1: _GROUP, 2: _EVERYBODY}
_NUMBERS = {bits: number for number, bits in _OLD_NUMBERS.items()}

_known: dict[str, Sharing] = {}  # by the repository's directory


@dataclass(frozen=True, slots=True)
class Sharing:
    """
    The value of ``core.sharedRepository``.

    Attributes:
        bits: Permissions of a file; 0: the umask decides.
        is_exact: Whether they replace the permissions that the umask leaves; otherwise they are added.
    """

    bits: int
    is_exact: bool = False

    @classmethod
    def of(cls, value: str) -> Sharing:
        """
        Read the option's *value*.

        Raises:
            ValueError: git does not know the value.
        """
        bits = _NAMED.get(value, _BOOLEANS.get(value.lower()))
        if bits is not None:
            return cls(bits)
        try:
            number = int(value, 8)
        except ValueError:
            int(value)  # git reads any other number as true
            return cls(_GROUP)
        if number in _OLD_NUMBERS:
            return cls(_OLD_NUMBERS[number])
        if number & 0o600 != 0o600:
            raise ValueError("the owner must be able to read and write")
        return cls(number & 0o666, is_exact=True)

    @property
    def setting(self) -> str:
        """
        A value of the option with the same meaning.
        """
        return f"{self.bits:#05o}".replace("o", "") if self.is_exact else str(_NUMBERS[self.bits])

    def mode(self, mode: int) -> int:
        """
        Return the mode to give a file or directory that was created with *mode*.
        """
        if not self.bits:
            return mode
        bits = self.bits if mode & stat.S_IWUSR else self.bits & ~0o222
        if mode & stat.S_IXUSR:
            bits |= (bits & 0o444) >> 2
        mode = (mode & ~0o777 | bits) if self.is_exact else mode | bits
        if stat.S_ISDIR(mode):
            mode |= (mode & 0o444) >> 2
            if mode & 0o060:
                mode |= stat.S_ISGID
        return mode


def sharing(git_dir: str) -> Sharing:
    """
    Return the configured value; read once per process, at its start.

    Raises:
        RepositoryError: git does not know the value.
    """
    if git_dir not in _known:
        learn(git_dir, _configured(git_dir))
    return _known[git_dir]


def learn(git_dir: str, value: str) -> None:
    """
    Remember the configured *value*, from any scope, for this process.

    Raises:
        RepositoryError: git does not know the value.
    """
    try:
        _known[git_dir] = Sharing.of(value)
    except ValueError as exc:
        raise RepositoryError(
            f"core.sharedRepository of {git_dir} is {value!r}, which git does not know ({exc}); "
            "set it to group, all, umask or an octal mode such as 0640"
        ) from exc


def _configured(git_dir: str) -> str:
    from ferry.worker.process.gitpython import options  # most processes have learned the value from git

    value = "umask"
    for _, section, option, found in options(git_dir):
        # GitPython's names are case-sensitive, and git's are not.
        if (section.lower(), option.lower()) == ("core", "sharedrepository"):
            value = found
    return value


def share(git_dir: str, target: int | str | Path) -> None:
    """
    Give a file or directory that was just created in *git_dir* the mode that git would give it.
    """
    wanted = sharing(git_dir)
    if wanted.bits:
        _set_mode(target, wanted.mode(os.stat(target).st_mode))


def make_directory(git_dir: str, path: str | Path) -> None:
    """
    Make a directory in *git_dir*, unless it exists, with the mode that git would give it.

    Raises:
        OSError: Its parent is missing, or the directory cannot be made.
    """
    # Another process may have made it, and git may have removed it again, as it removes empty directories.
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
        with contextlib.suppress(FileNotFoundError):
            share(git_dir, path)


def make_directories(git_dir: str, path: Path) -> None:
    """
    Make the directory *path* in *git_dir*, and its missing parents, as ``make_directory`` does.
    """
    missing = []
    while str(path).startswith(f"{git_dir}/") and not path.is_dir():
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        make_directory(git_dir, each)


def inherit(target: int | Path, directory: Path) -> None:
    """
    Give a new file or directory the permissions of *directory*, the directory of Ferry's that contains it.
    """
    mode, above = os.stat(target).st_mode, directory.stat().st_mode
    # The setgid bit, which git sets on a directory that a group shares.
    given = above if above & stat.S_ISGID else 0
    if stat.S_ISDIR(mode):
        mode |= given & 0o2077
    else:
        mode |= given & 0o066
    _set_mode(target, mode & (~0o077 | above))


def share_all(git_dir: str, directory: Path) -> None:
    """
    Apply ``core.sharedRepository`` to *directory* and everything in it that this user owns, except keys.
    """
    if sharing(git_dir).bits:
        for path in (directory, *directory.rglob("*")):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                if not path.is_symlink() and _PRIVATE not in path.name:
                    share(git_dir, path)


def _set_mode(target: int | str | Path, mode: int) -> None:
    if stat.S_IMODE(os.stat(target).st_mode) != stat.S_IMODE(mode):
        with contextlib.suppress(PermissionError):  # another user has just made it
            os.chmod(target, stat.S_IMODE(mode))
