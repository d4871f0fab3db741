"""
Every reason of the table, from a real failure to the page that somebody is woken by.
"""

from __future__ import annotations

from typing import get_args

import pytest

from ferry.worker.errors import NonFastForward, PushFailed, PushRefused
from ferry.worker.failures import POLICIES, Reason
from tests.episodes import EPISODES, PAGES, episode, screen


def test_every_reason_has_an_episode():
    assert set(EPISODES) == set(POLICIES) == set(get_args(Reason))


@pytest.mark.parametrize("reason", EPISODES)
def test_a_reason_pages_once_with_the_way_out(reason, tmp_path):
    policy = POLICIES[reason]
    with episode(tmp_path, reason) as (error, pages):
        [page] = pages
    if error is not None:
        expected = (
            PushFailed if policy.retried else NonFastForward if reason == "non-fast-forward" else PushRefused
        )
        assert type(error) is expected
        assert error.reason == reason
    assert page["level"] == "fatal"
    assert {page["tags"][name] for name in ("remote", "branch", "reason")} == {"origin", "main", reason}
    assert page["message"].count("origin") == 1
    if reason == "non-fast-forward":
        title = f"{tmp_path.name}/remote: origin diverged, 1 commit here, 1 there by Sam"
        assert page["message"] == title
    shown = page["contexts"]["push"]
    assert shown["reason"] == reason
    assert shown["ahead"] == 1
    assert shown["oldest_pending_commit"] == shown["local_head"]
    assert shown["what_git_said"]
    assert shown["way_out"] == policy.hint
    assert len(shown["commands"]) == len(policy.commands)
    assert "{" not in "".join(shown["commands"])


@pytest.mark.parametrize("reason", EPISODES)
def test_the_docs_show_the_page_and_what_to_do(reason):
    shown = PAGES.read_text()
    section = shown.partition(f"\n## {reason}\n")[2].partition("\n## ")[0]
    assert f"reason={reason}" in section
    assert POLICIES[reason].hint in section
    for command in POLICIES[reason].commands:
        assert command.format(repository="/srv/ferry/data.git", remote="origin", branch="main") in section
    runbook = (PAGES.parent / "runbook.md").read_text()
    section = runbook.partition(f"\n## {reason}\n")[2].partition("\n## ")[0]
    for command in POLICIES[reason].commands:
        assert command.format(repository="/srv/ferry/data.git", remote="origin", branch="main") in section


def test_a_page_reads_on_one_screen(tmp_path):
    with episode(tmp_path, "non-fast-forward") as (_, pages):
        assert len(screen(pages[0]).splitlines()) <= 45
