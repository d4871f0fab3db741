"""
Names of files: which names a path may hold, and which a new file may have.

Existing files are served under any name that git can hold. A new name must be valid in a checkout on any
system, and acceptable to any git host.
"""

from __future__ import annotations

import re
import unicodedata

from ferry.app.errors import InvalidPathError

_NAME_MAX_BYTES = 255  # what the file systems of a checkout allow for one name
_PATH_MAX_BYTES = 1024  # and for a path: PATH_MAX of macOS, the smallest
_NAME = r"(?!\.{1,2}(?:/|\Z)|\.git(?:/|\Z))[^/\0\ud800-\udfff]+"
_PATH = re.compile(f"{_NAME}(?:/{_NAME})*", re.IGNORECASE)
# Names that git or a file system treats as git's own. A host that checks refuses the whole push for one of
# them (https://git-scm.com/docs/git-fsck, hasDotgit and gitmodulesName). Windows also calls ".git" "git~1".
_GITS_OWN = re.compile(r"\.git(modules|attributes)?|g[a-z0-9]{0,6}~[0-9]+", re.IGNORECASE)
# HFS+ ignores these; the list is in git's utf8.c.
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_DEVICE = re.compile(r"(con|prn|aux|nul|con(in|out)\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\\]|[ .]$')


def is_plain(path: str) -> bool:
    """
    Whether *path* is relative, without empty, ``.``, ``..`` and ``.git`` components.
    """
    return _PATH.fullmatch(path) is not None


def is_gits_own(path: str) -> bool:
    """
    Whether *path* contains a name reserved by git. New files may not use one; existing ones can be read and
    deleted.
    """
    # On Windows a backslash separates names, and a colon begins a stream of the file.
    parts = re.split(r"[/\\:]", _IGNORED.sub("", path))
    return any(_GITS_OWN.fullmatch(name.rstrip(" .")) for name in parts)


def folded(name: str) -> str:
    """
    Return *name* as a file system sees it that ignores case and Unicode form.
    """
    if name.isascii():
        return name.lower()
    # Letter by letter: no file system treats "ß" as "ss".
    plain = unicodedata.normalize("NFD", name).replace("ẞ", "ß").split("ß")
    return unicodedata.normalize("NFC", "ß".join(part.casefold() for part in plain))


def is_declarations(name: str) -> bool:
    """
    Whether a file system may treat *name* as ``.gitsheets``, the directory of the declarations.
    """
    return folded(_IGNORED.sub("", name)).rstrip(" .") == ".gitsheets"


def check_new(path: str, extension: str = "") -> None:
    """
    Check that a new file may have *path* with *extension*, and attachments below *path*.

    Raises:
        InvalidPathError: Some checkout or some git host cannot hold it.
    """
    if not is_plain(path):
        raise InvalidPathError(
            f"The path would be {path!r}: a part of a path cannot be empty, '.', '..' or '.git'."
        )
    if is_gits_own(path):
        raise InvalidPathError(
            f"The path would be {path!r}: git or a file system reserves a part of it, "
            "such as .git, git~1 or .gitmodules."
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
        raise InvalidPathError(f"The name {name!r} contains a control character.")
    if _DEVICE.fullmatch(name) or _NOT_ON_WINDOWS.search(name):
        raise InvalidPathError(
            f"Windows cannot have the name {name!r}: it reserves names such as aux and con, "
            'the characters <>:"|?*\\, and a space or a dot at the end.'
        )
