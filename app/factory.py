"""
The composition root of an API process.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Mapping

import structlog
from flask import Flask, Response, g, request
from flask_cors import CORS
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import PathConverter

from ferry.app import problems
from ferry.app.access import ANY_SHEET, admit_browser, client_of, has_writers, listener, reader
from ferry.app.api import (
    attachments,
    commits,
    docs,
    events,
    health,
    metrics,
    push,
    records,
    reload,
    sheets,
    transactions,
)
from ferry.app.api.conditions import answer_conditionally
from ferry.app.api.exchange import importing
from ferry.app.api.json_provider import RecordJsonProvider
from ferry.app.api.parameters import refuse_unacceptable, refuse_unknown
from ferry.app.api.reading import await_commit, name_commit
from ferry.app.api.role import send_to_primary
from ferry.app.browse import pages, signing_in
from ferry.app.clients.neighbours import refusal
from ferry.app.errors import SheetConfigError
from ferry.app.extending import routes
from ferry.app.gunicorn import is_gunicorn
from ferry.app.metrics import metering
from ferry.app.problems import Problem
from ferry.app.provenance import request_id
from ferry.app.replica.following import Following
from ferry.app.server import gunicorn_logging
from ferry.app.server.later import has_waited, is_delayed
from ferry.app.server.request import WholeRequest
from ferry.app.services import EXTENSION, Services, build_services, services
from ferry.app.sheets.declarations import OUTDATED_HINT, outdated
from ferry.app.status_page import sessions, status
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.territory import OVERLAP_HINT
from ferry.app.version import this_build
from ferry.worker import paging
from ferry.worker.files.places import state_directory
from ferry.worker.observe import logs, tracing
from ferry.worker.observe.logs import log
from ferry.worker.repair.fence import HINT as HINT_FENCED
from ferry.worker.repair.fence import fence_of, fence_replica
from ferry.worker.settings import Settings

_DATA = (sheets.bp, records.bp, attachments.bp, importing.bp, transactions.bp, commits.bp, events.bp)
_FOR_BROWSERS = (docs.bp, pages.bp)
_READABLE = (*_DATA, *_FOR_BROWSERS)
_GUARDED_OTHERWISE = (health.bp, push.bp, reload.bp, metrics.bp, status.bp, pages.assets, signing_in.bp)
_PAGES = frozenset(blueprint.name for blueprint in _FOR_BROWSERS)
_READS = frozenset(blueprint.name for blueprint in _READABLE)
_CHANGES = (*(blueprint.name for blueprint in _DATA), push.bp.name)  # by any method but GET
_SHOW_EVERY_SHEET = (commits.bp.name, events.bp.name, pages.EVERY_SHEET)  # blueprints and endpoints
_UNCOUNTED = (health.bp.name, metrics.bp.name)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context
_EXPOSED = (
    "ETag", "Link", "Location", "Preference-Applied", "Idempotent-Replayed", "X-Request-Id", "Retry-After",
    "Content-Range", "X-Ferry-Commit", "X-Ferry-Unreadable", "X-RateLimit-Limit", "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)  # fmt: skip


class _PathConverter(PathConverter):
    """
    A record's path. It may contain line breaks, because git allows them in names.
    """

    regex = r"[^/](?s:.)*?"


def build_app(env: Mapping[str, str], *, open_access: bool) -> Flask:
    """
    Build the Flask app from environment variables.

    Raises:
        SettingsError: The environment is wrong.
        RepositoryError: The data repository is not usable.
    """
    logs.configure()
    metering.prepare()
    this_build()  # read now, because the checkout may change later
    built = build_services(env, open_access=open_access)
    settings = built.pipeline.settings
    paging.configure(settings, "flask")
    app = Flask("app", static_folder=None)
    app.request_class = WholeRequest
    app.json = RecordJsonProvider(app)
    app.url_map.converters["path"] = _PathConverter
    app.url_map.merge_slashes = False  # no record has a path with an empty part; a redirect would not help
    app.config["MAX_CONTENT_LENGTH"] = settings.api_max_body_bytes
    app.extensions[EXTENSION] = built
    sessions.register(app, state_directory(settings.data_repo_path), settings.admin_token)
    problems.register(app)
    for blueprint in (*_READABLE, *_GUARDED_OTHERWISE):
        app.register_blueprint(blueprint)
    routes.register(app, built.extensions)
    if is_gunicorn():
        # gunicorn waits for the running requests, and an event stream does not end by itself.
        built.arrivals.close_on(signal.SIGTERM)
        gunicorn_logging.take_over()
    _add_middleware(app, settings)
    _report_settings(built)
    _report_sheets(built.store.snapshot())
    if settings.is_replica:
        fence_replica(built.pipeline.repository)
        Following(built.pipeline).start()
        return app
    built.pipeline.watchdog.watch()
    if built.pipeline.sweeper.wanting() and (head := built.pipeline.repository.head()):
        built.push_queue.enqueue_push(head)
    return app


def _add_middleware(app: Flask, settings: Settings) -> None:
    """
    Add what handles every request before and after its view.
    """
    if tracing.configure("ferry-api"):
        from opentelemetry.instrumentation.flask import FlaskInstrumentor  # an extra

        FlaskInstrumentor().instrument_app(app)  # type: ignore[no-untyped-call]
    app.before_request(_begin)
    app.before_request(_refuse_other_sites)
    app.before_request(_count)
    app.before_request(_send_to_primary)
    app.before_request(_authorise_read)
    app.before_request(refuse_unknown)
    app.before_request(refuse_unacceptable)
    app.before_request(_await_commit)
    app.after_request(_finish)
    if settings.api_cors_origins:
        CORS(app, origins=list(settings.api_cors_origins), expose_headers=list(_EXPOSED), max_age=600)
    if settings.api_trusted_proxies:
        hops = settings.api_trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]


def _report_settings(built: Services) -> None:
    """
    Log the settings that leave a part of Ferry switched off.
    """
    settings, fence = built.pipeline.settings, fence_of(built.pipeline.repository.path)
    if fence and not settings.is_replica:
        log().error("primary.fenced", commit=fence.commit, host=fence.host, hint=HINT_FENCED)
    if not settings.remotes:
        log().warning("push.disabled", hint="CFP_DATA_REMOTE is not set: commits stay on this machine")
    if not (has_writers(built) or settings.is_replica):
        hint = "neither CFP_API_TOKENS nor CFP_API_TOKENS_PATH names a writer: every write is refused"
        log().warning("api.read_only", hint=hint)


def _report_sheets(snapshot: Snapshot) -> None:
    """
    Log, once at the start, which sheets are misconfigured or overlap. Requests to them report it too.
    """
    for name in snapshot.sheet_names():
        try:
            keys = outdated(snapshot.sheet(name).config)
        except SheetConfigError as exc:
            log().warning("sheet.misconfigured", sheet=name, error=str(exc), hint=exc.hint)
            continue
        if keys:
            log().warning("sheet.outdated", sheet=name, keys=keys, hint=OUTDATED_HINT)
    for name, others in snapshot.territory.overlaps().items():
        log().warning("sheets.overlap", sheet=name, others=others, hint=OVERLAP_HINT)


def _begin() -> None:
    g.begun = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id())
    if _TRACEPARENT.fullmatch(parent := request.headers.get("traceparent", "")):
        structlog.contextvars.bind_contextvars(traceparent=parent)


def _refuse_other_sites() -> None:
    if not services().open_access:
        return
    origins = services().pipeline.settings.api_cors_origins
    if refused := refusal(request.method, request.headers.get, origins):
        if refused.code == "foreign-host":
            raise Problem(403, "foreign-host", refused.detail, "Use 127.0.0.1 or localhost in the URL.")
        hint = "An operator can allow the page's origin in CFP_API_CORS_ORIGINS."
        raise Problem(403, "cross-site", refused.detail, hint)


def _authorise_read() -> None:
    if request.method not in ("GET", "HEAD"):
        return
    if request.blueprint in _PAGES:
        admit_browser()
    if request.endpoint == events.STREAM:
        listener()
    elif request.blueprint in _SHOW_EVERY_SHEET or request.endpoint in _SHOW_EVERY_SHEET:
        reader()
    elif request.blueprint in _READS:
        reader(ANY_SHEET if request.view_args is None else request.view_args.get("sheet", ANY_SHEET))
    elif _is_of_an_extension():
        reader(ANY_SHEET)


def _send_to_primary() -> Response | None:
    is_read = request.method in ("GET", "HEAD", "OPTIONS")
    if is_read or not (request.blueprint in _CHANGES or _is_of_an_extension()):
        return None
    return send_to_primary()


def _is_of_an_extension() -> bool:
    names = {extension.name for extension in services().extensions}
    return not names.isdisjoint(request.blueprints)  # a blueprint may be nested in the extension's


def _await_commit() -> None:
    is_ours = request.blueprint in _READS
    if request.method in ("GET", "HEAD") and (is_ours or _is_of_an_extension()):
        await_commit()


def _finish(response: Response) -> Response:
    """
    Apply the request's conditions to the answer, add the headers of every answer, and count it.
    """
    answer_conditionally(response)
    name_commit(response)
    response.headers["X-Request-Id"] = request_id()
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    for name, value in g.get("limit_headers", {}).items():
        response.headers.setdefault(name, value)
    if is_delayed():
        return response
    seconds = time.perf_counter() - g.begun
    metering.request_answered(request.method, request.endpoint or "none", response.status_code, seconds)
    return response


def _count() -> None:
    """
    Count the request against its sender's limit, even if there is nothing at its address.
    """
    if request.blueprint not in _UNCOUNTED and not has_waited():
        client = client_of(
            request.headers.get("Authorization", ""), request.remote_addr or "", services().tokens
        )
        g.limit_headers = services().limits.request(client)
