"""
No function over forty lines, no class over two hundred and fifty, and no folder that is a corridor.

A docstring is not counted. What is still too long is named here with its length, which may only shrink.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = {ast.FunctionDef: 40, ast.AsyncFunctionDef: 40, ast.ClassDef: 250}

TOO_LONG: dict[str, dict[str, int]] = {}

# Flat in a package lie the way of a commit and what README and docs name; the rest has a room.
MOST_FLAT = {"app": 12, "worker": 18}
MOST_IN_A_ROOM = 25


def test_no_function_and_no_class_is_too_long():
    found: dict[str, dict[str, int]] = {}
    for path, name, lines in _too_long():
        if lines > TOO_LONG.get(path, {}).get(name, 0):
            found.setdefault(path, {})[name] = lines
    assert found == {}, "split it by what it decides and what it does"


def test_what_is_no_longer_too_long_is_off_the_list():
    named = {(path, name) for path, names in TOO_LONG.items() for name in names}
    assert named - {(path, name) for path, name, _ in _too_long()} == set(), "take these off TOO_LONG"


def test_a_new_module_has_a_room():
    flat = {package: _modules(ROOT / package) for package in MOST_FLAT}
    assert {package: names for package, names in flat.items() if len(names) > MOST_FLAT[package]} == {}


def test_no_room_is_a_corridor():
    rooms = [path for package in MOST_FLAT for path in (ROOT / package).rglob("*") if path.is_dir()]
    assert {str(room): names for room in rooms if len(names := _modules(room)) > MOST_IN_A_ROOM} == {}


def _modules(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


@cache
def _too_long() -> tuple[tuple[str, str, int], ...]:
    return tuple(_found_too_long())


def _found_too_long() -> Iterator[tuple[str, str, int]]:
    for package in ("app", "worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if (most := MOST_LINES.get(type(node))) and (lines := _lines(node)) > most:
                    yield str(path.relative_to(ROOT)), node.name, lines


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    lines = node.end_lineno - node.lineno + 1
    if isinstance(node, ast.ClassDef) or ast.get_docstring(node) is None:
        return lines
    docstring = node.body[0]
    return lines - (docstring.end_lineno - docstring.lineno + 1)
