"""
What the endpoints of the status page answer with, and the remote that a form names.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from ferry.app.access import operator_of
from ferry.app.problems import Problem
from ferry.app.services import services
from ferry.app.status_page import words
from ferry.app.status_page.sessions import current_session, sessions
from ferry.worker.ledger.operators import Operator


def the_remote() -> str:
    """
    Return the remote that the form names.

    Raises:
        Problem: 404 if no such remote is configured.
    """
    remote = request.form.get("remote", "")
    if remote not in services().pipeline.settings.remotes:
        raise Problem(404, "remote-not-found", "No such remote is configured.", "Reload /status.")
    return remote


def by_form() -> Operator:
    """
    Return who sent the form, with the reason that it gives.
    """
    return operator_of(request.form.get("reason"))


def back(done: str | None = None) -> ResponseReturnValue:
    """
    Redirect to the status page, which shows the notice *done*.
    """
    return redirect(url_for("status.show", done=done), HTTPStatus.SEE_OTHER)


def page(name: str, **values: Any) -> str:
    """
    Render the template *name* with what every page needs.
    """
    session = current_session()
    return render_template(
        f"status/{name}.html",
        **values,
        words=words,
        form_token=sessions().form_token(session),
        is_replica=services().pipeline.settings.is_replica,
        is_signed_in=session.signed_in and not services().open_access,
    )


def message(status: int, title: str, detail: str, hint: str = "") -> ResponseReturnValue:
    """
    Answer with a page that says one thing.
    """
    return page("message", title=title, detail=detail, hint=hint), status
