"""
Who paused, resumed and asked, and what failed meanwhile, is known for weeks; and a pause is not forgotten.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from ferry.app.dev.sentry_sink import SentrySink
from ferry.worker import paging
from ferry.worker.episodes import episodes
from ferry.worker.errors import PushRefused
from ferry.worker.ledger import operators
from ferry.worker.ledger.entry import Entry, as_json, from_json
from ferry.worker.ledger.events import KEPT, Event, recall, remember
from ferry.worker.ledger.operators import Operator
from ferry.worker.watchdog import Watchdog
from tests.line import Line
from tests.parts import Bare

JANE = Operator(who="jane@desk", why="the host is being moved")
DAY_S = 86400.0


def _pause(line: Line, *, lasts_s: float | None = None) -> None:
    until = None if lasts_s is None else line.clock() + lasts_s
    operators.pause(line.ledger, "origin", JANE, now=line.clock(), until=until, timeout_s=1.0)


def _happened(line: Line) -> list[tuple[str, str, str]]:
    return [(event.kind, event.by, event.why) for event in line.ledger.happened("origin")]


def test_what_an_operator_does_is_logged_and_in_the_history(line: Line):
    with capture_logs() as logged:
        assert operators.request(line.ledger, ["origin"], JANE, now=line.clock()) == ["origin"]
        _pause(line)
        assert operators.request(line.ledger, ["origin"], JANE, now=line.clock()) == [], "it is paused"
        operators.resume(line.ledger, "origin", JANE, now=line.clock(), timeout_s=1.0)
    assert [(each["event"], each["by"], each["why"]) for each in logged] == [
        (name, *_who(JANE)) for name in ("push.requested", "push.paused", "push.resumed")
    ]
    assert _happened(line) == [(kind, *_who(JANE)) for kind in ("requested", "paused", "resumed")]


def _who(by: Operator) -> tuple[str, str]:
    return by.who, by.why


def test_a_pause_with_an_end_is_ended_by_the_first_sweep_after_it(line: Line, data: Bare):
    head = data.head()
    _pause(line, lasts_s=7200)
    assert (line.entry.paused_by, line.entry.paused_why) == _who(JANE)
    line.clock.wind(7199)
    assert line.sweeper.sweep() == {}
    line.clock.wind(1)
    with line.ledger.claim("origin"):
        assert line.sweeper.sweep() == {}, "a process holds the remote; a later sweep ends the pause"
    assert line.sweeper.sweep() == {"origin": head}
    assert line.entry.paused_at is None
    assert _happened(line) == [("paused", *_who(JANE)), ("resumed", "ferry", "")]


def test_a_pause_is_over_at_its_end_though_no_sweep_takes_place(line: Line, data: Bare, remote: Bare):
    _pause(line, lasts_s=60)
    assert "paused" in line.push()
    line.clock.wind(60)
    line.push()
    assert remote.head() == data.head()


def test_a_pause_without_an_end_is_ended_by_no_sweep(line: Line):
    _pause(line)
    line.clock.wind(30 * DAY_S)
    assert line.sweeper.sweep() == {}
    assert line.entry.paused_at is not None


@pytest.mark.parametrize("lasts_s", [None, 3 * DAY_S])
def test_a_pause_that_seems_forgotten_pages_once(
    line_with: Callable[..., Line], sentry: SentrySink, lasts_s: float | None
):
    line = line_with(SENTRY_DSN=sentry.dsn)
    paging.configure(line.settings)
    dogs = [Watchdog(line.settings, line.repository, line.ledger, clock=line.clock) for _ in range(2)]

    def look() -> int:
        for dog in dogs:
            dog.check()
        paging.flush(5)
        return len(sentry.events)

    _pause(line, lasts_s=lasts_s)
    line.clock.wind(DAY_S - 1)
    assert look() == 0
    line.clock.wind(1)
    assert look() == (1 if lasts_s is None else 0), "a pause that ends by itself is not forgotten"
    line.clock.wind(2 * DAY_S)
    assert look() == (1 if lasts_s is None else 0)
    assert line.entry.last_failure is None, "it is no failure"
    if lasts_s is None:
        [event] = sentry.events
        assert (event["level"], event["tags"]["reason"]) == ("fatal", "paused")
        assert event["contexts"]["push"]["ahead"] == 2
        assert event["contexts"]["push"]["what_happened"] == f"paused for 24 h by {JANE.who}: {JANE.why}"
        _pause(line)
        line.clock.wind(DAY_S)
        assert look() == 2, "another pause"


def test_a_page_for_the_last_attempt_that_was_neither_stored_nor_sent_is_sent_later(
    line_with: Callable[..., Line], sentry: SentrySink, remote: Bare, monkeypatch: pytest.MonkeyPatch
):
    """
    Each other attempt is followed by one that pages.
    """
    line = line_with(SENTRY_DSN=sentry.dsn, CFP_PUSH_MAX_RETRIES="0")
    paging.configure(line.settings)
    remote.path.rename(remote.path.with_name("away.git"))
    with monkeypatch.context() as full:
        full.setattr(episodes, "page", lambda *_: False)
        with pytest.raises(PushRefused):
            line.push()
    assert (line.entry.gave_up, line.entry.paged) == (True, ())
    dogs = [Watchdog(line.settings, line.repository, line.ledger, clock=line.clock) for _ in range(2)]

    for _ in range(2):
        for dog in dogs:
            dog.check()
    paging.flush(5)

    [event] = sentry.events
    assert (event["level"], event["tags"]["reason"]) == ("fatal", "not-found")
    assert event["contexts"]["push"]["ahead"] == 2
    assert line.entry.paged == ("not-found",)


def test_each_new_reason_of_a_row_of_failures_is_kept_and_how_it_ended(line: Line, remote: Bare, tmp_path):
    away = tmp_path / "away.git"
    remote.path.rename(away)
    for _ in range(3):
        line.fail(occasion="operator")
    away.rename(remote.path)
    remote.hook("pre-receive", 'echo "ERROR: internal error"; exit 1')
    with pytest.raises(Exception, match="origin"):
        line.push(occasion="operator")
    (remote.path / "hooks" / "pre-receive").unlink()
    line.clock.wind(60)
    line.push(occasion="operator")

    failing, other, recovered = line.ledger.happened("origin")

    assert [each.kind for each in (failing, other, recovered)] == ["failing", "failing", "recovered"]
    assert failing.detail.startswith("not-found: ")
    assert not other.detail.startswith("not-found: ")
    assert recovered.detail.endswith(", after 60 s")
    assert "pushed" in {each.kind for each in line.ledger.happened("origin", pushes=True)}


@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_history_is_bounded_in_bytes_and_keeps_the_newest(tmp_path, letter: str):
    path, longest = tmp_path / "origin.events", 0
    for number in range(3 * KEPT):
        remember(path, Event(at=float(number), kind="failing", detail=letter * 5000))
        longest = max(longest, path.stat().st_size)
    assert recall(path)[-1].at == 3 * KEPT - 1
    assert len(recall(path)) <= KEPT
    assert longest < 600_000
    with path.open("ab") as file:
        file.write(b'\n{"at": 1}\nnull\n[]\n{"at": 1e999, "kind": "failing"}')
        file.write(b'\n{"at": 5, "kind": "of-a-later-release", "x": 1}')
    assert recall(path)[-1] == Event(at=5.0, kind="of-a-later-release")


def test_a_pause_of_an_earlier_release_is_read():
    kept = from_json(Entry, as_json(Entry(paused_at=5.0)).replace(b'"paused_by": "", ', b""))
    assert kept == Entry(paused_at=5.0)


@pytest.mark.parametrize(
    ("environ", "who"), [({"SUDO_USER": "jane"}, "jane@"), ({}, "@"), ({"SUDO_USER": "a\nb"}, "a b@")]
)
def test_a_command_names_the_user_and_the_machine(environ: dict[str, str], who: str):
    found = Operator.here(environ, "why\nnot https://me:secret@host.example/x")
    assert who in found.who
    assert found.why.startswith("why not https://")
    assert "secret" not in found.why
