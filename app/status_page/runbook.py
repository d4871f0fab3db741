"""
The runbook, for the status page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# In a wheel beside this module, in a checkout among the docs.
_PLACES = (
    Path(__file__).with_name("runbook.md"),
    Path(__file__).resolve().parents[2] / "docs" / "operations" / "runbook.md",
)


@dataclass(frozen=True, slots=True)
class Section:
    """
    A section of the runbook, as Markdown.
    """

    name: str
    text: str


@cache
def sections() -> tuple[Section, ...]:
    """
    Return the sections; most are named for the reason of a failure.
    """
    path = next((place for place in _PLACES if place.exists()), None)
    if path is None:
        return ()
    parts = re.split(r"^#{1,2} (.+)\n", path.read_text("utf-8"), flags=re.MULTILINE)
    return tuple(Section(name, text.strip()) for name, text in zip(parts[1::2], parts[2::2], strict=True))
