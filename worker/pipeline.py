"""
The parts that bring the commits of one repository to its remotes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ferry.worker.after.turns import After
from ferry.worker.enqueue import send_follow, send_push
from ferry.worker.episodes.disk import ENTRY, Disk
from ferry.worker.episodes.episodes import outbox_of
from ferry.worker.files.locks import FileLock
from ferry.worker.files.places import remotes_directory, state_directory, write_lock
from ferry.worker.follow import Follower
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.packing import Maintenance
from ferry.worker.git.repository import Repository
from ferry.worker.hosting.merges import MergeRules
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.paging import CronMonitor
from ferry.worker.push import Pusher
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker.settings import Settings
from ferry.worker.sweep import Sweeper
from ferry.worker.turns.handover import Handover
from ferry.worker.watchdog import Watchdog

if TYPE_CHECKING:
    from celery import Celery


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """
    Everything that brings the commits of one repository to its remotes.

    Attributes:
        celery: The process's app, which several repositories may share.
        queue: Name of this repository's queue.
    """

    settings: Settings
    repository: Repository
    ledger: Ledger
    pusher: Pusher
    sweeper: Sweeper
    follower: Follower
    after: After
    watchdog: Watchdog
    disk: Disk
    maintenance: Maintenance
    reconciler: Reconciler
    monitor: CronMonitor
    celery: Celery
    queue: str


def assemble(
    settings: Settings,
    env: Mapping[str, str],
    celery: Celery,
    *,
    queue: str,
    name: str,
    packing: FileLock | None,
) -> Pipeline:
    """
    Build the pipeline of a prepared repository.

    Args:
        env: Environment variables, for git.
        name: The repository's name if a worker serves several; else "".
        packing: The lock that makes such a worker pack one repository at a time; else None.
    """
    path = settings.data_repo_path
    repository = Repository.of(settings, Credentials.from_settings(settings, env), name)
    outbox_of(repository).reserve()
    ledger = Ledger(
        remotes_directory(path),
        released=lambda remote, is_asked: handover.look_again(remote, is_asked),
        nudged=lambda remote: handover.follow_again(remote),
    )
    send = partial(send_push, celery, queue=queue)
    look = partial(send_follow, celery, "claim", is_noted=True, queue=queue)
    handover = Handover(repository, ledger, send, *(() if settings.is_replica else (look,)))
    for entry in (*settings.remotes, ENTRY):
        ledger.make(entry)
    lock, rules = write_lock(path), MergeRules(settings, env)
    reconciler = Reconciler(settings, repository, ledger, lock, rules=rules, send=send)
    return Pipeline(
        settings=settings,
        repository=repository,
        ledger=ledger,
        pusher=Pusher(settings, repository, ledger, reconciler),
        sweeper=Sweeper(settings, repository, ledger, state_directory(path)),
        follower=Follower(settings, repository, ledger, reconciler),
        after=After(settings, repository, ledger, env),
        watchdog=Watchdog(settings, repository, ledger),
        disk=Disk(settings, repository, ledger),
        maintenance=Maintenance(repository, state_directory(path), lock, packing),
        reconciler=reconciler,
        monitor=CronMonitor(settings),
        celery=celery,
        queue=queue,
    )
