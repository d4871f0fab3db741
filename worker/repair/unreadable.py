"""
Records that both sides changed and gitsheets cannot read, such as one with a syntax error: it stops at them.

A side is taken of such a file as a whole. For that, commits stand in for ours and for theirs in which the
file is the other side's, so that gitsheets finds nothing to merge there.
"""

from __future__ import annotations

import gitsheets

from ferry.worker.git.prepare import COMMITTER
from ferry.worker.git.repository import Repository
from ferry.worker.git.trees import changed, with_files_of

_FENCE = "+++\n"  # of the TOML in a markdown record
_MARKDOWN_BYTES = 1 << 20
_ROLES = ("author", "committer")


def unreadable(repository: Repository, ours: str, theirs: str) -> list[str]:
    """
    Return the paths of the records that both sides changed and of which a version cannot be read, sorted.

    Raises:
        RepositoryError: git could not tell.
    """
    base = repository.merge_base(ours, theirs)
    if base is None:
        return []
    here, there = changed(repository, base, ours), changed(repository, base, theirs)
    both = sorted(path for path in here.keys() & there.keys() if here[path] != there[path])
    versions = (base, ours, theirs)
    return [path for path in both if not all(_is_readable(repository, each, path) for each in versions)]


def stand_ins(
    repository: Repository, ours: str, theirs: str, paths: list[str], seconds: int
) -> dict[str, tuple[str, str]]:
    """
    Return, by the side whose files at *paths* a merge is to have, the two commits to merge for it.

    Args:
        seconds: The time of the commits.

    Raises:
        RepositoryError: git could not.
        OSError: The disk refused.
    """

    def made(commit: str, other: str) -> str:
        tree = with_files_of(repository, commit, other, paths=paths, texts={})
        name, email = COMMITTER
        people = (f"{role} {name} <{email}> {seconds} +0000" for role in _ROLES)
        lines = [f"tree {tree}", f"parent {commit}", *people, "", "A stand-in for a merge\n"]
        return repository.objects.write("commit", "\n".join(lines).encode())  # unsigned: it goes nowhere

    return {"ours": (ours, made(theirs, ours)), "theirs": (made(ours, theirs), theirs)}


def _is_readable(repository: Repository, commit: str, path: str) -> bool:
    """
    Whether gitsheets can read the TOML of the file, or there is none.
    """
    git_dir = str(repository.path)
    blob = gitsheets.tree_entry_hash(git_dir, commit, path)
    if blob is None or _is_attachment(git_dir, blob, path):
        return True
    try:
        gitsheets.parse_records([_toml_of(path, bytes(gitsheets.blob_read(git_dir, blob)).decode())])
    except (gitsheets.GitsheetsError, ValueError):
        return False
    return True


def _is_attachment(git_dir: str, blob: str, path: str) -> bool:
    """
    Whether a file is too large for a markdown record, and is not read for that.
    """
    return not path.endswith(".toml") and gitsheets.blob_header(git_dir, blob)["size"] > _MARKDOWN_BYTES


def _toml_of(path: str, text: str) -> str:
    if path.endswith(".toml"):
        return text
    return text.removeprefix(_FENCE).partition(_FENCE)[0] if text.startswith(_FENCE) else ""
