"""
Putting the parts together: once per process, from its environment.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from celery import Celery
from celery.signals import (
    setup_logging,
    worker_before_create_process,
    worker_process_init,
    worker_ready,
    worker_shutdown,
)
from sentry_sdk.integrations.celery import CeleryIntegration

from worker import logs, paging, redis_transport, tracing
from worker.celery_app import build_celery, queue_of
from worker.credentials import Credentials
from worker.errors import RepositoryError
from worker.fleet import Environments, environments, settings_of, told_of
from worker.git import Repository
from worker.ledger import Ledger
from worker.locks import FileLock
from worker.maintenance import Maintenance
from worker.paging import CronMonitor
from worker.prepare import prepare, remotes_directory, state_directory, write_lock
from worker.push import Pusher
from worker.reconcile import Reconciler
from worker.settings import Settings
from worker.shutdown import end_beat_for_certain, finish_tasks_first
from worker.sweep import Sweeper
from worker.tasks import Crew, register
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
    queue: str


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
    [pipeline] = build_all({"": env}, publisher=publisher)
    return pipeline


def build_all(environments: Environments, *, publisher: bool = False) -> list[Pipeline]:
    """
    Do the same for each repository of one process, which has one Celery app for all.

    Args:
        environments: Environment variables by the repository's name; see ``worker.fleet``.

    Raises:
        SettingsError, RepositoryError: As above; or two of them are one repository.
    """
    redis_transport.mend()
    found = settings_of(environments)
    names = _prepare_all(found)
    celery = build_celery({queue: found[name] for queue, name in names.items()}, publisher=publisher)
    first = next(iter(found.values()))
    packing = FileLock(state_directory(first.data_repo_path) / "packing.lock") if len(found) > 1 else None
    pipelines = [
        _assemble(found[name], environments[name], name, queue, celery, packing)
        for queue, name in names.items()
    ]
    register(celery, {pipeline.queue: _crew(pipeline) for pipeline in pipelines})
    return pipelines


def _prepare_all(found: Mapping[str, Settings]) -> dict[str, str]:
    """
    Check every repository; returns for each queue the name of its repository.
    """
    names: dict[str, str] = {}
    problems = []
    for name, settings in found.items():
        try:
            queue = queue_of(prepare(settings))
            if queue in names:
                raise RepositoryError(_same(found[names[queue]], settings, names[queue]))
            names[queue] = name
        except RepositoryError as exc:
            problems.append(told_of(name, exc))
    if problems:
        raise RepositoryError("; ".join(problems))
    return names


def _same(one: Settings, other: Settings, name: str) -> str:
    if one.data_repo_path.samefile(other.data_repo_path):
        return f"is the repository of {name}.env; remove one of the two files"
    return (
        f"{other.data_repo_path} has the ferry.id of {one.data_repo_path}, so one is a copy; "
        "in the copy, and before its API is started again: git config --unset ferry.id"
    )


def _assemble(
    settings: Settings,
    env: Mapping[str, str],
    name: str,
    queue: str,
    celery: Celery,
    packing: FileLock | None,
) -> Pipeline:
    path = settings.data_repo_path
    credentials = Credentials.from_settings(settings, env)
    repository = Repository(path, branch=settings.data_branch, credentials=credentials, name=name)
    ledger, lock = Ledger(remotes_directory(path)), write_lock(path)
    return Pipeline(
        settings=settings,
        repository=repository,
        ledger=ledger,
        sweeper=Sweeper(settings, repository, ledger, state_directory(path)),
        watchdog=Watchdog(settings, repository, ledger),
        maintenance=Maintenance(repository, state_directory(path), lock, packing),
        reconciler=Reconciler(settings, repository, ledger, lock),
        celery=celery,
        queue=queue,
    )


def _crew(pipeline: Pipeline) -> Crew:
    return Crew(
        name=pipeline.repository.name,
        pusher=Pusher(pipeline.settings, pipeline.repository, pipeline.ledger, pipeline.reconciler),
        sweeper=pipeline.sweeper,
        watchdog=pipeline.watchdog,
        maintenance=pipeline.maintenance,
        reconciler=pipeline.reconciler,
        monitor=CronMonitor(pipeline.settings),
    )


def start_worker() -> Celery:
    """
    Build what ``celery -A worker`` runs, over one repository or several: a worker, beat, or Flower.
    """
    # Celery would otherwise give the root logger a form of its own.
    setup_logging.connect(_configure_logging)
    logs.configure()
    pipelines = build_all(environments(os.environ))
    paging.configure(pipelines[0].settings, CeleryIntegration())
    if tracing.is_wanted(os.environ):
        worker_process_init.connect(lambda **_: tracing.configure("ferry-worker"), weak=False)
    worker_before_create_process.connect(_freeze, weak=False)
    finish_tasks_first()
    end_beat_for_certain()
    for pipeline in pipelines:
        worker_shutdown.connect(partial(_hang_up, pipeline), weak=False)
        worker_ready.connect(partial(push_backlog, pipeline), weak=False)
    return pipelines[0].celery


def push_backlog(pipeline: Pipeline, **_: object) -> None:
    """
    Queue what a start finds ahead of a remote, without waiting for a retry that is due later.
    """
    with logs.bound(repository=pipeline.repository.name or None):
        logs.log().info("worker.serves", path=str(pipeline.repository.path), queue=pipeline.queue)
        if not pipeline.settings.remotes:
            hint = "CFP_DATA_REMOTE is not set: commits stay on this machine"
            logs.log().warning("push.disabled", hint=hint)
    pipeline.celery.send_task(
        "sweep", kwargs={"out_of_turn": True, "start": time.time()}, queue=pipeline.queue
    )


def _freeze(**_: object) -> None:
    """
    Leave what there is out of later garbage collections.

    A process of the pool shares its parent's memory until it writes there, and its
    collector would write to every object: 20 MiB for each process.
    """
    gc.collect()
    gc.freeze()


def _hang_up(pipeline: Pipeline, **_: object) -> None:
    pipeline.repository.hang_up()


def _configure_logging(**_: object) -> None:
    logs.configure()
