"""
The composition root of a process that writes or pushes: it builds the parts once, from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from ferry.extension import Extension
from ferry.loading import ExtensionError, load
from ferry.worker.after.calling import registered_in
from ferry.worker.after.turns import MOST_AT_ONCE
from ferry.worker.broker.later import Later
from ferry.worker.errors import SettingsError
from ferry.worker.files.places import hook_places, packing_lock
from ferry.worker.fleet import Environments, queues_of, settings_of
from ferry.worker.git.environment import stay_here
from ferry.worker.git.prepare import prepare
from ferry.worker.pipeline import Pipeline, assemble
from ferry.worker.settings import Settings

if TYPE_CHECKING:
    from celery import Celery


def build(env: Mapping[str, str], *, publisher: bool = False, is_brief: bool = False) -> Pipeline:
    """
    Check the environment and the repository, and build the pipeline.

    Args:
        env: Environment variables.
        publisher: Whether this process only sends tasks, as the API does, and
            must never wait long for the broker.
        is_brief: Whether it is a command, of which most send nothing: Celery, a quarter of a command's start,
            is imported when it is first used.

    Raises:
        SettingsError: The environment is wrong.
        RepositoryError: The data repository is not usable.
    """
    [pipeline] = build_all({"": env}, publisher=publisher, is_brief=is_brief)
    return pipeline


def build_all(
    environments: Environments, *, publisher: bool = False, is_brief: bool = False, calls: bool = False
) -> list[Pipeline]:
    """
    Build the pipeline of each repository of one process; all share one Celery app.

    Args:
        environments: Environment variables by the repository's name; see ``ferry.worker.fleet``.
        calls: Whether this process calls the functions of extensions after commits and pushes.

    Raises:
        SettingsError, RepositoryError: As for ``build``; or two environments name the same repository.
    """
    stay_here(os.environ)
    found = settings_of(environments)
    registered = {name: registered_in(found[name], env) for name, env in environments.items() if calls}
    places = min(sum(len(each.hooks) for each in registered.values()), MOST_AT_ONCE)
    names = queues_of(found, prepare)
    served = {queue: found[name] for queue, name in names.items()}

    def make_celery() -> Celery:
        from ferry.worker.broker.celery_app import build_celery

        return build_celery(served, publisher=publisher, places=places)

    celery = cast("Celery", Later(make_celery)) if is_brief else make_celery()
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
    if not publisher:  # it sends tasks by name, and Celery takes milliseconds to register them
        from ferry.worker.tasks import register

        register(celery, {pipeline.queue: pipeline for pipeline in pipelines})
    for pipeline in pipelines:
        pipeline.repository.objects.committer.report()
    return pipelines


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
