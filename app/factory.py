"""
The composition root of an API process.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask
from sentry_sdk.integrations.flask import FlaskIntegration

from app import problems
from app.api import commits, health, metrics, push, records, reload, sheets
from app.json_form import RecordJsonProvider
from app.services import EXTENSION, build_services
from worker import logs, paging
from worker.logs import log

MAX_BODY_BYTES = 1024 * 1024


def build_app(env: Mapping[str, str], *, open_access: bool) -> Flask:
    """
    Build the Flask app from environment variables.

    Raises:
        SettingsError: The environment is wrong.
        RepositoryError: The data repository is not usable.
    """
    logs.configure()
    built = build_services(env, open_access=open_access)
    settings = built.pipeline.settings
    paging.configure(settings, FlaskIntegration())
    app = Flask("app", static_folder=None)
    app.json = RecordJsonProvider(app)
    app.url_map.merge_slashes = False  # a path with an empty part is no record's; no need to redirect
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.extensions[EXTENSION] = built
    problems.register(app)
    for blueprint in (health.bp, sheets.bp, records.bp, commits.bp, push.bp, reload.bp, metrics.bp):
        app.register_blueprint(blueprint)
    if not settings.remotes:
        log().warning("push.disabled", hint="CFP_DATA_REMOTE is not set: commits stay on this machine")
    if not settings.api_tokens and not open_access:
        log().warning("api.read_only", hint="CFP_API_TOKENS is not set: every write is refused")
    built.pipeline.watchdog.watch()
    if built.pipeline.sweeper.wanting() and (head := built.pipeline.repository.head()):
        built.push_queue.enqueue_push(head)
    return app
