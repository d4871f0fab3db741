"""
What an address takes and answers: what the OpenAPI document lists for it, and nothing else.

An unknown parameter is a typo, or asks for something that Ferry cannot do. Without an error it would silently
change what the request means. A client that accepts no answer of this address gets none that it cannot read,
and a write of its is not made.
"""

from __future__ import annotations

import re
from functools import cache

from flask import request

from ferry.app.api.openapi import Operation, operations
from ferry.app.problems import Problem, did_you_mean

_ANY = frozenset({"application/octet-stream"})  # the type of an attachment follows from its name
_VARIABLE = re.compile(r"\{[^}]*\}|<[^>]*>|\$\{[^}]*\}")


def refuse_unknown() -> None:
    """
    Refuse a parameter that the address of the running request does not take.

    A list of records takes its fields, too: see ``query``.

    Raises:
        Problem: 400; it names the parameter.
    """
    operation = _operation()
    if not request.args or operation is None or "fields" in operation.parameters:
        return
    known = operation.parameters | _of_a_history()
    for name in request.args:
        if name not in known:
            takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
            raise Problem(
                400,
                "query-invalid",
                f"{name[:80]}: this address takes no such parameter{did_you_mean(name, known)}.",
                f"Leave it out: with {request.method}, {takes}.",
                parameter=name,
            )


def refuse_unacceptable() -> None:
    """
    Refuse a request whose Accept excludes every media type in which its address answers.

    Raises:
        Problem: 406; it names what the address answers.
    """
    operation = _operation()
    if operation is None or not request.accept_mimetypes or _ANY & operation.answers:
        return
    if not request.accept_mimetypes.best_match(operation.answers):
        answers = " or ".join(sorted(operation.answers))
        raise Problem(
            406,
            "not-acceptable",
            f"The request accepts {request.headers['Accept'][:80]}; this address answers {answers}.",
            f"Send Accept: {answers}, or no Accept.",
        )


def _operation() -> Operation | None:
    """
    Return what the document says of the running request; None where that is nothing.
    """
    if request.url_rule is None:
        return None
    return _listed(request.method, request.url_rule.rule)


def _of_a_history() -> frozenset[str]:
    """
    Return what the history of a record takes, at the address of an attachment that may be such a history.
    """
    found = None
    if request.path.endswith("/attachments/history"):  # or of the record that is named "attachments"
        found = _listed(request.method, "/api/sheets/{sheet}/records/{path}/history")
    return found.parameters if found else frozenset()


@cache
def _listed(method: str, rule: str) -> Operation | None:
    return _known().get(("get" if method == "HEAD" else method.lower(), _VARIABLE.sub("*", rule)))


@cache
def _known() -> dict[tuple[str, str], Operation]:
    # A health check may add a parameter to bypass caches, and accept anything.
    found = (each for each in operations() if not each.path.startswith("/api/health"))
    return {(each.method, _VARIABLE.sub("*", each.path)): each for each in found}
