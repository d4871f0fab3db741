"""
Conflicts of every kind are solved from the status page: each has a choice, and what is chosen is done.
"""

from __future__ import annotations

import pytest

from tests.pages import Browser, Page
from tests.parts import Bare

NOTES = (
    "[gitsheet]\nroot = 'notes'\npath = '${{ slug }}'\n[gitsheet.format]\ntype = 'markdown'\nbody = 'body'\n"
)
MARKS = "<<<<<<< ours\n"


def _person(slug: str, name: str) -> str:
    return f'name = "{name}"\nslug = "{slug}"\n'


def _note(title: str) -> str:
    return f'+++\nslug = "n"\ntitle = {title}\n+++\n\na note\n'


# By the path of the file: what both sides had, what ours is now, and what theirs is.
FILES = {
    "people/both.toml": (_person("both", "Base"), _person("both", "Ours"), _person("both", "Theirs")),
    "people/gone.toml": (_person("gone", "Base"), None, _person("gone", "Theirs")),
    "people/left.toml": (_person("left", "Base"), _person("left", "Ours"), None),
    "people/new.toml": (None, _person("new", "Ours"), _person("new", "Theirs")),
    "people/odd.toml": (_person("odd", "Base"), _person("odd", "Ours"), MARKS),
    "people/ill.toml": (_person("ill", "Base"), MARKS, _person("ill", "Theirs")),
    "people/both/cv.txt": ("base\n", "ours\n", "theirs\n"),
    "people/both/photo.png": ("base\0\n", "ours\0\n", "theirs\0\n"),
    'people/both/a=b: "c" <d>.txt': (None, "ours\n", "theirs\n"),
    "people/both/gone.txt": ("base\n", None, "theirs\n"),
    "notes/n.md": (_note('"base"'), _note('"ours"'), _note("<theirs>")),
    ".gitsheets/other.toml": (NOTES.replace("notes", "other"), NOTES.replace("notes", "ours"), None),
}


@pytest.fixture
def browser(client, data: Bare, remote: Bare) -> Browser:
    base, ours, theirs = ({path: texts[side] for path, texts in FILES.items()} for side in range(3))
    data.edit({".gitsheets/notes.toml": NOTES, **{path: text for path, text in base.items() if text}})
    data.git("push", "--quiet", str(remote.path), "main:main")
    data.edit(ours)
    remote.edit(theirs)
    return Browser(client())


def _choices(page: Page, side: str) -> dict[str, str]:
    """
    Return what choosing *side* sends for each conflict that the page shows, by the path of the file.
    """
    radios = [given for tag, given in page.tags if given.get("type") == "radio" and given["name"] != "rest"]
    found = [given for given in radios if str(given["value"]).endswith(f"={side}")]
    return {str(given["value"]).removesuffix(f"={side}"): str(given["name"]) for given in found}


def _holds(data: Bare, path: str, text: str | None) -> bool:
    is_there = bool(data.git("ls-tree", "main", "--", path))
    return data.git("show", f"main:{path}") == text.strip() if text else not is_there


def test_conflicts_of_each_kind_are_solved_from_the_page(browser: Browser, data: Bare):
    """
    Ours is taken of every second file, and theirs of all that are left.
    """
    side, rest = "ours", "theirs"
    page = browser.press(browser.open(), "Reconcile: dry run")
    choices = _choices(page, side)
    assert choices.keys() >= FILES.keys(), page.text
    chosen = sorted(FILES)[::2]
    page = browser.press(
        page, "Dry run with these choices", **{choices[path]: f"{path}={side}" for path in chosen}
    )
    left = {path for path in _choices(page, side) if path in FILES}
    assert left == FILES.keys() - chosen, "what is decided is asked for no more"
    page = browser.press(page, "Dry run with these choices", rest=rest)
    page = browser.press(page, "Reconcile now (merge)", reason="so decided")
    assert "One merge commit joined both sides." in page.text
    wanted = {
        path: texts[1 + (rest if path in left else side).startswith("t")] for path, texts in FILES.items()
    }
    assert [path for path, text in wanted.items() if not _holds(data, path, text)] == []
    told = data.git("log", "-1", "--format=%B")
    assert all(f"Take ours of {path}" in told for path in chosen)


def test_a_rest_that_is_no_side_is_refused(browser: Browser):
    form = browser.open().form("Reconcile: dry run")
    assert browser.client.post(form.action, data={**form.fields, "rest": "both"}).status_code == 400
