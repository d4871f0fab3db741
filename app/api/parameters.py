"""
The parameters that an address takes: what the OpenAPI document lists for it, and no others.

An unknown parameter is a typo, or asks for something that Ferry cannot do. Without an error it would silently
change what the request means.
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
    # A health check may add a parameter to bypass caches.
    return {key: names for key, names in found.items() if not key[1].startswith("/api/health")}
