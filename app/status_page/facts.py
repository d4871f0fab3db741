"""
The facts of the status page, read from git and the ledger at each request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from ferry.app.liveness import Workers
from ferry.app.services import Services
from ferry.app.status_page import words
from ferry.app.status_page.charts import Charts, draw
from ferry.worker.dossier import commands
from ferry.worker.failures import POLICIES
from ferry.worker.git.history import Commit
from ferry.worker.git.packs import Packs
from ferry.worker.pipeline import Pipeline
from ferry.worker.status import RemoteStatus, remote_statuses

_COMMITS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """
    One remote.

    Attributes:
        name: Its name.
        status: Its status.
        words: Its state in words.
        commands: The commands that help after its last failure.
        charts: The pushes of the last hours; None if there were none.
    """

    name: str
    status: RemoteStatus
    words: words.Words
    commands: list[str]
    charts: Charts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """
    One commit.

    Attributes:
        commit: As git knows it.
        pushed: Whether each remote has it, by the remote's name.
    """

    commit: Commit
    pushed: Mapping[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """
    The time of the last sweep, and whether the next one is overdue.
    """

    last_at: float | None
    is_late: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """
    All facts of one request.

    Attributes:
        now: When it was taken, in seconds since the epoch.
        branch: The branch's short name.
        cards: The remotes, ``origin`` first.
        commits: The branch's latest.
        workers: The workers that answer.
        sweep: Whether sweeps take place.
        size: The repository's objects, see ``Repository.size``.
        packed_at: When the repository was last packed.
    """

    now: float
    branch: str
    cards: list[Card]
    commits: list[Line]
    workers: Workers
    sweep: Sweep
    size: Mapping[str, int]
    packed_at: float | None

    @property
    def headline(self) -> str:
        """
        The state of the deployment in one sentence.
        """
        statuses = {card.name: card.status for card in self.cards}
        waiting = max((len(status.pending) for status in statuses.values()), default=0)
        pending = f"{words.many(waiting, 'commit')} pending"
        needed = {name: status.need.reason for name, status in statuses.items() if status.need}
        failing = [name for name, status in statuses.items() if status.failing_since is not None]
        paused = [name for name, status in statuses.items() if status.state == "paused"]
        if needed:
            reasons = ", ".join(dict.fromkeys(needed.values()))
            return f"{', '.join(needed)}: a person is needed ({reasons}); {pending}."
        if any(status.state == "disabled" for status in statuses.values()):
            return "No remote is configured."
        if failing:
            return f"{', '.join(failing)}: pushes fail and are retried; {pending}."
        if self.workers.state == "none":
            return f"No worker answers; {pending}."
        if self.sweep.is_late:
            return f"Sweeps are late; {pending}."
        if paused:
            return f"{', '.join(paused)}: paused; {pending}."
        if waiting:
            return f"{words.many(waiting, 'commit')} on the way."
        return "Every commit is on every remote."


def look(services: Services) -> Facts:
    """
    Read all facts. A broker that hangs delays this by less than a second.

    Raises:
        RepositoryError: The data repository cannot be read.
    """
    pipeline, now = services.pipeline, time.time()
    statuses = remote_statuses(pipeline.settings, pipeline.repository, pipeline.ledger)
    return Facts(
        now=now,
        branch=pipeline.repository.branch,
        cards=[_card(pipeline, name, status, now) for name, status in statuses.items()],
        commits=_commits(pipeline, statuses),
        workers=services.liveness.look(),
        sweep=Sweep(last_at=pipeline.sweeper.last_at(), is_late=pipeline.sweeper.is_late()),
        size=Packs(pipeline.repository.git).size(),
        packed_at=pipeline.maintenance.last().get("at"),
    )


def _card(pipeline: Pipeline, name: str, status: RemoteStatus, now: float) -> Card:
    failure = status.entry.last_failure
    known = failure is not None and failure.reason in POLICIES  # else another version's reason
    return Card(
        name=name,
        status=status,
        words=words.of(status),
        commands=commands(failure.reason, pipeline.repository, name) if failure and known else [],
        charts=draw(pipeline.ledger.history(name), now),
    )


def _commits(pipeline: Pipeline, statuses: Mapping[str, RemoteStatus]) -> list[Line]:
    head = pipeline.repository.head()
    pending = {name: status.pending for name, status in statuses.items() if status.state != "disabled"}
    return [
        Line(
            commit=commit,
            pushed={name: commit.hash not in waiting for name, waiting in pending.items()},
        )
        for commit in (pipeline.repository.log(head, limit=_COMMITS) if head else [])
    ]
