"""
Records of markdown sheets: front matter in TOML between two lines of ``+++``, then the body.

gitsheets' Python binding renders such a record and reads it from a tree. It cannot split a text, and lacks
``Sheet.patch``, which keeps the title equal to the body's first heading. This module does both, by the rules
of gitsheets' "Content Types" specification.
"""

from __future__ import annotations

import re
from typing import Any

import gitsheets

_FENCE = "+++"
# Unicode's White_Space, by which gitsheets trims; Python's strip() takes four more characters.
SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_HEADING = re.compile(r"^# ([^\r\n]+?)[ \t]*$", re.MULTILINE)


def split(text: str) -> tuple[str, str]:
    """
    Return the front matter and the body of a file.
    """
    text = text.removeprefix("\ufeff")
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if line.rstrip(SPACE) == _FENCE][:2]
    if not fences:
        return "", text
    body = "\n".join(_without_blank_lines(lines[fences[-1] + 1 :]))
    if len(fences) == 1:
        return "", body
    front = _without_blank_lines(lines[fences[0] + 1 : fences[1]])
    # The last line break belongs to the file, not to the body.
    return "\n".join([*front, ""]), body.removesuffix("\n")


def _without_blank_lines(lines: list[str]) -> list[str]:
    first = next((number for number, line in enumerate(lines) if line.strip(SPACE)), len(lines))
    return lines[first:]


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
