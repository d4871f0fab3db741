"""
Search for words in all texts of a record, whatever their case and accents: ``?q=munchen``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from ferry.app.records.codec import Record

_MOST_WORDS = 20
_LONGEST = 1000  # characters
# Letters with a stroke and ligatures, which Unicode does not decompose; casefold has made them small.
_PLAIN = str.maketrans({
    "ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th",
})  # fmt: skip


def words_of(searches: Sequence[str]) -> list[str]:
    """
    Return the words to search for, folded.

    Raises:
        ValueError: There are too many, or they are too long.
    """
    if sum(map(len, searches)) > _LONGEST:
        raise ValueError(f"has more than {_LONGEST} characters")
    words = list(dict.fromkeys(fold(" ".join(searches)).split()))
    if len(words) > _MOST_WORDS:
        raise ValueError(f"has more than {_MOST_WORDS} words")
    return words


def text_of(record: Record) -> str:
    """
    Return all texts of *record*, in its tables and lists too, folded; a line break separates them.
    """
    found: list[str] = []
    waiting: list[Any] = [record]
    while waiting:
        value = waiting.pop()
        if type(value) is str:
            found.append(value)
        elif type(value) is dict:
            waiting += value.values()
        elif type(value) is list:
            waiting += value
    return fold("\n".join(found))


def fold(text: str) -> str:
    """
    Return *text* without case, accents and the forms that Unicode calls compatible.
    """
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", text).casefold().translate(_PLAIN)
    return "".join(character for character in plain if not unicodedata.combining(character))
