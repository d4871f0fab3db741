"""
The documentation does what it says, and the site builds.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import pytest

from tests.docs.check import DOCS, Lacking, Reader, Wrong, pages

PLACED = re.compile(
    r"(?P<note>^ *<!-- (?:check|unchecked: )[^\n]*-->\n)?^ *```(?:sh|console|python)\n", re.MULTILINE
)


# --- What a page tells to type ---


# `make docs-check` follows every page; these meet most of it.
@pytest.mark.parametrize(
    "name",
    ["tutorial/first-push.md", "how-to/rotate-the-deploy-key.md", "how-to/write-an-extension.md"],
)
def test_the_commands_of_a_page_do_what_it_says(name, tmp_path):
    try:
        assert Reader(tmp_path / "place").follow(DOCS / name) > 0
    except Lacking as exc:
        pytest.skip(str(exc))


@pytest.mark.parametrize(
    "page",
    [page for kind in ("tutorial", "how-to") for page in (DOCS / kind).glob("*.md")],
    ids=lambda page: page.stem,
)
def test_every_command_of_a_how_to_is_checked_or_says_why_not(page):
    text = page.read_text()
    bare = [text.count("\n", 0, found.start()) + 1 for found in PLACED.finditer(text) if not found["note"]]

    assert bare == [], f"{page.name}: put <!-- check --> or <!-- unchecked: WHY --> before these lines"
    assert page in pages() or "<!-- unchecked: " in text


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("<!-- check -->\n```sh\nfalse\n```\n", "status 1, not 0"),
        ("<!-- check status 1 -->\n```sh\ntrue\n```\n", "status 0, not 1"),
        ("<!-- check -->\n```console\n$ echo one\ntwo\n```\n", "does not say 'two'"),
        ("<!-- check -->\nno block\n", "no block"),
    ],
)
def test_a_page_that_is_wrong_is_found(block, complaint, tmp_path):
    page = tmp_path / "docs/page.md"
    page.parent.mkdir()
    page.write_text(block)

    with pytest.raises(Wrong, match=complaint):
        Reader(tmp_path / "place").follow(page)


def test_hashes_and_numbers_may_be_others(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- check -->\n```console\n$ echo main is at deadbeef1, 2 s ago, by Sam\n"
        "main is at 0123abc…, 17 s ago, …\n```\n"
    )

    assert Reader(tmp_path / "place").follow(page) == 1


# --- The site ---


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """
    Each page of the built site: path to text.
    """
    place = tmp_path_factory.mktemp("docs")
    shutil.copytree(DOCS, place / "docs")
    shutil.copy(DOCS.parent / "mkdocs.yml", place)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    return {page: page.read_text() for page in (place / "site").rglob("*.html")}


def test_the_site_needs_nothing_from_elsewhere(site):
    assert len(site) > 30
    fetched = r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"(?:https?:)?//|@import url\((?:https?:)?//"
    assert [page.name for page, text in site.items() if re.search(fetched, text)] == []


def test_every_picture_and_file_that_a_page_names_is_in_the_site(site):
    """
    The strict build checks links to pages and headings, and nothing else.
    """
    lost = [
        f"{page.name}: {name}"
        for page, text in site.items()
        if page.name != "404.html"  # it is served at any address
        for name in re.findall(r"<[^>]+ (?:src|href|data)=\"([^\"#?:]+)[\"#?]", text)
        if not (page.parent / unquote(name)).exists()
    ]
    assert lost == []


def test_the_licences_are_those_of_the_pins():
    from tests.docs import licences  # here, because both take half a second, in every process that collects

    assert licences.PAGE.read_text() == licences.page(), "write it anew with: make licences"


def test_the_reference_of_extensions_is_what_the_docstrings_say():
    from tests.docs import extensions

    assert extensions.PAGE.read_text() == extensions.page(), "write it anew with: make extensions"


def test_every_page_stands_in_the_readers_list_and_in_the_site():
    site, listed = (DOCS.parent / "mkdocs.yml").read_text(), (DOCS / "README.md").read_text()
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}
    assert {page for page in pages if page not in site or f"({page})" not in listed} == set()
