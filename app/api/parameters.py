"""
The parameters that an address takes: what the OpenAPI document lists for it, and no others.

An unknown one is a slip, or asks for what Ferry cannot do. Without an error a typo would change what a
request means, and nobody would see it.
"""

from __future__ import annotations

import re
from functools import cache

from flask import request

from ferry.app.api.openapi import operations
from ferry.app.problems import Problem, did_you_mean

_VARIABLE = re.compile(r"\{[^}]*\}|<[^>]*>|\$\{[^}]*\}")


def refuse_unknown() -> None:
    """
    Refuse a parameter that the address of the running request does not take.

    A list of records takes its fields, too: see ``query``.

    Raises:
        Problem: 400; it names the parameter.
    """
    if request.url_rule is None or not request.args:
        return
    method = "get" if request.method == "HEAD" else request.method.lower()
    known = _known().get((method, _VARIABLE.sub("*", request.url_rule.rule)))
    if known is None or "fields" in known:
        return
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


@cache
def _known() -> dict[tuple[str, str], frozenset[str]]:
    found = {(method, _VARIABLE.sub("*", path)): names for path, method, names in operations()}
    # What asks for the health may add a parameter against caches.
    return {key: names for key, names in found.items() if not key[1].startswith("/api/health")}
