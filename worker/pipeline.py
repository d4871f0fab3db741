"""
The parts that get commits of one repository to its remotes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from celery import Celery

from worker.credentials import Credentials
from worker.enqueue import send_push
from worker.episodes import outbox_of
from worker.git import Repository
from worker.handover import Handover
from worker.ledger import Ledger
from worker.locks import FileLock
from worker.maintenance import Maintenance
from worker.paging import CronMonitor
from worker.prepare import remotes_directory, state_directory, write_lock
from worker.push import Pusher
from worker.reconcile import Reconciler
from worker.settings import Settings
from worker.sweep import Sweeper
from worker.watchdog import Watchdog


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """
    Everything that gets commits of one repository to its remotes.

    Attributes:
        celery: The process's app, which several repositories may share.
        queue: Name of the queue that holds the messages of this one.
    """

    settings: Settings
    repository: Repository
    ledger: Ledger
    pusher: Pusher
    sweeper: Sweeper
    watchdog: Watchdog
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
    Put the parts together over a repository that is prepared.

    Args:
        env: Environment variables, for what concerns git.
        name: What the repository is called where a worker serves several; else "".
        packing: What is held for one packing at a time, likewise; else None.
    """
    path = settings.data_repo_path
    credentials = Credentials.from_settings(settings, env)
    repository = Repository.of(settings, credentials, name)
    outbox_of(repository).reserve()
    ledger = Ledger(remotes_directory(path), released=lambda remote: handover.look_again(remote))
    handover = Handover(
        repository, ledger, lambda remote, commit: send_push(celery, remote, commit, queue=queue)
    )
    for remote in settings.remotes:
        ledger.make(remote)
    lock = write_lock(path)
    reconciler = Reconciler(settings, repository, ledger, lock)
    return Pipeline(
        settings=settings,
        repository=repository,
        ledger=ledger,
        pusher=Pusher(settings, repository, ledger, reconciler),
        sweeper=Sweeper(settings, repository, ledger, state_directory(path)),
        watchdog=Watchdog(settings, repository, ledger),
        maintenance=Maintenance(repository, state_directory(path), lock, packing),
        reconciler=reconciler,
        monitor=CronMonitor(settings),
        celery=celery,
        queue=queue,
    )
