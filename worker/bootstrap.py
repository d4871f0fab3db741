"""
Putting the parts together: once per process, from its environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from celery import Celery
from celery.signals import setup_logging, worker_process_init, worker_ready, worker_shutdown
from sentry_sdk.integrations.celery import CeleryIntegration

from worker import logs, paging, redis_transport, tracing
from worker.celery_app import build_celery
from worker.credentials import Credentials
from worker.git import Repository
from worker.ledger import Ledger
from worker.maintenance import Maintenance
from worker.paging import CronMonitor
from worker.prepare import prepare, remotes_directory, state_directory, write_lock
from worker.push import Pusher
from worker.reconcile import Reconciler
from worker.settings import Settings
from worker.shutdown import end_beat_for_certain, finish_tasks_first
from worker.sweep import Sweeper
from worker.tasks import register
from worker.watchdog import Watchdog


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """
    Everything that gets commits of one repository to its remotes.
    """

    settings: Settings
    repository: Repository
    ledger: Ledger
    sweeper: Sweeper
    watchdog: Watchdog
    maintenance: Maintenance
    reconciler: Reconciler
    celery: Celery


def build(env: Mapping[str, str], *, publisher: bool = False) -> Pipeline:
    """
    Check the environment and the repository, and build the pipeline on them.

    Args:
        env: Environment variables.
        publisher: Whether this process only sends tasks, as the API does, and
            must never wait long for the broker.

    Raises:
        SettingsError: The environment is wrong.
        RepositoryError: The data repository is not usable.
    """
    settings = Settings.from_env(env)
    identity = prepare(settings)
    repository = Repository(
        settings.data_repo_path,
        branch=settings.data_branch,
        credentials=Credentials.from_settings(settings, env),
    )
    state = state_directory(settings.data_repo_path)
    ledger = Ledger(remotes_directory(settings.data_repo_path))
    sweeper = Sweeper(settings, repository, ledger, state)
    watchdog = Watchdog(settings, repository, ledger)
    lock = write_lock(settings.data_repo_path)
    reconciler = Reconciler(settings, repository, ledger, lock)
    maintenance = Maintenance(repository, state, lock)
    celery = build_celery(settings, identity=identity, publisher=publisher)
    pusher, monitor = Pusher(settings, repository, ledger, reconciler), CronMonitor(settings)
    register(celery, pusher, sweeper, watchdog, maintenance, reconciler, monitor)
    return Pipeline(
        settings=settings,
        repository=repository,
        ledger=ledger,
        sweeper=sweeper,
        watchdog=watchdog,
        maintenance=maintenance,
        reconciler=reconciler,
        celery=celery,
    )


def start_worker() -> Celery:
    """
    Build the pipeline for ``celery -A worker``: a worker, beat, or Flower.
    """
    # Celery would otherwise give the root logger a form of its own.
    setup_logging.connect(_configure_logging)
    logs.configure()
    pipeline = build(os.environ)
    paging.configure(pipeline.settings, CeleryIntegration())
    if tracing.is_wanted(os.environ):
        worker_process_init.connect(lambda **_: tracing.configure("ferry-worker"), weak=False)
    finish_tasks_first()
    end_beat_for_certain()
    redis_transport.mend()
    worker_shutdown.connect(lambda **_: pipeline.repository.hang_up(), weak=False)
    worker_ready.connect(lambda **_: push_backlog(pipeline), weak=False)
    return pipeline.celery


def push_backlog(pipeline: Pipeline) -> None:
    """
    Queue what a start finds ahead of a remote, without waiting for a retry that is due later.
    """
    if not pipeline.settings.remotes:
        logs.log().warning("push.disabled", hint="CFP_DATA_REMOTE is not set: commits stay on this machine")
    pipeline.celery.send_task("sweep", kwargs={"out_of_turn": True, "at_start": True})


def _configure_logging(**_: object) -> None:
    logs.configure()
