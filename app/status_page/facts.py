"""
The facts of the status page, read from git and the ledger at each request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from ferry.app.api import standing as standings
from ferry.app.api.standing import Standing
from ferry.app.liveness import Workers
from ferry.app.services import Services
from ferry.app.status_page import words
from ferry.app.status_page.charts import Charts, draw
from ferry.worker.git.history import Commit
from ferry.worker.git.packs import Packs
from ferry.worker.pipeline import Pipeline
from ferry.worker.repair.fence import is_fenced
from ferry.worker.status import RemoteStatus

_COMMITS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """
    One remote.

    Attributes:
        name: Its name.
        status: Its status.
        words: Its state in words.
        charts: The pushes of the last hours; None if there were none.
    """

    name: str
    status: RemoteStatus
    words: words.Words
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
class Facts:
    """
    All facts of one request.

    Attributes:
        now: When it was taken, in seconds since the epoch.
        branch: The branch's short name.
        cards: The remotes, ``origin`` first.
        commits: The branch's latest.
        workers: The workers that answer; None on a replica, which has none.
        standing: The state of remotes, disk, sweeps and packing, read from files.
        size: The repository's objects, see ``Repository.size``.
        disk_commands: The commands that help with a full disk.
        is_fenced: Whether another repository was made the primary.
    """

    now: float
    branch: str
    cards: list[Card]
    commits: list[Line]
    workers: Workers | None
    standing: Standing
    size: Mapping[str, int]
    disk_commands: list[str]
    is_fenced: bool = False

    @property
    def away(self) -> str | None:
        """
        A sentence on what does not answer; None if everything answers.
        """
        if self.workers is None:
            return None
        if self.is_fenced:
            return "Another repository is the primary: every write is refused."
        if self.workers.state == "unknown":
            return "The broker does not answer."
        if self.workers.state == "none":
            return "No worker answers."
        beat_is_away = self.workers.state == "alive" and self.standing.sweeps_are_late
        return "Beat is away." if beat_is_away else None

    @property
    def headline(self) -> str:
        """
        The state of the deployment in a sentence or two.
        """
        return self.standing.headline(self.away)


def look(services: Services) -> Facts:
    """
    Read all facts. A broker that hangs delays this by less than a second.

    Raises:
        RepositoryError: The data repository cannot be read.
    """
    pipeline, now = services.pipeline, time.time()
    standing = standings.look(pipeline)
    return Facts(
        now=now,
        branch=pipeline.repository.branch,
        cards=[_card(pipeline, name, status, now) for name, status in standing.remotes.items()],
        commits=_commits(pipeline, standing.remotes),
        workers=None if pipeline.settings.is_replica else services.liveness.look(),
        standing=standing,
        size=Packs(pipeline.repository.git).size(),
        disk_commands=pipeline.disk.commands,
        is_fenced=is_fenced(pipeline.repository.path),
    )


def _card(pipeline: Pipeline, name: str, status: RemoteStatus, now: float) -> Card:
    return Card(
        name=name, status=status, words=words.of(status), charts=draw(pipeline.ledger.history(name), now)
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
