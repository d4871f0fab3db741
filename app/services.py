"""
The parts that the API's views use, built once per process by ``create_app``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flask import current_app

from ferry.app.arrivals import Arrivals
from ferry.app.clients.limits import Limits
from ferry.app.clients.shared_key import shared_key
from ferry.app.clients.tickets import Tickets
from ferry.app.clients.tokens import Tokens
from ferry.app.liveness import Liveness
from ferry.app.metrics import metering
from ferry.app.store.idempotency import IdempotencyStore
from ferry.app.store.listing import Listing
from ferry.app.store.rules import Rules
from ferry.app.store.store import Store
from ferry.extension import Extension
from ferry.worker.after.hooks import hooks_of
from ferry.worker.bootstrap import build, load_extensions
from ferry.worker.enqueue import PushQueue
from ferry.worker.files.places import state_directory
from ferry.worker.pipeline import Pipeline
from ferry.worker.settings import ORIGIN

EXTENSION = "ferry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """
    The parts of one API process.

    Attributes:
        pipeline: Settings, repository, ledger and Celery app.
        store: Records to git and back.
        push_queue: Where a commit's push is queued.
        listing: Parsed records of whole sheets.
        idempotency: The answers to requests with an Idempotency-Key.
        arrivals: Wakes the requests that wait for a commit to arrive.
        liveness: Whether a worker answers.
        tokens: The tokens that may write, and read where reading needs one.
        tickets: What lets a browser in that cannot send its token.
        limits: How many requests one client may make.
        extensions: The extensions that ``CFP_API_EXTENSIONS`` names, in order.
        rules: The rules of all of them.
        open_access: Whether requests need no token, as under ``ferry dev``.
    """

    pipeline: Pipeline
    store: Store
    push_queue: PushQueue
    listing: Listing
    idempotency: IdempotencyStore
    arrivals: Arrivals
    liveness: Liveness
    tokens: Tokens
    tickets: Tickets
    limits: Limits
    extensions: tuple[Extension, ...]
    rules: Rules
    open_access: bool


def build_services(env: Mapping[str, str], *, open_access: bool) -> Services:
    """
    Build the services from environment variables.

    Raises:
        SettingsError: The environment is wrong.
        RepositoryError: The data repository is not usable.
    """
    pipeline = build(env, publisher=True)
    listing, extensions = Listing(pipeline.repository), load_extensions(pipeline.settings)
    rules = Rules(extensions)
    pipeline.after.serve(hooks_of(extensions))
    pipeline.reconciler.rules.serve(has_rules=bool(rules))
    return Services(
        pipeline=pipeline,
        store=Store(pipeline.repository, listing),
        push_queue=PushQueue(
            pipeline.celery,
            _asked_for(pipeline),
            on_failure=metering.enqueue_failed,
        ),
        listing=listing,
        idempotency=IdempotencyStore(pipeline.repository),
        arrivals=Arrivals(pipeline.repository),
        liveness=Liveness(pipeline.celery),
        tokens=Tokens(pipeline.settings),
        tickets=Tickets(shared_key(state_directory(pipeline.settings.data_repo_path))),
        limits=Limits(pipeline.settings.api_rate_limit),
        extensions=extensions,
        rules=rules,
        open_access=open_access,
    )


def _asked_for(pipeline: Pipeline) -> list[str]:
    """
    Return the remotes for which each commit queues a push.

    Such a message also tells the worker to call extensions' functions: with some, there is one without a
    remote, too.
    """
    remotes = list(pipeline.settings.remotes) if pipeline.repository.pushes else []
    return remotes or ([ORIGIN] if pipeline.after.hooks else [])


def services() -> Services:
    """
    Return the services of the app that handles this request.
    """
    return cast(Services, current_app.extensions[EXTENSION])
