"""
That a person is needed is one fact: every voice that tells operators of a remote says the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
from click.testing import CliRunner

from ferry.app.api.metrics import TABLE
from ferry.app.api.standing import Standing
from ferry.app.cli import pushes
from ferry.app.liveness import Workers
from ferry.app.status_page import words
from ferry.app.status_page.facts import Card, Facts
from ferry.worker import doctor
from ferry.worker.episodes.episodes import Episodes
from ferry.worker.errors import PushFailed, PushRefused
from ferry.worker.failures import POLICIES, Reason
from ferry.worker.files.room import Room
from ferry.worker.ledger.entry import Entry, Failure, Running, from_json
from ferry.worker.status import RemoteStatus, remote_statuses
from ferry.worker.turns.need import Need, is_page_due, needs_person
from tests.line import Clock, Deployment

NOW, AFTER_S = 1_800_000_000.0, 3600.0
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """
    Attributes:
        fields: What the ledger knows beside the failure.
        failing_s: For how long pushes have failed.
        claimed: Whether a process holds the claim.
        needs: Whether a person is needed whatever the reason; None: the reason decides.
    """

    fields: Mapping[str, Any]
    failing_s: float = 60.0
    claimed: bool = False
    needs: bool | None = None


ROOM = Room(free_bytes=1 << 30, total_bytes=1 << 31)
RUNNING = Running(host="worker", group=7, born="1")
SITUATIONS = {
    "a retry waits": Situation(fields={"next_attempt_at": NOW + 9, "last_attempt_at": NOW - 1}),
    "no retry waits": Situation(fields={}),
    "an attempt runs": Situation(fields={"running": RUNNING}, claimed=True),
    "a look happens": Situation(fields={}, claimed=True),
    "it is paused": Situation(fields={"paused_at": NOW - 5}),
    "it fails for long": Situation(fields={}, failing_s=AFTER_S + 1, needs=True),
    "it fails for long, and an attempt runs": Situation(
        fields={"running": RUNNING}, failing_s=AFTER_S + 1, claimed=True, needs=True
    ),
    "the retries are used up": Situation(fields={"gave_up": True}, needs=True),
    "a page was sent for another reason": Situation(fields={"paged": ("auth",)}, needs=True),
    "a page was due for another reason": Situation(fields={"needed_since": NOW - 30}, needs=True),
}


def _entry(reason: str, situation: Situation, now: float) -> Entry:
    failure = Failure(reason=reason, message="no", hint=f"do {reason}", at=now - 1, attempt=2, said="no, no")
    since = now - situation.failing_s
    fields = {"last_failure": failure, "failing_since": since, "failing_s": situation.failing_s - 1}
    moved = {
        name: value + now - NOW if isinstance(value, float) else value
        for name, value in situation.fields.items()
    }
    return replace(Entry(attempt=2), **{**fields, **moved})


def _expected(reason: Reason, situation: Situation) -> bool:
    return POLICIES[reason].page == "at-once" if situation.needs is None else situation.needs


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("name", SITUATIONS)
def test_a_person_is_needed_from_the_first_page_that_is_due_until_a_push_lands(name: str, reason: Reason):
    situation = SITUATIONS[name]
    need = needs_person(_entry(reason, situation, NOW), page_after_s=AFTER_S, now=NOW)
    assert (need is not None) is _expected(reason, situation)
    if need:
        assert (need.reason, need.hint) == (reason, f"do {reason}")
        assert NOW - 30 <= need.since <= NOW
    assert needs_person(Entry(), page_after_s=AFTER_S, now=NOW) is None


@pytest.fixture
def says(
    deployment: Deployment, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, bool]]:
    """
    Ask every voice whether a person is needed at ``origin``, as *entry* and *claimed* are.
    """

    @contextmanager
    def opened():
        yield None

    monkeypatch.setattr(pushes, "open_pipeline", opened)
    monkeypatch.setattr(pushes, "with_hooks", lambda _: None)
    monkeypatch.setattr(pushes, "look", lambda _: _standing(**_statuses(deployment)))

    def voices(entry: Entry, *, claimed: bool) -> dict[str, bool]:
        with deployment.ledger.claim("origin") as claim:
            assert claim
            claim.write(**{name: getattr(entry, name) for name in Entry.__dataclass_fields__})
            if claimed:
                return _voices(deployment)
        return _voices(deployment)

    return voices


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _statuses(deployed: Deployment) -> Mapping[str, RemoteStatus]:
    return remote_statuses(deployed.settings, deployed.repository, deployed.ledger)


def _voices(deployed: Deployment) -> dict[str, bool]:
    statuses = _statuses(deployed)
    status = statuses["origin"]
    shown = CliRunner().invoke(pushes.show_status)
    metric = {row.name: row for row in TABLE}["ferry_push_needs_person"]
    [(_, value)] = metric.source(type("Scrape", (), {"remotes": statuses})())
    return {
        "json": status.as_json()["needs_person"] is not None,
        "headline": "a person is needed" in _headline(status),
        "badge": words.of(status) == words.Words("bad", "!"),
        "exit status": shown.exit_code == 1,
        "command": "a person is needed" in shown.output,
        "doctor": "failed" in [finding.state for finding in doctor.on_record("origin", status)],
        "metric": value == 1,
        **({"state": True} if status.state == "blocked" else {}),
        **({"sentence": True} if "person" in status.turn.sentence else {}),
    }


def _headline(status: RemoteStatus) -> str:
    card = Card(name="origin", status=status, words=words.of(status), charts=None)
    return Facts(
        now=NOW,
        branch="main",
        cards=[card],
        commits=[],
        workers=Workers(state="alive"),
        standing=_standing(origin=status),
        size={},
        disk_commands=[],
    ).headline


def _standing(room: Room = ROOM, *, late: bool = False, **remotes: RemoteStatus) -> Standing:
    disk = Need(since=NOW, reason="local", hint="Free room.") if room.state == "full" else None
    return Standing(
        remotes=remotes,
        room=room,
        disk=disk,
        swept_at=NOW,
        sweeps_are_late=late,
        packed_at=None,
        packing_is_late=False,
    )


@pytest.mark.parametrize("reason", REASONS)
def test_every_voice_says_the_same(says, clock: Clock, reason: Reason):
    for name, situation in SITUATIONS.items():
        found = says(_entry(reason, situation, clock.now), claimed=situation.claimed)
        assert set(found.values()) == {_expected(reason, situation)}, (name, found)


@pytest.mark.parametrize("is_paused", [False, True])
def test_nobody_is_needed_where_nothing_fails(says, clock: Clock, is_paused: bool):
    paused_at = clock.now - 5 if is_paused else None
    assert set(says(Entry(paused_at=paused_at), claimed=False).values()) == {False}


@pytest.mark.parametrize("until", [None, 9e9])
def test_a_pause_without_an_end_needs_a_person_after_a_day(says, clock: Clock, until: float | None):
    for age_s, is_needed in ((86_000, False), (87_000, until is None)):
        entry = Entry(paused_at=clock.now - age_s, paused_until=until)
        assert set(says(entry, claimed=False).values()) == {is_needed}


def test_a_paused_remote_is_the_headline_where_nothing_fails(says, deployment: Deployment, clock: Clock):
    says(Entry(paused_at=clock.now), claimed=False)
    status = remote_statuses(deployment.settings, deployment.repository, deployment.ledger)["origin"]
    assert _headline(status) == f"origin: paused; {words.many(len(status.pending), 'commit')} pending."


def test_nobody_is_needed_once_another_has_brought_everything(says, deployment: Deployment):
    deployment.repository.saw_on_remote("origin", deployment.repository.head() or "")
    entry = _entry("rejected", SITUATIONS["no retry waits"], Clock().now)
    assert set(says(entry, claimed=False).values()) == {False}


# --- What the machine lacks ---


FULL, LOW = Room(free_bytes=0, total_bytes=1 << 31), Room(free_bytes=1 << 24, total_bytes=1 << 31)


@pytest.mark.parametrize(
    ("room", "away", "fails", "headline"),
    [
        (ROOM, None, None, "1 commit on the way."),
        (FULL, "No worker answers.", None,
         "The data disk is full: every write is refused. 1 commit pending."),
        (LOW, None, None, "The data disk is nearly full. 1 commit on the way."),
        (LOW, "Beat is away.", None, "Beat is away. 1 commit pending."),
        (ROOM, "The broker does not answer.", None, "The broker does not answer. 1 commit pending."),
        (ROOM, None, "timeout", "origin: pushes fail (timeout) and are retried; 1 commit pending."),
        (ROOM, "No worker answers.", "auth",
         "No worker answers. origin: a person is needed (auth); 1 commit pending."),
    ],
)  # fmt: skip
def test_the_headline_names_what_is_away_and_what_comes_of_it(
    says, deployment: Deployment, data, room: Room, away: str | None, fails: Reason | None, headline: str
):
    deployment.repository.saw_on_remote("origin", deployment.repository.head() or "")
    data.commit("waits")
    says(_entry(fails, SITUATIONS["no retry waits"], Clock().now) if fails else Entry(), claimed=False)
    standing = _standing(room, **_statuses(deployment))
    assert standing.headline(away) == headline
    assert standing.needs_person is (room is FULL or fails == "auth")
    assert (standing.as_json()["disk"]["needs_person"] is not None) is (room is FULL)


def test_failures_stay_in_view_while_the_next_attempt_runs(says, deployment: Deployment, clock: Clock):
    says(_entry("timeout", SITUATIONS["an attempt runs"], clock.now), claimed=False)
    with deployment.ledger.claim("origin"):
        status = _statuses(deployment)["origin"]
    assert (status.state, words.of(status).tone) == ("pushing", "warn")
    assert status.attempts == "attempt 3 runs; 2 attempts failed, the last one: timeout"
    assert status.failing_s == pytest.approx(60, abs=5)


# --- As failures are recorded ---


@pytest.mark.parametrize("reason", REASONS)
def test_what_is_recorded_says_it_and_a_later_failure_does_not_take_it_back(
    deployment: Deployment, clock: Clock, reason: Reason
):
    """
    No Sentry is there: the ledger keeps it, and Flower's exception says it.
    """
    episodes = Episodes(deployment.settings, deployment.repository, clock)

    def fail(reason: Reason) -> tuple[bool, bool]:
        kind = PushFailed if POLICIES[reason].retried else PushRefused
        error = kind("origin", reason, "no", "do")
        with deployment.ledger.claim("origin") as claim:
            assert claim
            return episodes.record(claim, error, number=1), error.needs_person

    def need() -> Any:
        entry = deployment.ledger.read("origin")
        return needs_person(entry, page_after_s=deployment.settings.push_page_after_s, now=clock.now)

    at_once, first = POLICIES[reason].page == "at-once", clock.now
    assert fail(reason) == (at_once, at_once)
    assert (need() is not None) is at_once
    clock.wind(60)
    assert fail("network") == (False, at_once)
    if at_once:
        assert (need().since, need().reason) == (first, "network")
    clock.wind(3600)
    assert need() is not None, "though no attempt has failed since"
    overdue_since = need().since
    assert overdue_since == (first if at_once else pytest.approx(first + 3600))
    assert fail("network") == (True, True)
    assert need().since == pytest.approx(overdue_since)
    with deployment.ledger.claim("origin") as claim:
        assert claim
        episodes.end(claim)
    assert need() is None


def test_a_ledger_of_an_older_release_says_it_too():
    written = (
        b'{"last_failure": {"reason": "auth", "message": "no", "hint": "do", "at": 5.0, "attempt": 1},'
        b' "failing_since": 2.0, "paged": ["auth"]}'
    )
    entry = from_json(Entry, written)
    assert entry
    need = needs_person(entry, page_after_s=AFTER_S, now=9.0)
    assert need
    assert (need.since, need.reason) == (5.0, "auth")


def test_a_reason_of_another_release_is_paged_after_a_while():
    entry = _entry("bewitched", SITUATIONS["no retry waits"], NOW)
    assert not is_page_due(entry, page_after_s=AFTER_S, now=NOW)
    assert is_page_due(entry, page_after_s=60, now=NOW)


def test_a_pause_does_not_count_as_failing_and_a_need_from_before_it_stays():
    entry = _entry("network", SITUATIONS["no retry waits"], NOW)
    paused = replace(entry, paused_at=NOW, paused_until=NOW + 3 * AFTER_S)
    later = NOW + 2 * AFTER_S
    assert needs_person(entry, page_after_s=AFTER_S, now=later)
    assert needs_person(paused, page_after_s=AFTER_S, now=later) is None

    overdue = replace(paused, failing_since=NOW - AFTER_S - 9, failing_s=AFTER_S + 8)
    need = needs_person(overdue, page_after_s=AFTER_S, now=later)
    assert need
    assert need.since == needs_person(overdue, page_after_s=AFTER_S, now=NOW).since == NOW - 1
