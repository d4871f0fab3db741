"""
Trees made of others, by git itself: for the few that no write makes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from ferry.worker.git.history import History


def with_files_of(
    repository: History, tree: str, other: str, *, paths: Iterable[str], texts: Mapping[str, str]
) -> str:
    """
    Return *tree* with the files at *paths* as the tree *other* has them, or without those that it lacks.

    Args:
        texts: The content of further files, by their paths.

    Raises:
        RepositoryError: git could not.
        OSError: The disk refused.
    """
    there = changed(repository, tree, other)
    entries = [(*there[path], path) for path in paths if path in there]
    entries += [
        ("100644", repository.objects.write("blob", text.encode()), path) for path, text in texts.items()
    ]
    query = repository.git.query
    with (
        tempfile.TemporaryDirectory(prefix="ferry-index-") as scratch,
        open(os.memfd_create("entries"), "w+b") as listed,
    ):
        listed.write("".join(f"{mode} {name}\t{path}\0" for mode, name, path in entries).encode())
        listed.seek(0)
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        query("read-tree", tree, environment=index)
        query("update-index", "-z", "--index-info", stdin=cast(BinaryIO, listed), environment=index)
        return query("write-tree", environment=index).strip()


def changed(repository: History, tree: str, other: str) -> dict[str, tuple[str, str]]:
    """
    Return mode and object name in *other* of each file that differs from *tree*; zeros where it has none.

    Raises:
        RepositoryError: git could not tell.
    """
    options = ("-r", "-z", "--raw", "--no-abbrev", "--no-renames")
    parts = repository.git.query("diff-tree", *options, tree, other, "--").split("\0")
    heads = (head.split() for head in parts[::2])
    return {path: (head[1], head[3]) for head, path in zip(heads, parts[1::2], strict=False)}
