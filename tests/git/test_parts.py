"""
A backlog of any size arrives over any link: in parts, each small enough for its time.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from ferry.worker.errors import PushDeferred, PushFailed
from ferry.worker.failures import Verdict
from ferry.worker.git.parts import Part, Parts
from tests.line import Line
from tests.parts import Bare


def _verdict(reason: str) -> Verdict:
    return Verdict(reason=reason, rule="test", evidence="", ambiguous=False)


def _slow(remote: Bare, most: int) -> None:
    """
    Let a push of more than *most* commits hang for longer than its timeout.
    """
    remote.hook(
        "pre-receive",
        f'read old new ref; [ "$(git rev-list --count "$new" --not --all)" -le {most} ] || exec sleep 60',
    )


def _push_until_idle(line: Line) -> int:
    """
    Do what retries do, at their time; returns how many pushes ran into the timeout.
    """
    for retries in range(40):
        try:
            line.push("first", retries=retries)
        except PushFailed as error:
            line.clock.wind(error.retry_in_s or 0)
        except PushDeferred as deferred:
            line.clock.wind(deferred.retry_in_s)
        else:
            return line.entry.outcomes.get("timeout", 0)
    raise AssertionError(line.entry)


def test_a_backlog_too_large_for_the_timeout_arrives_in_parts(line_with: Callable[..., Line], data, remote):
    line = line_with(CFP_PUSH_TIMEOUT="2")
    line.push("before")
    for number in range(9):
        data.commit(f"pending {number}")
    _slow(remote, 4)

    with capture_logs() as logged:
        assert _push_until_idle(line) >= 1

    assert remote.head() == data.head()
    assert line.entry.part is line.entry.last_failure is None
    told = [event for event in logged if event["event"] == "push.in_parts"]
    assert (told[0]["commits"], told[0]["reason"]) == (4, "timeout")


def test_a_single_commit_is_given_the_time_that_it_takes_on_the_slowest_link(
    line_with: Callable[..., Line], data: Bare, remote: Bare, monkeypatch
):
    """
    It cannot be halved.
    """
    monkeypatch.setattr("ferry.worker.git.parts._SLOWEST_BYTES_PER_S", 1)
    line = line_with(CFP_PUSH_TIMEOUT="1")
    line.push("before")
    data.commit("large")
    remote.hook("pre-receive", "sleep 3")

    assert line.fail("first").reason == "timeout"
    line.push("first", retries=1)

    assert remote.head() == data.head()


def test_timeouts_that_halve_a_backlog_are_no_retries_that_are_used_up(line_with, data: Bare, remote: Bare):
    line = line_with(CFP_PUSH_TIMEOUT="1", CFP_PUSH_MAX_RETRIES="0")
    data.commit("pending")
    remote.hook("pre-receive", "sleep 60")

    assert line.fail("first").reason == "timeout"

    assert (line.entry.part, line.entry.gave_up) == (1, False)


@pytest.mark.parametrize(
    ("reason", "duration_s", "is_cut_short"),
    [
        ("timeout", 10, True),
        ("network", 9, True),
        ("server", 9, True),
        ("network", 1, False),
        ("rejected", 9, False),
        ("auth", 9, False),
    ],
)
def test_what_is_halved_failed_for_want_of_time(line: Line, data, reason, duration_s, is_cut_short):
    """
    A proxy may end a push before our timeout does; what fails at once is not too large.
    """
    part = Part(commit=str(data.head()), timeout_s=10)
    found = Parts(line.repository, 10).cut_short(part, None, _verdict(reason), duration_s)
    assert (found is not None) is is_cut_short


def test_a_part_that_took_little_time_is_followed_by_a_larger_one():
    part = Part(commit="a" * 40, commits=4, timeout_s=10)
    assert part.next_size(1) == 8
    assert part.next_size(9) == 4


def test_a_part_ends_with_a_commit_that_holds_what_the_remote_has(line: Line, data: Bare):
    """
    Theirs was merged into ours: what we committed before the merge is no fast-forward there.
    """
    base = data.head()
    theirs = data.git("commit-tree", "-p", str(base), "-m", "theirs", "main^{tree}")
    for number in range(3):
        data.commit(f"ours {number}")
    merge = data.git("commit-tree", "-p", "main", "-p", theirs, "-m", "merge", "main^{tree}")
    data.git("update-ref", "refs/heads/main", merge)
    last = data.commit("after")
    parts = Parts(line.repository, 10)

    assert parts.first(theirs, last, 1).commit == merge
    assert parts.first(theirs, last, 2).commit == last
    assert parts.first(theirs, last, 9).commit == last
    assert parts.first(str(base), last, 2).commit == data.git("rev-parse", "main~3")
    assert parts.first(None, last, 1).commit == data.git("rev-list", "--max-parents=0", "main")
