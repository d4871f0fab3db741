"""
A sample data repository: the people, places and events of a small town.

Three sheets show the three kinds of path templates: flat, nested, and by date.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import gitsheets

from ferry.worker.process.gitpython import git

Record = dict[str, Any]

AUTHOR = ("Ferry", "ferry@users.noreply.ferry.invalid")
_BEGINNING = datetime(2026, 1, 5, 17, 30, tzinfo=UTC)

_SHEETS = {
    "people": """\
[gitsheet]
root = 'people'
path = '${{ slug }}'

[gitsheet.schema]
type = 'object'
required = ['slug', 'name']

[gitsheet.schema.properties.slug]
type = 'string'
pattern = '^[a-z0-9-]+$'
maxLength = 60

[gitsheet.schema.properties.name]
type = 'string'
minLength = 1

[gitsheet.schema.properties.email]
type = 'string'
format = 'email'

[gitsheet.schema.properties.skills]
type = 'array'
items.type = 'string'

[gitsheet.schema.properties.joined_year]
type = 'integer'
minimum = 1990

[gitsheet.fields.skills]
sort = true
""",
    "places": """\
[gitsheet]
root = 'places'
path = '${{ district }}/${{ slug }}'

[gitsheet.schema]
type = 'object'
required = ['district', 'slug', 'name']

[gitsheet.schema.properties.district]
type = 'string'
pattern = '^[a-z0-9-]+$'
maxLength = 60

[gitsheet.schema.properties.slug]
type = 'string'
pattern = '^[a-z0-9-]+$'
maxLength = 60

[gitsheet.schema.properties.name]
type = 'string'
minLength = 1

[gitsheet.schema.properties.seats]
type = 'integer'
minimum = 0
""",
    "events": """\
[gitsheet]
root = 'events'
path = '${{ starts_at: YYYY/MM }}/${{ slug }}'

[gitsheet.schema]
type = 'object'
required = ['slug', 'title', 'starts_at']

[gitsheet.schema.properties.slug]
type = 'string'
pattern = '^[a-z0-9-]+$'
maxLength = 60

[gitsheet.schema.properties.title]
type = 'string'
minLength = 1

[gitsheet.schema.properties.starts_at]
type = 'string'
format = 'date-time'

[gitsheet.schema.properties.place]
type = 'string'

[gitsheet.schema.properties.price]
type = 'number'
minimum = 0
""",
}

_NAMES = (
    "Ada Quill", "Bram Oakes", "Cleo Marsh", "Dara Finch", "Eli Thorne", "Faye Holt", "Gil Rowan",
    "Hana Brook",
    "Ivo Lark", "June Pell", "Kit Sorrel", "Lena Voss", "Milo Crane", "Nia Wells", "Otto Reed", "Pia Stone",
    "Quin Adair", "Rosa Birch", "Sam Tully", "Tess Alder",
)  # fmt: skip
_SKILLS = ("carpentry", "cooking", "data", "design", "first-aid", "music", "planning", "teaching")
_DISTRICTS = ("harbour", "hill", "old-town", "station")
_PLACES = ("Library", "Market Hall", "Workshop")
_EVENTS = (
    "Repair Café", "Open Council", "Map the Town", "Choir Night", "Seed Swap", "Budget Evening",
    "Harbour Walk",
    "Code and Coffee", "Story Hour", "Bike Check", "Film Club", "Tree Planting", "Job Fair", "Chess Evening",
    "Garden Day", "Lantern Parade", "Book Swap", "First-Aid Course",
)  # fmt: skip


def make_sample_repository(path: Path) -> str:
    """
    Make a bare repository with three sheets and fifty records at *path*; returns its first commit.

    The same call makes the same commit, everywhere.
    """
    with git.Repo.init(path, bare=True, initial_branch="main") as repo, repo.config_writer() as settings:
        settings.set_value("transfer", "fsckObjects", "true")  # compose's git server has it for a remote
    with gitsheets.transact(
        str(path), "A small town", int(_BEGINNING.timestamp()), branch="refs/heads/main", author=AUTHOR
    ) as transaction:
        for name, config in _SHEETS.items():
            transaction.write_file(f".gitsheets/{name}.toml", config)
    with gitsheets.transact(
        str(path),
        "Its people, places and events",
        int(_BEGINNING.timestamp()) + 60,
        parent="refs/heads/main",
        branch="refs/heads/main",
        author=AUTHOR,
    ) as transaction:
        for sheet, records in sample_records().items():
            transaction.open_sheet(sheet, f".gitsheets/{sheet}.toml")
            for record in records:
                transaction.upsert(sheet, record)
    return str(transaction.result["commit_hash"])


def sample_records() -> dict[str, list[Record]]:
    """
    Return the records of each sheet.
    """
    return {"people": _people(), "places": _places(), "events": _events()}


def _people() -> list[Record]:
    return [
        {
            "slug": _slug(name),
            "name": name,
            "email": f"{_slug(name)}@example.org",
            "skills": [_SKILLS[number % 8], _SKILLS[(3 * number + 1) % 8]],
            "joined_year": 2015 + number % 10,
        }
        for number, name in enumerate(_NAMES)
    ]


def _places() -> list[Record]:
    return [
        {"district": district, "slug": _slug(kind), "name": f"{kind}, {district}", "seats": 20 + 5 * number}
        for number, (district, kind) in enumerate(itertools.product(_DISTRICTS, _PLACES))
    ]


def _events() -> list[Record]:
    return [
        {
            "slug": _slug(title),
            "title": title,
            "starts_at": _BEGINNING + timedelta(days=19 * number),
            "place": f"{_DISTRICTS[number % 4]}/{_slug(_PLACES[number % 3])}",
            "price": 2.5 * (number % 4),
        }
        for number, title in enumerate(_EVENTS)
    ]


def _slug(text: str) -> str:
    return text.lower().replace("é", "e").replace(" ", "-")
