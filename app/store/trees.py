"""
git trees: finding entries in a commit's trees, and writing changed trees.

gitsheets parses the whole tree, which takes milliseconds for a sheet of ten thousand records. This module
searches for one entry in the tree's bytes, and replaces it there
(https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import compress
from operator import not_
from typing import NamedTuple

import gitsheets

from ferry.app.store.names import folded
from ferry.worker.git.objects import Objects
from ferry.worker.git.trees import ENTRIES, tree_of

_MODE = re.compile(rb"[0-7]{5,6} ")
_LINES = re.compile(rb"[0-7]{5,6} [^\0]+\0.{20}", re.DOTALL)
_MODE_BYTES = (5, 6)
_FORMAT_BITS, _EXECUTABLE = 0o170000, 0o100
# Keyed by the bits of a mode that git compares.
_KINDS = {0o40000: "tree", 0o100000: "blob", 0o120000: "link", 0o160000: "module"}
_WRITTEN = {"tree": b"40000", "blob": b"100644", "link": b"120000", "module": b"160000"}
_FEW = 16  # edits of one tree, each of which may look at all of it
_NAME_BYTES = 20  # bytes of an object's name in a tree


class PathTakenError(Exception):
    """
    A file would replace a directory or the reverse, or its name would differ only by case from another.
    """


class Entry(NamedTuple):
    """
    The entry at a path.

    Attributes:
        kind: ``blob``, ``tree``, ``link`` (symbolic link) or ``module`` (submodule).
        name: Full object name.
        is_executable: Whether a checkout makes it executable.
    """

    kind: str
    name: str
    is_executable: bool = False

    @property
    def is_file(self) -> bool:
        """
        Whether it is a file or a symbolic link.
        """
        return self.kind in ("blob", "link")


class Line(NamedTuple):
    """
    One line of a tree.

    Attributes:
        text: The name; bytes that are not UTF-8 are written as ``\\xNN``.
        is_text: Whether the name is UTF-8, so that a request can name it.
        entry: The entry of that name.
    """

    text: str
    is_text: bool
    entry: Entry


def find(objects: Objects, commit: str, path: str) -> Entry | None:
    """
    Return the entry at *path* in the tree of *commit*, or None; "" is the tree itself.

    Raises:
        gitsheets.GitsheetsError: An object on the way is missing or damaged.
    """
    found = Entry("tree", tree_of(objects, commit))
    for part in path.split("/") if path else ():
        if found.kind != "tree":
            return None
        below = _entry(objects.kept(found.name), part.encode())
        if below is None:
            return None
        found = below
    return found


def lines(tree: bytes) -> Iterator[Line]:
    """
    Parse the content of a tree; skips entries with unknown modes.
    """
    return _lines(ENTRIES.findall(tree))


def plain_and_others(tree: bytes) -> tuple[list[str], list[str], Iterator[Line]]:
    """
    Parse the content of a tree: the names of its ordinary files, which nearly all of a large tree are; their
    objects; and its other lines.
    """
    parts = ENTRIES.split(tree)  # in half of the time of a tuple for each entry
    modes, names, objects = (parts[column::4] for column in (1, 2, 3))
    are_plain = [mode == _WRITTEN["blob"] for mode in modes]
    others: list[tuple[bytes, bytes, bytes]] = []
    if not all(are_plain):
        others = [*compress(zip(modes, names, objects, strict=True), map(not_, are_plain))]
        names, objects = [*compress(names, are_plain)], [*compress(objects, are_plain)]
    if not names:
        return [], [], _lines(others)
    try:
        texts = b"\0".join(names).decode("utf-8").split("\0")
    except UnicodeDecodeError:
        return [], [], _lines(ENTRIES.findall(tree))
    return texts, b"".join(objects).hex("\n", _NAME_BYTES).split("\n"), _lines(others)


def _lines(entries: Iterable[tuple[bytes, bytes, bytes]]) -> Iterator[Line]:
    for mode, name, blob in entries:
        if entry := _meant(mode, blob):
            try:
                yield Line(name.decode("utf-8"), True, entry)
            except UnicodeDecodeError:
                yield Line(name.decode("utf-8", "backslashreplace"), False, entry)


def leaves(objects: Objects, tree: str) -> Iterator[tuple[str, Entry]]:
    """
    Yield path and entry of everything below *tree* but directories; skips names that are not UTF-8.

    Raises:
        gitsheets.GitsheetsError: A tree is missing or damaged.
    """
    waiting = [("", tree)]
    while waiting:
        above, name = waiting.pop()
        for line in lines(objects.kept(name)):
            if line.entry.kind == "tree":
                waiting.append((f"{above}{line.text}/", line.entry.name))
            elif line.is_text:
                yield f"{above}{line.text}", line.entry


def differing(objects: Objects, old: str | None, new: str | None) -> Iterator[str]:
    """
    Yield the path of each entry, other than a directory, in which two trees differ.

    Args:
        old, new: Full object names; None for an empty tree.

    Raises:
        gitsheets.GitsheetsError: A tree is missing or damaged.
    """
    waiting = [("", old, new)]
    while waiting:
        above, one, other = waiting.pop()
        if one == other:
            continue
        before, after = (
            {line.text: line.entry for line in lines(objects.kept(tree))} if tree else {}
            for tree in (one, other)
        )
        for name in before.keys() | after.keys():
            entries = [side.get(name) for side in (before, after)]
            if entries[0] == entries[1]:
                continue
            below = [each.name if each and each.kind == "tree" else None for each in entries]
            if any(below):
                waiting.append((f"{above}{name}/", below[0], below[1]))
            if any(each and each.kind != "tree" for each in entries):
                yield f"{above}{name}"


def changed(objects: Objects, tree: str | None, changes: Mapping[str, Entry | None]) -> str | None:
    """
    Apply *changes* to *tree* and write the result; returns its name, or None if it is empty.

    Args:
        tree: Full object name; None for an empty tree.
        changes: The new entry of each path, which is not a directory; None removes it.

    Raises:
        PathTakenError: A file and a directory would have the same path, a submodule is in the way, or a new
            name differs from another only by case or Unicode form.
        gitsheets.GitsheetsError: A tree on the way is missing or damaged.
        OSError: The objects cannot be written to the disk.
    """
    files: dict[str, Entry | None] = {}
    below: dict[str, dict[str, Entry | None]] = {}
    for path, entry in changes.items():
        name, _, rest = path.partition("/")
        if rest:
            below.setdefault(name, {})[rest] = entry
        else:
            files[name] = entry
    content = objects.kept(tree) if tree else b""
    edits: dict[bytes, tuple[Entry | None, Entry | None]] = {}
    stood = _reader(content, len(files) + len(below))
    for name in files | below:
        before = stood(name.encode())
        is_directory = before is not None and before.kind == "tree"
        file = files.get(name, None if is_directory else before)
        if file and before and before.kind == "module" and file.kind != "module":
            raise PathTakenError(f"{name!r} is a submodule")
        directory = before.name if before and is_directory else None
        if name in below:
            directory = changed(objects, directory, below[name])
        if file and directory:
            raise PathTakenError(f"{name!r} would be both a file and a directory")
        edits[name.encode()] = before, file or (Entry("tree", directory) if directory else None)
    edited = _edited(content, {name: edit for name, edit in edits.items() if edit[0] != edit[1]})
    if tree is not None and edited == content:
        return tree
    return objects.write("tree", edited) if edited else None


def _edited(tree: bytes, edits: Mapping[bytes, tuple[Entry | None, Entry | None]]) -> bytes:
    if len(edits) == 1:
        [(name, (before, after))] = edits.items()
        found = _locate(tree, name)
        if found and before and after and found[0] == _written(after):
            at = found[1]
            return tree[:at] + bytes.fromhex(after.name) + tree[at + _NAME_BYTES :]
    if not edits:
        return tree
    edited = _LINES.findall(tree)
    if sum(map(len, edited)) != len(tree):
        raise gitsheets.GitsheetsError("a tree is damaged; look with: git fsck")
    if len(edits) > _FEW:
        return _edited_at_once(edited, edits)
    for name, (_, after) in edits.items():
        _put(edited, name, after)
    for name, (before, after) in edits.items():
        if after and not before:
            _refuse_twin(edited, name.decode())
    return b"".join(edited)


def _edited_at_once(tree: Sequence[bytes], edits: Mapping[bytes, tuple[Entry | None, Entry | None]]) -> bytes:
    """
    Apply many edits in one pass over *tree*, instead of one pass for each.

    Raises:
        PathTakenError: As ``_refuse_twin`` does.
    """
    edited: dict[bytes, bytes] = {_name(line): line for line in tree}
    for name, (_, after) in edits.items():
        edited.pop(name, None)
        if after:
            edited[name] = _line(name, after)
    twins = Counter(folded(name.decode(errors="replace")) for name in edited)
    for name, (before, after) in edits.items():
        if after and not before and twins[folded(name.decode())] > 1:
            _refuse_twin(list(edited.values()), name.decode())
    ordered: list[bytes] = sorted(edited.values(), key=_place)
    return b"".join(ordered)


def _put(tree: list[bytes], name: bytes, entry: Entry | None) -> None:
    for place in (name, name + b"/"):
        at = bisect_left(tree, place, key=_place)
        if at < len(tree) and _place(tree[at]) == place:
            del tree[at]
    if entry:
        line = _line(name, entry)
        tree.insert(bisect_left(tree, _place(line), key=_place), line)


def _refuse_twin(tree: Sequence[bytes], name: str) -> None:
    """
    Refuse a new *name* in *tree* that some file systems treat as equal to another name there.

    Raises:
        PathTakenError: It names the other.
    """
    wanted = folded(name)
    # Folding one long text is a hundred times as fast as folding ten thousand names.
    names = b"//".join(map(_name, tree)).decode(errors="replace")
    if f"/{folded(names)}/".count(f"/{wanted}/") > 1:
        twin = next(other for other in names.split("//") if other != name and folded(other) == wanted)
        raise PathTakenError(f"{name!r} differs only by case or Unicode form from {twin!r}, which exists")


def _line(name: bytes, entry: Entry) -> bytes:
    return b"%s %s\0%s" % (_written(entry), name, bytes.fromhex(entry.name))


def _name(line: bytes) -> bytes:
    return line[: -_NAME_BYTES - 1].partition(b" ")[2]


def _place(line: bytes) -> bytes:
    """
    Return git's sort key for a line of a tree: the name, with a slash after a directory's.
    """
    mode, _, name = line[: -_NAME_BYTES - 1].partition(b" ")
    return name + b"/" if _kind(mode) == "tree" else name


@lru_cache
def _kind(mode: bytes) -> str | None:
    """
    Return the kind of a line with *mode*; old tools wrote ``040000`` and ``100640``.
    """
    return _KINDS.get(int(mode, 8) & _FORMAT_BITS)


def entry_of(mode: str, name: str) -> Entry | None:
    """
    Return the entry for git's *mode* and full object name; None if there is none.
    """
    return _meant(mode.encode(), bytes.fromhex(name))


def _meant(mode: bytes, name: bytes) -> Entry | None:
    if mode == b"100644":  # nearly every file of a sheet
        return Entry("blob", name.hex())
    kind = _kind(mode)
    return Entry(kind, name.hex(), _is_executable(mode)) if kind else None


def _is_executable(mode: bytes) -> bool:
    return _kind(mode) == "blob" and bool(int(mode, 8) & _EXECUTABLE)


def _written(entry: Entry) -> bytes:
    return b"100755" if entry.is_executable else _WRITTEN[entry.kind]


def _reader(tree: bytes, names: int) -> Callable[[bytes], Entry | None]:
    """
    Return what returns the entry of a name in *tree*, for so many *names*.
    """
    if names <= _FEW:
        return partial(_entry, tree)
    entries = {name: _meant(mode, blob) for mode, name, blob in ENTRIES.findall(tree)}
    return entries.get


def _entry(tree: bytes, name: bytes) -> Entry | None:
    found = _locate(tree, name)
    if found is None:
        return None
    mode, at = found
    return _meant(mode, tree[at : at + _NAME_BYTES])


def _locate(tree: bytes, name: bytes) -> tuple[bytes, int] | None:
    """
    Find ``MODE NAME\\0OBJECT`` in *tree*; returns its mode, and the offset of the object's name.
    """
    space = tree.find(b" " + name + b"\0")
    while space >= 0:
        begins = [space - size for size in _MODE_BYTES if _may_begin(tree, space - size)]
        if begins:
            begin = begins[0]
            if len(begins) > 1 or _MODE.search(tree, tree.rfind(b"\0", 0, begin) + 1, begin):
                return _walk(tree, name)  # the line may begin earlier: its name contains a mode
            return tree[begin:space], space + len(name) + 2
        space = tree.find(b" " + name + b"\0", space + 1)
    return None


def _may_begin(tree: bytes, at: int) -> bool:
    """
    Whether a line may begin at *at*: there is a mode, and the previous object name ends there.
    """
    follows = at == 0 or (at > _NAME_BYTES and tree[at - _NAME_BYTES - 1] == 0)
    return follows and _MODE.match(tree, at) is not None


def _walk(tree: bytes, name: bytes) -> tuple[bytes, int] | None:
    at = 0
    while at < len(tree):
        space = tree.index(b" ", at)
        end = tree.index(b"\0", space)
        if tree[space + 1 : end] == name:
            return tree[at:space], end + 1
        at = end + 1 + _NAME_BYTES
    return None
