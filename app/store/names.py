"""
Names of files: which a path may hold, and which a new file may have.

What stands in a repository already is served under any name that git can hold.
A new name has to fit into every checkout, on any system, and through any host.
"""

from __future__ import annotations

import re
import unicodedata

from ferry.app.errors import InvalidPathError

_NAME_MAX_BYTES = 255  # what the file systems of a checkout allow for one name
_PATH_MAX_BYTES = 1024  # and for a path: PATH_MAX of macOS, the least of them
_NAME = r"(?!\.{1,2}(?:/|\Z)|\.git(?:/|\Z))[^/\0\ud800-\udfff]+"
_PATH = re.compile(f"{_NAME}(?:/{_NAME})*", re.IGNORECASE)
# What git or some file system takes for a name of git's own, and a host that checks refuses with the whole
# push (https://git-scm.com/docs/git-fsck, hasDotgit and gitmodulesName); Windows calls ".git" also "git~1".
_GITS_OWN = re.compile(r"\.git(modules|attributes)?|g[a-z0-9]{0,6}~[0-9]+", re.IGNORECASE)
# HFS+ does not see these; the list is git's own, in utf8.c.
_UNSEEN = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_DEVICE = re.compile(r"(con|prn|aux|nul|con(in|out)\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\\]|[ .]$')


def is_plain(path: str) -> bool:
    """
    Whether *path* names something below where it starts, and nothing else.
    """
    return _PATH.fullmatch(path) is not None


def is_gits_own(path: str) -> bool:
    """
    Whether a part of *path* may be none of a new file's; what has one already can be read and removed.
    """
    # A backslash parts names on Windows, and a colon begins a stream of the file before it.
    parts = re.split(r"[/\\:]", _UNSEEN.sub("", path))
    return any(_GITS_OWN.fullmatch(name.rstrip(" .")) for name in parts)


def folded(name: str) -> str:
    """
    Return what *name* is to a file system that knows neither case nor Unicode's forms.
    """
    if name.isascii():
        return name.lower()
    # One letter for another only: "ß" is not "ss" to any of them.
    plain = unicodedata.normalize("NFD", name).replace("ẞ", "ß").split("ß")
    return unicodedata.normalize("NFC", "ß".join(part.casefold() for part in plain))


def is_declarations(name: str) -> bool:
    """
    Whether a file system may take *name* for ``.gitsheets``, where the declarations stand.
    """
    return folded(_UNSEEN.sub("", name)).rstrip(" .") == ".gitsheets"


def check_new(path: str, extension: str = "") -> None:
    """
    Check that a new file may stand at *path* with *extension*, and what is attached to it below *path*.

    Raises:
        InvalidPathError: Some checkout, or some host, could not hold it.
    """
    if not is_plain(path):
        raise InvalidPathError(
            f"The path would be {path!r}: each part needs a name, and '.', '..' and '.git' are none."
        )
    if is_gits_own(path):
        raise InvalidPathError(
            f"The path would be {path!r}, and git or a file system takes a part of it "
            "for one of git's own names, such as .git, git~1 or .gitmodules."
        )
    path += extension
    if len(path.encode()) > _PATH_MAX_BYTES:
        raise InvalidPathError(f"The path would be longer than {_PATH_MAX_BYTES} bytes.")
    for name in path.split("/"):
        _check_name(name)


def _check_name(name: str) -> None:
    if len(name.encode()) > _NAME_MAX_BYTES:
        raise InvalidPathError(f"A part of the path would be longer than {_NAME_MAX_BYTES} bytes.")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise InvalidPathError(f"The name {name!r} holds a control character.")
    if _DEVICE.fullmatch(name) or _NOT_ON_WINDOWS.search(name):
        raise InvalidPathError(
            f"Windows cannot have the name {name!r}: it reserves names such as aux and con, "
            'the characters <>:"|?*\\, and a space or a dot at the end.'
        )
