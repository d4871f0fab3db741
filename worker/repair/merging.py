"""
The merge of two commits, and the comparison of its versions, as they run apart.

A module of its own that imports little: the process that it runs in is started for the first merge, while
pushes wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import gitsheets

from ferry.worker.repair.fields import differences, literal, mixed, name_of, parse

SIDES = ("ours", "theirs")
_VERSIONS = ("base", *SIDES, "result")
# Of a larger file the size is shown, and of a longer value both ends.
_FILE_BYTES = 1 << 20
_SHOWN_CHARACTERS = 400


def merged(
    git_dir: str,
    root: str,
    ours: str,
    theirs: str,
    seconds: int,
    takes: Mapping[str, str] | None,
    unreadable: Sequence[str] = (),
    stand_ins: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """
    Merge two commits record by record; returns the tree, and the conflicts.

    Args:
        takes: By ``PATH`` or ``PATH:FIELD``, the side that decides a conflict. With some, the answer
            also has a tree by each side, in which that side decides all conflicts; the paths to take from the
            tree of theirs; and the text of each record that has fields of both.
        unreadable: The paths of records that cannot be merged: they conflict as a whole.
        stand_ins: By each side, what is merged instead so that they are that side's.
    """
    pairs = stand_ins or dict.fromkeys(SIDES, (ours, theirs))

    def merge(side: str, prefer: str) -> Any:
        return gitsheets.merge_sheets(
            git_dir, *pairs[side], seconds, open_root=root, commit=False, prefer=prefer
        )

    found = merge("ours", "fail")
    conflicts = [{name: each[name] for name in ("path", "kind", "field")} for each in found["conflicts"]]
    conflicts += [{"path": path, "kind": "blob", "field": None} for path in unreadable]
    answer = {"tree": found["tree"], "conflicts": conflicts, "shown": None}
    if not (conflicts and takes):
        # The comparison cannot make its own of what it cannot read.
        return {**answer, "shown": merge("ours", "ours")["tree"]} if unreadable else answer
    trees = {side: merge(side, side)["tree"] for side in SIDES}
    return {**answer, "trees": trees, **_decided(git_dir, trees, conflicts, takes)}


def _decided(
    git_dir: str, trees: Mapping[str, str], conflicts: Sequence[Mapping[str, Any]], takes: Mapping[str, str]
) -> dict[str, Any]:
    """
    Return the paths at which theirs is taken, and the text of each record that has fields of both.
    """
    sides: dict[str, dict[str, str]] = {}
    for each in conflicts:
        path, field = each["path"], each["field"]
        sides.setdefault(path, {})[field] = takes.get(f"{path}:{field}", takes.get(path, "ours"))
    both = {path: fields for path, fields in sides.items() if {*fields.values()} == {*SIDES}}
    return {
        "theirs": [path for path, fields in sides.items() if {*fields.values()} == {"theirs"}],
        "mixed": {path: _mixed(git_dir, trees, path, fields) for path, fields in both.items()},
    }


def _mixed(git_dir: str, trees: Mapping[str, str], path: str, fields: Mapping[str, str]) -> str:
    ours, theirs = (_text(git_dir, gitsheets.tree_entry_hash(git_dir, trees[side], path)) for side in SIDES)
    return mixed(ours or "", theirs or "", {field for field, side in fields.items() if side == "theirs"})


def compared(
    git_dir: str,
    root: str,
    versions: tuple[str, str, str, str | None],
    seconds: int,
    conflicts: Mapping[str, Sequence[str | None]],
    paths: Sequence[str],
) -> list[dict[str, Any]]:
    """
    Compare the files at *paths*; returns for each how it changed, and the fields that differ.

    Args:
        versions: The commits of the base, of ours, of theirs and of the result, or their trees. Without a
            result it is what a merge leaves outside of the conflicts.
        seconds: The time of that merge.
        conflicts: By path, the fields in conflict; None for the whole file.
    """
    base, ours, theirs, result = versions
    if result is None:
        merge = partial(gitsheets.merge_sheets, git_dir, ours, theirs, seconds, open_root=root)
        result = merge(commit=False, prefer="ours")["tree"]
    trees = base, ours, theirs, result
    return [_change(git_dir, trees, path, conflicts.get(path, ())) for path in paths]


def _change(
    git_dir: str, trees: Sequence[str | None], path: str, conflicts: Sequence[str | None]
) -> dict[str, Any]:
    blobs = [tree and gitsheets.tree_entry_hash(git_dir, tree, path) for tree in trees]
    ours, theirs, result = (_verb(blobs[0], blob) for blob in blobs[1:])
    return {
        "path": path,
        "ours": ours,
        "theirs": theirs,
        "result": "conflict" if conflicts else result,
        "fields": _fields(path, [_text(git_dir, blob) for blob in blobs], conflicts),
    }


def _verb(base: str | None, blob: str | None) -> str:
    if base == blob:
        return "unchanged"
    return "added" if base is None else "removed" if blob is None else "changed"


def _fields(path: str, texts: Sequence[str | None], conflicts: Sequence[str | None]) -> list[dict[str, Any]]:
    """
    Return the fields that differ; a file that is no TOML record is one field without a name.
    """
    records = [{} if text is None else parse(text) for text in texts]
    if None in records or not path.endswith(".toml"):
        return [_field(None, texts, is_open=bool(conflicts))]
    whole = [name for name in conflicts if name]
    found = [
        (name_of(keys), [None if value is None else literal(value) for value in values])
        for keys, values in differences(records, whole)
    ]
    return [_field(name, values, is_open=name in conflicts or None in conflicts) for name, values in found]


def _field(name: str | None, texts: Sequence[str | None], *, is_open: bool) -> dict[str, Any]:
    shown = dict(zip(_VERSIONS, map(_cut, texts), strict=True))
    return {"name": name, **shown, "result": None if is_open else shown["result"], "conflict": is_open}


def _text(git_dir: str, blob: str | None) -> str | None:
    """
    Return the content of a file, or its size where that is large or no text; None where there is no file.
    """
    if blob is None:
        return None
    size = gitsheets.blob_header(git_dir, blob)["size"]
    content = bytes(gitsheets.blob_read(git_dir, blob)) if size <= _FILE_BYTES else b"\0"
    if b"\0" not in content:
        with suppress(UnicodeDecodeError):
            return content.decode("utf-8")
    return f"{size} bytes, {blob[:10]}"


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= _SHOWN_CHARACTERS:
        return text
    half = _SHOWN_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]}"
