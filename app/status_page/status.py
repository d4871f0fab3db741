"""
``/status``: where the pushes stand and the two things to do about it, for operators with a browser.

Works without JavaScript, with forms that lead back to the page. With it, the page
listens to the event stream and fetches its changing part anew.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from ferry.app import access
from ferry.app.api import events
from ferry.app.neighbours import is_own_site
from ferry.app.problems import Problem
from ferry.app.services import services
from ferry.app.status_page import runbook, words
from ferry.app.status_page.facts import look
from ferry.app.status_page.sessions import begin, current_session, keep, sessions
from ferry.worker.errors import RepositoryError, WorkerError
from ferry.worker.observe.logs import log
from ferry.worker.repair.reconcile import Outcome, Strategy

bp = Blueprint(
    "status",
    __name__,
    url_prefix="/status",
    template_folder="templates",
    static_folder="static",
    static_url_path="/assets",
)

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAUSE_TIMEOUT_S = 10.0  # a push that runs is waited for; a browser does not wait for long
_ASSETS = "status.static"
_STRATEGIES: tuple[Strategy, ...] = ("merge", "rebase", "preserve")
# What the page says after a form, by the word in its address.
_DONE = {
    "queued": ("good", "The push is queued."),
    "resumed": ("good", "Resumed; what waits is pushed."),
    "nothing": ("busy", "There is nothing to push."),
    "paused": ("warn", "It is paused: commits wait until somebody resumes it."),
    "no-broker": ("bad", "The broker did not take the push. Check Redis (CFP_REDIS_URL) and the worker."),
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
            "Open /status anew and repeat it.",
        )
    if request.endpoint == "status.sign_in" or _may_enter():
        return None
    return _sign_in_form()


def _is_from_our_page() -> bool:
    # The cookie is for this site alone, and a form carries a token of ours; this is a third wall.
    if not is_own_site(request.headers.get("Sec-Fetch-Site")):
        return False
    return sessions().is_form_token(current_session(), request.form.get("form_token", ""))


def _may_enter() -> bool:
    return services().open_access or current_session().signed_in or access.is_operator_by_header()


def _sign_in_form(*, refused: bool = False) -> ResponseReturnValue:
    return _page("sign_in", refused=refused), 401, {"WWW-Authenticate": 'Bearer realm="ferry"'}


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
    Show the page, or the form that asks for the admin token.
    """
    settings = services().pipeline.settings
    is_public = settings.api_read == "open" or services().open_access
    return _page(
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
    return _page("live", facts=look(services()))


@bp.get("/events")
def stream() -> Response:
    """
    Stream ``/api/events`` to a browser that is signed in; it cannot send a bearer token there.
    """
    return events.stream()


@bp.get("/runbook")
def show_runbook() -> ResponseReturnValue:
    """
    Show what to do, reason by reason.
    """
    return _page("runbook", sections=runbook.sections())


@bp.post("/sign-in")
def sign_in() -> ResponseReturnValue:
    """
    Take the admin token, and remember for some hours that it was given.
    """
    # Under open access nobody was asked, and there may be no token.
    if not services().open_access:
        if not access.is_admin_token(request.form.get("token", "").strip()):
            log().warning("status.sign_in_refused", address=request.remote_addr)
            services().limits.wrong_token(request.remote_addr or "")
            return _sign_in_form(refused=True)
        begin(signed_in=True)
    return _back()


@bp.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """
    Forget this browser, and whoever has a copy of its cookie.
    """
    if current_session().signed_in:
        sessions().sign_out(current_session())
    begin(signed_in=False)
    return _back()


@bp.post("/push")
def push() -> ResponseReturnValue:
    """
    Queue a push to the remote that the form names, or to all, ahead of any retry that is scheduled.
    """
    only = _remote() if request.form.get("remote") else None
    pipeline = services().pipeline
    head, remotes = pipeline.repository.head(), [only] if only else list(pipeline.settings.remotes)
    if head is None or not remotes:
        return _back("nothing")
    if all(pipeline.ledger.read(remote).paused_at is not None for remote in remotes):
        return _back("paused")
    taken = services().push_queue.enqueue_push(head, out_of_turn=True, only=only)
    return _back("queued" if taken else "no-broker")


@bp.post("/pause")
def pause() -> ResponseReturnValue:
    """
    Stop the pushes to the remote that the form names, or let them be made again.
    """
    remote, resume = _remote(), request.form.get("resume") == "yes"
    pipeline = services().pipeline
    try:
        pipeline.ledger.set_paused(remote, None if resume else time.time(), timeout_s=_PAUSE_TIMEOUT_S)
    except WorkerError as exc:
        return _message(HTTPStatus.SERVICE_UNAVAILABLE, f"Not paused: {remote}", str(exc))
    head = pipeline.repository.head()
    if resume and head:
        services().push_queue.enqueue_push(head, out_of_turn=True, only=remote)
    return _back("resumed" if resume else "paused")


@bp.post("/reconcile")
def reconcile() -> ResponseReturnValue:
    """
    Say what joining both sides would come to; done only where that was shown before, and is still so.
    """
    remote, strategy = _remote(), _strategy()
    pipeline = services().pipeline
    try:
        outcome = pipeline.reconciler.reconcile(remote, strategy, dry_run=True)
        shown = request.form.get("shown")
        is_done = shown == _plan(outcome) and _is_worth_doing(outcome)
        if is_done:
            outcome = pipeline.reconciler.reconcile(remote, strategy)
            if outcome.state != "fetch-failed" and (head := pipeline.repository.head()):
                services().push_queue.enqueue_push(head, out_of_turn=True)
    except WorkerError as exc:
        return _message(HTTPStatus.SERVICE_UNAVAILABLE, f"Not reconciled with {remote}", str(exc))
    return _page(
        "outcome",
        outcome=outcome,
        meaning=words.JOINED[outcome.state],
        is_done=is_done,
        has_changed=shown is not None and not is_done,
        is_worth_doing=_is_worth_doing(outcome),
        plan=_plan(outcome),
        strategy=strategy,
        strategies=_STRATEGIES,
    )


def _plan(outcome: Outcome) -> str:
    # Our own head is no part of it: writers go on, and what they add is joined as well.
    return f"{outcome.state} {outcome.remote_head}"


def _is_worth_doing(outcome: Outcome) -> bool:
    return outcome.before != outcome.after


def _remote() -> str:
    remote = request.form.get("remote", "")
    if remote not in services().pipeline.settings.remotes:
        raise Problem(404, "remote-not-found", "No such remote is configured.", "Open /status anew.")
    return remote


def _strategy() -> Strategy:
    strategy = request.form.get("strategy", "merge")
    if strategy not in _STRATEGIES:
        raise Problem(
            400, "bad-request", "There is no such strategy.", f"Choose one of {', '.join(_STRATEGIES)}."
        )
    return strategy


def _back(done: str | None = None) -> ResponseReturnValue:
    return redirect(url_for("status.show", done=done), HTTPStatus.SEE_OTHER)


def _page(name: str, **values: Any) -> str:
    session = current_session()
    return render_template(
        f"status/{name}.html",
        **values,
        words=words,
        form_token=sessions().form_token(session),
        is_signed_in=session.signed_in and not services().open_access,
    )


def _message(status: int, title: str, detail: str, hint: str = "") -> ResponseReturnValue:
    return _page("message", title=title, detail=detail, hint=hint), status


@bp.errorhandler(Problem)
def _problem(problem: Problem) -> ResponseReturnValue:
    if "text/html" not in request.headers.get("Accept", ""):
        return problem.response()
    title = f"{problem.status} {HTTPStatus(problem.status).phrase}"
    return _message(problem.status, title, problem.detail, problem.hint)


@bp.errorhandler(RepositoryError)
def _repository_error(error: RepositoryError) -> ResponseReturnValue:
    log().error("api.repository_failed", error=str(error), method=request.method, path=request.path)
    return _message(
        HTTPStatus.SERVICE_UNAVAILABLE, "The data repository cannot be read", str(error), "Try: ferry doctor"
    )
