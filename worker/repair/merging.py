"""
The merge of two commits, as it runs apart.

A module of its own that imports little: the process that it runs in is started for the first merge, while
pushes wait.
"""

from __future__ import annotations

from typing import Any

import gitsheets


def merged(
    git_dir: str, root: str, ours: str, theirs: str, seconds: int, message: str, committer: tuple[str, str]
) -> dict[str, Any]:
    """
    Merge two commits record by record; returns the commit, which no branch names yet, and the conflicts.

    Args:
        message: Of the commit; "" to make none and only see what conflicts.
    """
    found = gitsheets.merge_sheets(
        git_dir, ours, theirs, seconds, open_root=root, commit=bool(message), message=message or None,
        author=committer, committer=committer,
    )  # fmt: skip
    return {"commit": found["commit"], "conflicts": found["conflicts"]}
