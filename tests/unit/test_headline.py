"""
The title of a page: what happened, in one line.
"""

from __future__ import annotations

import pytest

from ferry.worker.dossier import headline
from ferry.worker.errors import PushError
from ferry.worker.failures import POLICIES

SAM, KIM, ANA = "Sam <sam@example.org>", "Kim Lee <kim@example.org>", "Ana <ana@example.org>"


def _told(reason: str, *, known_as: str = "git.example.org/town/data", **context: object) -> str:
    return headline(known_as, PushError("origin", reason, "what git said", "what to do"), context)


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ({"ahead": 2, "behind": 1, "foreign_authors": [SAM]}, "2 commits here, 1 there by Sam"),
        (
            {"ahead": 1, "behind": 9, "foreign_authors": [SAM, KIM]},
            "1 commit here, 9 there by Sam and Kim Lee",
        ),
        (
            {"ahead": 1, "behind": 9, "foreign_authors": [SAM, KIM, ANA]},
            "1 commit here, 9 there by Sam and 2 others",
        ),
        ({"ahead": 0, "behind": 1}, "0 commits here, 1 there"),
    ],
)
def test_a_divergence_says_how_many_commits_are_where_and_whose(context, told):
    assert _told("non-fast-forward", **context) == f"town/data: origin diverged, {told}"


@pytest.mark.parametrize(("ahead", "told"), [(1, ", 1 commit waits"), (3, ", 3 commits wait"), (0, "")])
def test_other_failures_say_what_waits(ahead, told):
    assert _told("timeout", ahead=ahead, behind=0) == f"town/data: origin does not answer in time{told}"
    assert _told("stalled", ahead=ahead) == f"town/data: no process pushes to origin{told}"


@pytest.mark.parametrize("reason", [*POLICIES, "of another version"])
def test_every_reason_has_a_title_of_one_short_line(reason):
    told = _told(reason)
    assert told.startswith("town/data: ")
    assert "origin" in told
    assert len(told) < 80
    assert "\n" not in told


@pytest.mark.parametrize("reason", ["local", "unknown", "of another version"])
def test_what_no_words_fit_is_told_in_its_own(reason):
    assert _told(reason, ahead=1) == "town/data: origin: what git said, 1 commit waits"


@pytest.mark.parametrize(
    ("known_as", "name"),
    [
        ("town", "town"),
        ("git.example.org:town/data", "town/data"),
        ("host:8443/data", "host/data"),
        ("/srv/ferry/data.git", "ferry/data.git"),
    ],
)
def test_the_repository_has_a_short_name(known_as, name):
    assert _told("network", known_as=known_as) == f"{name}: origin cannot be reached"
