"""
Records of markdown sheets: front matter in TOML between two lines of ``+++``, then the body.

gitsheets' Python binding renders such a record and reads it from a tree, and neither
splits a text nor has ``Sheet.patch``, which keeps the title and the body's first heading
the same. Both are here, by the rules of gitsheets' "Content Types" specification.
"""

from __future__ import annotations

import re
from typing import Any

import gitsheets

_FENCE = re.compile(r"^\+\+\+\s*$", re.MULTILINE)
_HEADING = re.compile(r"^# ([^\r\n]+?)[ \t]*$", re.MULTILINE)


def split(text: str) -> tuple[str, str]:
    """
    Return the front matter and the body of a file.
    """
    text = text.removeprefix("\ufeff")
    begin = _FENCE.search(text)
    if begin is None:
        return "", text
    end = _FENCE.search(text, begin.end())
    if end is None:
        return "", text[begin.end() :].removeprefix("\n")
    # The line break at the end is the file's; those after the fence are the format's.
    body = text[end.end() :].removeprefix("\n").removeprefix("\n").removesuffix("\n")
    return text[begin.end() : end.start()].removeprefix("\n"), body


def parse(text: str, body_field: str) -> dict[str, Any]:
    """
    Return the record in a file.

    Raises:
        gitsheets.ConfigError: The front matter is not TOML.
    """
    front, body = split(text)
    [record] = gitsheets.parse_records([front])
    return dict(sorted({**record, body_field: body}.items()))


def heading(body: str) -> str | None:
    """
    Return the text of the body's first heading of the first level, or None.
    """
    found = _HEADING.search(body)
    return found and found[1]


def with_heading(body: str, title: str) -> str:
    """
    Return *body* with *title* as its first heading.
    """
    if found := _HEADING.search(body):
        return f"{body[: found.start()]}# {title}{body[found.end() :]}"
    return f"# {title}\n\n{body}" if body else f"# {title}\n"
