"""
What the pages tell people to type works, and the site builds.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docs import licences
from tests.docs.check import PAGES, ROOT, blocks, check


def test_the_licences_are_those_of_the_pins():
    assert licences.PAGE.read_text() == licences.page(), "write it anew with: make licences"


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page))], ids=lambda page: page.stem)
def test_what_a_page_tells_to_type_works(page):
    assert check(page) > 0


def test_the_site_builds_without_a_warning_and_needs_nothing_from_elsewhere(tmp_path):
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        for wanted in ('src="http', '<link rel="stylesheet" href="http', "@import url(http"):
            assert wanted not in page.read_text(), page
