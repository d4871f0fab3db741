"""
Path templates: which paths a template can make.

gitsheets renders a template for a record. This module answers the reverse: whether any record could have a
given path. Each component of a template makes exactly one component of a path, whatever JavaScript it holds,
because gitsheets refuses a slash there. Only a last ``${{ field/** }}`` makes several.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_REFERENCE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_RECURSIVE = re.compile(r"\s*[A-Za-z0-9_-]+/\*\*\s*")
# `${{ starts_at: YYYY/MM }}` makes a component for each part of the date.
_BUCKET = re.compile(r"\s*[A-Za-z0-9_.-]+\s*:\s*(YYYY(?:/MM(?:/DD)?|/WW)?)\s*")
_DEEPEST = 512  # directories; a path that a checkout can hold has fewer
_ANY = re.compile(".*", re.DOTALL)
_DIGITS = {"YYYY": "[0-9]{4}", "MM": "[0-9]{2}", "DD": "[0-9]{2}", "WW": "[0-9]{2}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """
    The pattern of the paths of a sheet's records.

    Attributes:
        levels: The pattern of each component of a path, except those that ``**`` stands for.
        is_recursive: Whether the template ends in ``**``, which stands for one component or more.
        literals: How many characters of a path are the template's own text.
        texts: The text of each level that is fixed, else None.
    """

    levels: tuple[re.Pattern[str], ...]
    texts: tuple[str | None, ...]
    is_recursive: bool
    literals: int

    @classmethod
    def of(cls, text: str) -> Template:
        """
        Parse a declaration's template.
        """
        return _parsed(text)

    def makes(self, parts: Sequence[str]) -> bool:
        """
        Whether a record may have the path with these components.
        """
        if len(parts) > _DEEPEST:
            return False
        *above, name = parts
        names = self.names_below(above)
        return names is not None and names.fullmatch(name) is not None

    def leads_below(self, parts: Sequence[str]) -> bool:
        """
        Whether a record may be below the directory with these components.
        """
        is_above = len(parts) < (_DEEPEST if self.is_recursive else len(self.levels))
        return is_above and self.reaches(parts)

    def names_below(self, parts: Sequence[str]) -> re.Pattern[str] | None:
        """
        Return the pattern of records' names directly in a directory; None if it can have no records.
        """
        missing = len(self.levels) - len(parts)
        if not self.reaches(parts) or (missing > 0 if self.is_recursive else missing != 1):
            return None
        return _ANY if self.is_recursive else self.levels[-1]

    def reaches(self, parts: Sequence[str | None]) -> bool:
        """
        Whether a record or an attachment may be below the directory with these components.

        Args:
            parts: None stands for any component.
        """
        pairs = zip(self.levels, parts, strict=False)
        return all(part is None or level.fullmatch(part) for level, part in pairs)

    def meets(self, other: Template) -> bool:
        """
        Whether records or attachments of both templates may have the same path, as far as is known.
        """
        return self.reaches(other.texts) and other.reaches(self.texts)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Template:
    levels, is_recursive = [""], False
    # Every second piece is the content of braces.
    pieces = _REFERENCE.split(text.strip("/"))
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            first, *rest = map(re.escape, piece.split("/"))
        elif bucket := _BUCKET.fullmatch(piece):
            first, *rest = (_DIGITS[part] for part in bucket[1].split("/"))
        else:
            levels[-1], first, rest = _settled(levels[-1]), ".*", []
            is_recursive = is_recursive or _RECURSIVE.fullmatch(piece) is not None
        levels[-1] += first
        levels += rest
    if is_recursive:
        levels.pop()
    return Template(
        levels=tuple(re.compile(level, re.DOTALL) for level in levels),
        texts=tuple(map(_text, levels)),
        is_recursive=is_recursive,
        literals=sum(len(piece.replace("/", "")) for piece in pieces[::2]),
    )


def _settled(level: str) -> str:
    """
    Return *level* with an atomic group, so that the text after its last ``.*`` is matched at its first place
    only.

    Another ``.*`` follows and matches the rest in any case. To backtrack through every place would take time
    that grows with a power of the name's length.
    """
    above, wildcard, text = level.rpartition(".*")
    return f"{above}(?>.*?{text})" if wildcard else level


def _text(level: str) -> str | None:
    plain = re.sub(r"\\(.)", r"\1", level, flags=re.DOTALL)
    return plain if re.escape(plain) == level else None
