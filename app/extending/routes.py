"""
The routes of extensions, served as Ferry's own: with its callers, limits, metrics and problems.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from io import BytesIO
from typing import Any

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import Map, MapAdapter, RequestRedirect

from ferry.app.access import caller, caller_if_known
from ferry.app.api.docs import PATHS
from ferry.app.extending.paths import extension_paths
from ferry.app.extending.transactions import RequestHost
from ferry.app.problems import Problem
from ferry.app.services import EXTENSION
from ferry.app.store.rules import call
from ferry.extension import Extension, Route
from ferry.worker.errors import RepositoryError, SettingsError

_PARAMETER = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?\w+>")
_SAMPLES = {"int": "1", "float": "1.0", "uuid": "00000000-0000-0000-0000-000000000000"}
_KNOWN = (HTTPException, Problem, RepositoryError)


def register(app: Flask, extensions: Sequence[Extension]) -> None:
    """
    Add the routes and blueprints of *extensions* to *app*.

    Raises:
        SettingsError: One of them would stand where another route does.
    """
    settings = app.extensions[EXTENSION].pipeline.settings
    app.extensions[PATHS] = extension_paths(extensions, reads_are_open=settings.api_read == "open")
    if extensions:
        serve(app, extensions)


def serve(app: Flask, extensions: Sequence[Extension]) -> None:
    """
    Add the routes and blueprints of *extensions*, beside those of *app*.

    Raises:
        SettingsError: As above.
    """
    Extension.host = RequestHost()
    own = _copy(app.url_map)
    for extension in extensions:
        try:
            _add(app, extension)
        except (
            AssertionError,
            LookupError,
            ValueError,
        ) as exc:  # of Flask or Werkzeug: this cannot be a route
            raise SettingsError(f"CFP_API_EXTENSIONS: {extension.name}: {exc}") from exc
    _check(app.url_map, own)


def _copy(routes: Map) -> Map:
    rules = [rule.empty() for rule in routes.iter_rules()]
    return Map(rules, converters=routes.converters, merge_slashes=False)


def _add(app: Flask, extension: Extension) -> None:
    if extension.name in app.blueprints:
        raise ValueError("a part of Ferry has this name; choose another")
    app.before_request_funcs.setdefault(extension.name, []).append(_read_body)  # of its blueprint's views too
    for number, route in enumerate(extension.hooks.routes):
        endpoint = f"{extension.name}.{route.view.__name__}"
        if endpoint in app.view_functions:
            endpoint += f"_{number}"
        app.add_url_rule(route.path, endpoint, _view(extension.name, route), methods=list(route.methods))
    if extension.hooks.blueprint:
        app.register_blueprint(extension.hooks.blueprint)


def _check(routes: Map, own: Map) -> None:
    """
    Check that no route of an extension stands where one of Ferry's, or an earlier one, does.

    Raises:
        SettingsError: One does.
    """
    adapter, endpoints = own.bind("localhost"), {rule.endpoint for rule in own.iter_rules()}
    taken: set[tuple[str, str]] = set()
    for rule in routes.iter_rules():
        if rule.endpoint in endpoints:
            continue
        who = f"CFP_API_EXTENSIONS: {rule.endpoint.partition('.')[0]}"
        if _is_taken(adapter, rule.rule):
            raise SettingsError(f"{who}: the route {rule.rule} is one of Ferry's own")
        made = {(method, rule.rule) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
        if twice := sorted(made & taken):
            raise SettingsError(f"{who}: the route {' '.join(twice[0])} is registered twice")
        taken |= made


def _is_taken(own: MapAdapter, path: str) -> bool:
    """
    Whether Ferry answers an address of the route *path*, by any method.
    """
    sample = _PARAMETER.sub(lambda found: _SAMPLES.get(found[1] or "", "x"), path)
    try:
        own.match(sample)
    except NotFound:
        return False
    except (MethodNotAllowed, RequestRedirect):
        return True
    return True


def _read_body() -> None:
    """
    Read the body before the view does, for a form that was parsed cannot count to its ``Idempotency-Key``.
    """
    request.stream = BytesIO(request.get_data())  # a view may read it as a stream all the same


def _view(extension: str, route: Route) -> Callable[..., Response]:
    @wraps(route.view)
    def answered(parameters: dict[str, Any]) -> Response:
        return current_app.make_response(route.view(**parameters))

    def view(**parameters: Any) -> Response:
        sender = caller_if_known() if route.public else caller()
        given = {"caller": sender} if route.wants_caller else {}
        response: Response = call(extension, answered, {**parameters, **given}, passing=_KNOWN)
        return response

    return view
