"""
Reading records as gitsheets writes most of them: many at once, in a fifth of its time.

The text of a *plain* record is a line ``name = value`` for each field, sorted by name, whose value is a
string, a number, a boolean or a list of these, written as JSON writes it too, or a date-time. So it turns
into JSON by replacing the separators, and Python's JSON parser is fast. gitsheets reads every other text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from itertools import compress

from ferry.app.records.codec import Record

# What TOML and JSON write, and mean, alike (https://toml.io/en/v1.0.0, RFC 8259): no "\u", of which JSON also
# allows halves of pairs; no number beyond 64 bits. Surrogates stand for bytes that are not UTF-8.
_CHARACTERS = r'[^"\\\x00-\x1f\x7f\ud800-\udfff]*+'
_STRING = rf'"{_CHARACTERS}(?:\\["\\bfnrt]{_CHARACTERS})*+"'
_NUMBER = r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?"
_SCALAR = f"(?:{_STRING}|{_NUMBER}|true|false)"
_DATE_TIME = "[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}Z"
_RECORD = rf"(?:[A-Za-z0-9_-]++ = (?:{_SCALAR}|{_DATE_TIME}|\[(?:{_SCALAR}(?:, {_SCALAR})*+)?\])\n)++"
_RECORDS = re.compile(rf"{_RECORD}(?:\0{_RECORD})*+")
_DATE_TIMES = re.compile(rf" = ({_DATE_TIME})\n")
# A date-time becomes a number with an exponent, which no other number of a plain record has.
_EXPONENT = "e0"
_DIGITS = str.maketrans({"-": None, "T": None, ":": None, "Z": _EXPONENT})


def read_plain(contents: Sequence[bytes]) -> list[Record | None]:
    """
    Return the fields of each file that is a plain record, else None. They are those that gitsheets reads, in
    its order.
    """
    found = _read(contents)
    if found is not None:
        return [*found]
    are_plain = [_is_plain(_text([content])) for content in contents]
    records = iter(_read(list(compress(contents, are_plain))) or [])
    return [next(records, None) if is_plain else None for is_plain in are_plain]


def _read(contents: Sequence[bytes]) -> list[Record] | None:
    """
    Return the fields of each file; None if one of them is not a plain record.
    """
    text = _text(contents)
    if not _is_plain(text):
        return None
    numbered = _DATE_TIMES.sub(lambda found: f" = {found[1].translate(_DIGITS)}\n", text)
    fields = numbered[:-1].replace("\n\0", '},{"').replace("\n", ',"').replace(" = ", '":')
    try:
        records: list[Record] = json.loads(f'[{{"{fields}}}]', parse_float=_number)
    except ValueError:  # there is no such day
        return None
    # A field that occurs twice is a fault, which gitsheets names. A file with NUL in it would be two.
    is_whole = sum(map(len, records)) == text.count("\n") and len(records) == len(contents)
    are_sorted = all(list(names) == sorted(names) for names in set(map(tuple, records)))
    return records if is_whole and are_sorted else None


def _number(text: str) -> float | datetime:
    if text.endswith(_EXPONENT):
        return datetime.fromisoformat(f"{text[:8]}T{text[8:14]}Z")
    return float(text)


def _text(contents: Sequence[bytes]) -> str:
    return b"\0".join(contents).decode(errors="surrogateescape")


def _is_plain(text: str) -> bool:
    # A string with " = " in it would be taken apart.
    return text.count(" = ") == text.count("\n") and _RECORDS.fullmatch(text) is not None
