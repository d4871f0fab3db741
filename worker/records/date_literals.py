"""
Preserving how a file writes its dates when gitsheets renders the rest of it.

TOML has local dates, local times, and date-times without an offset, with any offset and with any number of
digits. gitsheets' Python binding reads each of them as a moment in UTC, to the millisecond, and writes that.
So the text that gitsheets renders is compared with the text that it replaces: a date of the same moment stays
as it was written, and a changed date keeps its type.
"""

from __future__ import annotations

import re
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import gitsheets

# Strings, comments and the headers of tables come first, so that no date is found in one
# (https://toml.io/en/v1.0.0). A table may be called 2026-01-31, and stands in several headers then.
_TOKEN = re.compile(
    r'''
    ^[ \t]*\[[^\n=]*\][ \t]*(?:\#[^\n]*)?$
    | """(?:[^"\\]++|\\.|"{1,2}(?!"))*+"{3,5} | \'\'\'(?:[^']++|'{1,2}(?!'))*+'{3,5}
    | "(?:[^"\\\n]++|\\.)*+" | '[^'\n]*+' | \#[^\n]*+
    | (?<![\w.+-])(?P<date>
        \d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)?)?
        | \d\d:\d\d:\d\d(?:\.\d+)?
      )(?![\w.:-])
    ''',
    re.VERBOSE | re.DOTALL | re.ASCII | re.MULTILINE,
)
_MAY_BE = re.compile(r"\d-\d\d|\d:\d\d", re.ASCII)
_LOCAL_DATE = re.compile(r"[\d-]{10}", re.ASCII)
_LOCAL_TIME = re.compile(r"\d\d:\d\d:\d\d(?:\.\d+)?", re.ASCII)
_HAS_OFFSET = re.compile(r"(?:[Zz]|[+-]\d\d:\d\d)$", re.ASCII)

Place = tuple[str | int, ...]


def keep_dates(before: str, after: str) -> str:
    """
    Return *after*, a record's TOML as gitsheets renders it, with its dates written as in *before*.

    Args:
        before: The TOML of the record that is replaced.
    """
    if not _MAY_BE.search(before):
        return after
    try:
        old = {place: match[0] for place, match in _dates(before.removeprefix("\ufeff"))}
        new = _dates(after) if old else []
        moments = _moments([*old.values(), *(match[0] for _, match in new)])
    except (gitsheets.GitsheetsError, ValueError):  # *before* cannot be read
        return after
    # The date at this very place decides first, then the dates of the list's other items.
    same = {(_field(place), moments[literal]): literal for place, literal in reversed(old.items())}
    types = {_field(place): literal for place, literal in reversed(old.items())}
    pieces, end = [], 0
    for place, match in sorted(new, key=lambda found: found[1].start()):
        field, moment = _field(place), moments[match[0]]
        stood = old.get(place)
        if stood is None or moments[stood] != moment:
            kind = stood or types.get(field)
            stood = same.get((field, moment)) or (_in_kind(kind, match[0]) if kind else match[0])
        pieces += [after[end : match.start()], stood]
        end = match.end()
    return "".join([*pieces, after[end:]])


def _in_kind(kind: str, rendered: str) -> str:
    """
    Return the date *rendered* in the type of the date *kind*, if that loses nothing.
    """
    if _LOCAL_TIME.fullmatch(kind):
        return rendered[11:-1] if rendered.startswith("1970-01-01T") else rendered
    if _LOCAL_DATE.fullmatch(kind):
        return rendered[:10] if rendered.endswith("T00:00:00Z") else rendered
    return rendered if _HAS_OFFSET.search(kind) else rendered[:-1]


def _dates(text: str) -> list[tuple[Place, re.Match[str]]]:
    """
    Return the place of each date of *text* in the record, and its match.

    Replaces each date with a marked string; the parsed record then shows where the string is.
    """
    found = [match for match in _TOKEN.finditer(text) if match["date"]]
    if not found:
        return []
    mark, pieces, end = f"{uuid.uuid4().hex} ", [], 0
    for number, match in enumerate(found):
        pieces += [text[end : match.start()], f'"{mark}{number}"']
        end = match.end()
    record = tomllib.loads("".join([*pieces, text[end:]]))
    # A bare key may look like a date: 2026-01-31 = "closed".
    names = {f"{mark}{number}": match[0] for number, match in enumerate(found)}

    def walk(value: Any, place: Place) -> Iterator[tuple[Place, re.Match[str]]]:
        if isinstance(value, str) and value in names:
            yield place, found[int(value.removeprefix(mark))]
        elif isinstance(value, dict):
            for name, item in value.items():
                yield from walk(item, (*place, str(names.get(name, name))))
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from walk(item, (*place, number))

    return list(walk(record, ()))


def _moments(literals: list[str]) -> Mapping[str, datetime]:
    [record] = gitsheets.parse_records([f"dates = [{', '.join(literals)}]"])
    return dict(zip(literals, record["dates"], strict=True))


def _field(place: Place) -> Place:
    return tuple(part for part in place if isinstance(part, str))
