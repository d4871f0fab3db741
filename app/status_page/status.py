"""
``/status``: the state of the pushes, and the buttons to act on it, for operators with a browser.

Works without JavaScript, by forms that redirect to the page. With JavaScript, the page listens to the event
stream and refetches the part that changes.
"""

from __future__ import annotations

import time
from http import HTTPStatus

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue

from ferry.app import access
from ferry.app.api import events
from ferry.app.clients.neighbours import is_own_site
from ferry.app.problems import Problem
from ferry.app.services import services
from ferry.app.status_page import reconcile, runbook, words
from ferry.app.status_page.answers import back, by_form, message, page, the_remote
from ferry.app.status_page.facts import look
from ferry.app.status_page.sessions import begin, current_session, keep, sessions
from ferry.worker.errors import RepositoryError, WorkerError
from ferry.worker.ledger import operators
from ferry.worker.observe.logs import log

bp = Blueprint(
    "status",
    __name__,
    url_prefix="/status",
    template_folder="templates",
    static_folder="static",
    static_url_path="/assets",
)
bp.register_blueprint(reconcile.bp)

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAUSE_TIMEOUT_S = 10.0  # to wait for a running push; a browser does not wait for long
_EVENTS = 200
_ASSETS = "status.static"
# The notice after a form, by the word in the page's address.
_DONE = {
    "queued": ("good", "The push is queued."),
    "resumed": ("good", "Resumed. The pending commits are pushed now, or by the next sweep."),
    "nothing": ("busy", "There is nothing to push."),
    "paused": ("warn", "It is paused: commits wait until an operator resumes it."),
    "no-broker": ("bad", "The broker did not accept the push. Check Redis (CFP_REDIS_URL) and the worker."),
}


@bp.before_request
def _let_in() -> ResponseReturnValue | None:
    if request.endpoint == _ASSETS:
        return None
    if not services().open_access:
        access.admin_token()
    if request.method == "POST" and not _is_from_our_page():
        raise Problem(
            403,
            "form-expired",
            "The form was not sent from this page, or the page is too old.",
            "Reload /status and repeat it.",
        )
    if request.endpoint == "status.sign_in":
        return None
    if not _may_enter():
        return _sign_in_form()
    if request.method == "POST" and request.endpoint != "status.sign_out":
        _refuse_on_a_replica()
    return None


def _refuse_on_a_replica() -> None:
    settings = services().pipeline.settings
    if settings.is_replica:
        raise Problem(
            403,
            "read-only-replica",
            "This is a replica, which neither pushes nor reconciles.",
            f"Do it at the primary: {settings.api_primary_url or ''}/status",
        )


def _is_from_our_page() -> bool:
    # A third check, beside the SameSite cookie and the form token.
    if not is_own_site(request.headers.get("Sec-Fetch-Site")):
        return False
    return sessions().is_form_token(current_session(), request.form.get("form_token", ""))


def _may_enter() -> bool:
    return services().open_access or current_session().signed_in or access.is_operator_by_header()


def _sign_in_form(*, refused: bool = False) -> ResponseReturnValue:
    return page("sign_in", refused=refused), 401, {"WWW-Authenticate": 'Bearer realm="ferry"'}


@bp.after_request
def _finish(response: Response) -> Response:
    response.headers.update(_HEADERS)
    if request.endpoint != _ASSETS:
        response.headers["Cache-Control"] = "no-store"
        keep(response)
    return response


@bp.get("")
def show() -> ResponseReturnValue:
    """
    Show the page, or the sign-in form.
    """
    settings = services().pipeline.settings
    is_public = settings.api_read == "open" or services().open_access
    return page(
        "page",
        facts=look(services()),
        events=url_for("events.stream" if is_public else "status.stream"),
        done=_DONE.get(request.args.get("done", "")),
    )


@bp.get("/live")
def live() -> ResponseReturnValue:
    """
    Return the part of the page that changes.
    """
    return page("live", facts=look(services()))


@bp.get("/events")
def stream() -> Response:
    """
    Stream ``/api/events`` to a signed-in browser, which cannot send a bearer token there.
    """
    return events.stream()


@bp.get("/runbook")
def show_runbook() -> ResponseReturnValue:
    """
    Show the runbook, by reason.
    """
    return page("runbook", sections=runbook.sections())


@bp.get("/history")
def show_history() -> ResponseReturnValue:
    """
    Show failures, recoveries and what operators did, by remote, newest first.
    """
    pipeline = services().pipeline
    found = {remote: pipeline.ledger.happened(remote) for remote in pipeline.settings.remotes}
    return page("history", history={remote: events[::-1][:_EVENTS] for remote, events in found.items()})


@bp.post("/sign-in")
def sign_in() -> ResponseReturnValue:
    """
    Check the admin token, and sign this browser in for some hours.
    """
    # Under open access no token is needed, and there may be none.
    if not services().open_access:
        if not access.is_admin_token(request.form.get("token", "").strip()):
            log().warning("status.sign_in_refused", address=request.remote_addr)
            services().limits.wrong_token(request.remote_addr or "")
            return _sign_in_form(refused=True)
        begin(signed_in=True)
    return back()


@bp.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """
    Sign this browser out, and every copy of its cookie.
    """
    if current_session().signed_in:
        sessions().sign_out(current_session())
    begin(signed_in=False)
    return back()


@bp.post("/push")
def push() -> ResponseReturnValue:
    """
    Queue a push to the form's remote, or to all, without waiting for a scheduled retry.
    """
    only = the_remote() if request.form.get("remote") else None
    pipeline = services().pipeline
    head, remotes = pipeline.repository.head(), [only] if only else list(pipeline.settings.remotes)
    if head is None or not remotes:
        return back("nothing")
    if not operators.request(pipeline.ledger, remotes, by_form(), now=time.time()):
        return back("paused")
    taken = services().push_queue.enqueue_push(head, "operator", only=only)
    return back("queued" if taken else "no-broker")


@bp.post("/pause")
def pause() -> ResponseReturnValue:
    """
    Pause or resume the pushes to the form's remote.
    """
    remote, resume = the_remote(), request.form.get("resume") == "yes"
    pipeline, now = services().pipeline, time.time()
    about = {"now": now, "timeout_s": _PAUSE_TIMEOUT_S}
    try:
        if resume:
            operators.resume(pipeline.ledger, remote, by_form(), **about)
        else:
            operators.pause(pipeline.ledger, remote, by_form(), until=_until(now), **about)
    except WorkerError as exc:
        return message(HTTPStatus.SERVICE_UNAVAILABLE, f"Not paused: {remote}", str(exc))
    head = pipeline.repository.head()
    if resume and head:
        services().push_queue.enqueue_push(head, "operator", only=remote)
    return back("resumed" if resume else "paused")


def _until(now: float) -> float | None:
    """
    Return when the form's pause ends by itself; None if it does not.
    """
    if not (lasts := request.form.get("lasts")):
        return None
    try:
        return now + words.seconds(lasts)
    except ValueError as exc:
        raise Problem(400, "bad-request", str(exc), "Reload /status.") from exc


@bp.errorhandler(Problem)
def _problem(problem: Problem) -> ResponseReturnValue:
    if "text/html" not in request.headers.get("Accept", ""):
        return problem.response()
    title = f"{problem.status} {HTTPStatus(problem.status).phrase}"
    return message(problem.status, title, problem.detail, problem.hint)


@bp.errorhandler(RepositoryError)
def _repository_error(error: RepositoryError) -> ResponseReturnValue:
    log().error("api.repository_failed", error=str(error), method=request.method, path=request.path)
    return message(
        HTTPStatus.SERVICE_UNAVAILABLE, "The data repository cannot be read", str(error), "Try: ferry doctor"
    )
