"""
Text for terminals: making others' text safe to print, and writing numbers of things.

Others write a commit's subject or a hook's output. A terminal obeys the escape sequences and control
characters in what it shows.
"""

from __future__ import annotations

import re

# Escape sequences and other control characters, with those of Unicode that end a line or turn its direction.
_CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.?)|[^\n\t -\x7e\xa0-\U0010ffff]"
    r"|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """
    Return *text* without escape sequences and control characters; line breaks stay.
    """
    return _CONTROL.sub("", text)


def in_line(text: str) -> str:
    """
    Return *text* as one line without escape sequences and control characters; line breaks become spaces.
    """
    return printable(" ".join(text.splitlines()))


def many(count: int, noun: str) -> str:
    """
    Write a number of things, such as ``1 commit`` or ``2 commits``.
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
