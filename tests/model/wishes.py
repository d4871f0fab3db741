"""
What is asked: the sheets of the model's repository, and random names, values, records and queries.
"""

from __future__ import annotations

from random import Random
from typing import Any

from tests.model.promises import Fields, Sheet

PERSON = {
    "type": "object",
    "properties": {
        "slug": {"type": "string"},
        "name": {"type": "string", "minLength": 1},
        "joined_year": {"type": "integer", "minimum": 1990, "maximum": 2100},
        "score": {"type": "number"},
        "born": {"type": "string", "format": "date"},
    },
    "required": ["slug", "name"],
}
# One root lies in another, one is the top; templates with `**`, literal text and two fields; markdown.
SHEETS = (
    Sheet("people", "people", "${{ slug }}", ("slug",), schema=PERSON),
    Sheet("notes", "people/notes", "${{ p/** }}", ("p",), is_deep=True),
    Sheet("users", ".", "user-${{ id }}", ("id",), prefix="user-"),
    Sheet("pages", "pages", "${{ year }}/${{ slug }}", ("year", "slug"), extension=".md"),
)
DECLARATIONS = {
    "people": """
[gitsheet.schema]
type = "object"
required = ["slug", "name"]
properties.slug = { type = "string" }
properties.name = { type = "string", minLength = 1 }
properties.joined_year = { type = "integer", minimum = 1990, maximum = 2100 }
properties.score = { type = "number" }
properties.born = { type = "string", format = "date" }
""",
    "pages": "[gitsheet.format]\ntype = 'markdown'\nbody = 'body'\ntitle = 'title'\n",
}
SCOPES: dict[str, frozenset[str] | None] = {
    "all": None,
    "people": frozenset({"people"}),
    "authors": frozenset({"notes", "pages"}),
}

_NAMES = [
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "user-1",
    "notes",
    "a b",
    "é",
    "\u0646\u200c\u0645",
    "history",
    "attachments",
]
# A twin of one above, or a name that no new file may have.
_ODD = [
    "A",
    "e\u0301",
    "Notes",
    "",
    ".",
    "..",
    ".git",
    "git~1",
    "a\nb",
    "\x7f",
    "con",
    "aux.x",
    "a:b",
    "x.",
    "x" * 252,
]
FILES = ["a.txt", "b", "c.jpg", "A.txt", "x.toml", "x.md", "a", "history", "con"]
_TEXTS = [
    "",
    "x",
    "é",
    "1",
    "2.0",
    "true",
    "nan",
    "2026-01-31",
    "2026-01-31T10:00:00Z",
    'a\n"b"',
    "\u200d",
    "# x",
]
_INTEGERS = [0, 1, 2, -1, 2000, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, -(2**70)]
_FLOATS = [0.0, -0.0, 1.5, 2.0, 0.1, 2000.0, 1e20, -1e20, 1e308, 5e-324, 2.0**53, 2.0**63]
_DATES = ["2026-01-31T10:00:00Z", "2026-01-31T10:00:00.125+02:00", "1969-12-31T23:59:59Z"]


class Wishes:
    """
    Random requests, the same for the same seed.
    """

    def __init__(self, random: Random) -> None:
        self.random = random

    def name(self) -> str:
        return self.random.choice(_ODD if self.random.random() < 0.08 else _NAMES)

    def path(self, sheet: Sheet) -> str:
        """
        Return a path that the template could make.
        """
        return sheet.path(dict(self._path_fields(sheet, lambda: self.random.choice(_NAMES))))

    def _path_fields(self, sheet: Sheet, name: Any) -> list[tuple[str, str]]:
        if sheet.is_deep:
            parts = [name() for _ in range(self.random.choice((1, 1, 2, 2, 3)))]
            return [(sheet.fields[0], "/".join(parts))]
        return [
            (field, self.random.choice(["2020", "2021"]) if field == "year" else name())
            for field in sheet.fields
        ]

    def value(self, depth: int = 0) -> Any:
        kind = self.random.choice(["text", "integer", "float", "bool", "date", "list", "table", "nan"])
        match kind:
            case "text":
                return self.random.choice(_TEXTS)
            case "integer":
                return self.random.choice(_INTEGERS)
            case "float":
                return self.random.choice(_FLOATS)
            case "date":
                return {"$date": self.random.choice(_DATES)}
            case "list" if depth < 2:
                return [self.value(depth + 2) for _ in range(self.random.randrange(3))]
            case "table" if depth < 2:
                return {
                    self.random.choice("abc"): self.value(depth + 1) for _ in range(self.random.randrange(3))
                }
            case "nan":
                return self.random.choice(["nan", "-inf"])
            case _:
                return self.random.random() < 0.5

    def record(self, sheet: Sheet, path: str | None = None) -> Fields:
        """
        Return a record; its fields make *path*, or any other.
        """
        fields = _fields_of(sheet, path) if path else dict(self._path_fields(sheet, self.name))
        return fields | self._others(sheet)

    def patch(self, sheet: Sheet) -> Fields:
        """
        Return a merge patch, which may move the record.
        """
        wish: Fields = {}
        if self.random.random() < 0.3:
            wish |= self.random.choice([self._path_fields(sheet, self.name)])
        if sheet.name == "pages":
            page = self._others(sheet)
            return wish | {
                name: page[name] for name in self.random.choice([["body"], ["title"], ["x"]]) if name in page
            }
        for name in self.random.sample(["x", "y", "name", "joined_year", "score"], 2):
            wish[name] = None if self.random.random() < 0.2 else self._others(sheet).get(name, 2001)
        return wish

    def _others(self, sheet: Sheet) -> Fields:
        pick = self.random.choice
        fields: Fields = {}
        if self.random.random() < 0.7:
            fields["x"] = self.value()
        if sheet.name == "pages":
            title = pick(["One", "Two", "Three"])
            fields |= {"body": f"# {title}\n\n{pick(['Hello.', 'Good bye.'])}"}
            return fields | (
                {"title": pick([title, title, title, "One"])} if self.random.random() < 0.7 else {}
            )
        if sheet.name == "people":
            fields["name"] = pick(
                ["Ann", "Bob", "Cyd", "Cyd", "2000"] if self.random.random() < 0.9 else ["", 7]
            )
            if self.random.random() < 0.5:
                fields["joined_year"] = pick([1990, 2000, 2000.0, 2001, 2100, 1900, 2000.5])
            if self.random.random() < 0.5:
                fields["score"] = pick([*_INTEGERS[:8], *_FLOATS, "nan"])
            if self.random.random() < 0.2:
                fields["born"] = pick(["1980-01-31", "1980-02-31"])
        elif self.random.random() < 0.5:
            fields["y"] = self.value()
        return fields

    def query(self, sheet: Sheet) -> tuple[list[tuple[str, str, str]], str, str]:
        """
        Return filters, each a field, an operator and a text; a field to sort by; and a field to show.
        """
        pick, filters = self.random.choice, []
        numeric = pick(["score", "joined_year", "x"] if sheet.name == "people" else ["x", "y", "x.a"])
        if self.random.random() < 0.5:
            number = repr(pick([*_INTEGERS, *_FLOATS])).replace("e+", "e")
            filters.append((numeric, pick(["gt", "gte", "lt", "lte", "", "ne"]), number))
        if self.random.random() < 0.2:
            filters.append(
                (
                    pick(["name", "x"]),
                    pick(["", "ne", "in", "eq"]),
                    pick(["Ann", "Cyd,Bob", "x", "true", "nan"]),
                )
            )
        if self.random.random() < 0.2:
            word = pick(["contains", "startswith", "exists"])
            text = pick(["true", "false"]) if word == "exists" else pick(["A", "nn", "x", "20", ""])
            filters.append((pick(["name", "x", "y"]) if sheet.name != "people" else "name", word, text))
        if len({name for name, _, _ in filters}) < len(filters):
            filters.pop()
        orders = ["", "", sheet.fields[-1], f"-{sheet.fields[-1]}"]
        orders += ["joined_year", "-joined_year", "-name"] if sheet.name == "people" else []
        return filters, pick(orders), pick(["", "", "x", "name"])


def _fields_of(sheet: Sheet, path: str) -> Fields:
    text = path.removeprefix(sheet.prefix)
    parts = [text] if sheet.is_deep else text.split("/")
    return dict(zip(sheet.fields, parts, strict=True))
