"""
The composition root of a worker process: it builds the parts once, from the environment.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from celery import Celery
from celery.signals import (
    setup_logging,
    worker_process_init,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)

from ferry.extension import Extension
from ferry.loading import ExtensionError, load
from ferry.worker import paging
from ferry.worker.after.calling import registered_in
from ferry.worker.after.turns import MOST_AT_ONCE
from ferry.worker.broker.celery_app import build_celery, queue_of
from ferry.worker.broker.children import share_memory
from ferry.worker.broker.shutdown import end_beat_at_once, finish_tasks_first, interrupt
from ferry.worker.episodes.episodes import outbox_of
from ferry.worker.errors import RepositoryError, SettingsError
from ferry.worker.files.places import hook_places, packing_lock
from ferry.worker.fleet import Environments, environments, settings_of, told_of
from ferry.worker.git import remote
from ferry.worker.git.environment import stay_here
from ferry.worker.git.prepare import known_or_prepared, prepare
from ferry.worker.observe import logs, tracing
from ferry.worker.pipeline import Pipeline, assemble
from ferry.worker.settings import Settings
from ferry.worker.tasks import MaintainTask, register

_BESIDE = ("beat", "flower")
# Celery's global options that take a value (https://docs.celeryq.dev/en/stable/reference/cli.html).
_WITH_VALUE = frozenset({
    "-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir",
})  # fmt: skip


def subcommand(arguments: Sequence[str]) -> str:
    """
    Return the Celery subcommand of a command line, such as ``beat``; "" if there is none.
    """
    words = iter(arguments[1:])
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


def build(env: Mapping[str, str], *, publisher: bool = False) -> Pipeline:
    """
    Check the environment and the repository, and build the pipeline.

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


def build_all(environments: Environments, *, publisher: bool = False, calls: bool = False) -> list[Pipeline]:
    """
    Build the pipeline of each repository of one process; all share one Celery app.

    Args:
        environments: Environment variables by the repository's name; see ``ferry.worker.fleet``.
        calls: Whether this process calls the functions of extensions after commits and pushes.

    Raises:
        SettingsError, RepositoryError: As for ``build``; or two environments name the same repository.
    """
    _ignore_git_variables()
    found = settings_of(environments)
    registered = {name: registered_in(found[name], env) for name, env in environments.items() if calls}
    places = min(sum(len(each.hooks) for each in registered.values()), MOST_AT_ONCE)
    names = _queues(found, prepare)
    celery = build_celery(
        {queue: found[name] for queue, name in names.items()}, publisher=publisher, places=places
    )
    first = next(iter(found.values()))
    packing = packing_lock(first.data_repo_path) if len(found) > 1 else None
    pipelines = [
        assemble(found[name], environments[name], celery, queue=queue, name=name, packing=packing)
        for queue, name in names.items()
    ]
    for pipeline, name in zip(pipelines, names.values(), strict=True):
        if name in registered:
            pipeline.after.serve(registered[name].hooks, hook_places(first.data_repo_path, places))
            pipeline.reconciler.rules.serve(has_rules=registered[name].has_rules)
    register(celery, {pipeline.queue: pipeline for pipeline in pipelines})
    for pipeline in pipelines:
        pipeline.repository.objects.committer.report()
    return pipelines


def build_beside(command: str, environments: Environments) -> Celery:
    """
    Build the Celery app of a process that runs no task: beat, or Flower.

    Beat reads the names of the queues from the repositories, and writes nothing there. Flower opens no
    repository: it learns the queues from the workers.

    Args:
        command: Celery's name of it.

    Raises:
        SettingsError, RepositoryError: As for ``build``.
    """
    _ignore_git_variables()
    found = settings_of(environments)
    paging.configure(next(iter(found.values())), "celery")
    if command == "flower":
        queues = {queue_of(name or "repository"): name for name in found}
    else:
        queues = _queues(found, known_or_prepared)
    return build_celery({queue: found[name] for queue, name in queues.items()}, publisher=False)


def load_extensions(settings: Settings) -> tuple[Extension, ...]:
    """
    Import the extensions that *settings* names.

    Raises:
        SettingsError: An extension cannot be loaded.
    """
    try:
        return load(settings.extensions)
    except ExtensionError as exc:
        raise SettingsError(f"CFP_API_EXTENSIONS: {exc}") from exc


def _ignore_git_variables() -> None:
    if ignored := stay_here(os.environ):
        logs.log().warning("environment.ignored", variables=ignored)


def _queues(found: Mapping[str, Settings], identify: Callable[[Settings], str]) -> dict[str, str]:
    """
    Return the name of the repository of each queue.
    """
    names: dict[str, str] = {}
    problems = []
    for name, settings in found.items():
        try:
            queue = queue_of(identify(settings))
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
        f"{other.data_repo_path} has the ferry.id of {one.data_repo_path}, so one is a copy of the other; "
        "run in the copy, before you start its API again: git config --unset ferry.id"
    )


def start_worker() -> Celery:
    """
    Build the app that ``celery -A ferry.worker`` runs, for one repository or several: a worker, beat, or
    Flower.
    """
    end_beat_at_once(sys.argv)
    # Otherwise Celery sets its own format on the root logger.
    setup_logging.connect(_configure_logging)
    logs.configure()
    if (command := subcommand(sys.argv)) == "flower":
        from ferry.worker.observe import flower  # imported here, because only Flower runs a web server

        flower.configure(os.environ)
    if command in _BESIDE:
        return build_beside(command, environments(os.environ))
    pipelines = build_all(environments(os.environ), calls=True)
    paging.configure(pipelines[0].settings, "celery")
    if tracing.is_wanted(os.environ):
        worker_process_init.connect(lambda **_: tracing.configure("ferry-worker"), weak=False)
    share_memory()
    worker_shutting_down.connect(_tell_of_the_end)
    finish_tasks_first()
    for pipeline in pipelines:
        worker_shutdown.connect(partial(_hang_up, pipeline), weak=False)
        worker_ready.connect(partial(push_backlog, pipeline), weak=False)
    return pipelines[0].celery


def push_backlog(pipeline: Pipeline, **_: object) -> None:
    """
    Queue pushes of the commits that a start finds pending, ahead of any scheduled retry.

    The sweep that does this also sends the pages that the last worker did not finish sending.
    """
    outbox_of(pipeline.repository).release()
    with logs.bound(repository=pipeline.repository.name or None):
        logs.log().info("worker.serves", path=str(pipeline.repository.path), queue=pipeline.queue)
        if not pipeline.settings.remotes:
            hint = "CFP_DATA_REMOTE is not set: commits stay on this machine"
            logs.log().warning("push.disabled", hint=hint)
    pipeline.celery.send_task(
        "sweep", kwargs={"occasion": "start", "start": time.time()}, queue=pipeline.queue
    )


def _tell_of_the_end(sig: str, how: str, **_: object) -> None:
    logs.log().info("worker.stopping", signal=sig, how=how.lower())
    interrupt(MaintainTask.name)


def _hang_up(pipeline: Pipeline, **_: object) -> None:
    remote.hang_up(pipeline.repository)


def _configure_logging(loglevel: int | None = None, **_: object) -> None:
    # By default Celery logs only warnings; a requested level may be more verbose.
    logs.configure(min(logging.INFO, loglevel or logging.INFO))
