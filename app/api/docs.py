"""
The OpenAPI document, and the page that shows it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from flask import Blueprint, Response, current_app, request, send_from_directory
from flask.typing import ResponseReturnValue

from ferry.app.api.openapi import document
from ferry.app.api.reading import snapshot_of
from ferry.app.services import services

bp = Blueprint("docs", __name__)

PATHS = "ferry-paths"  # where an app keeps the paths of its extensions

# Ferry uses only the files of the package swagger-ui-py: its code is for other frameworks, and imports a lot.
_ASSETS = Path(next(iter(getattr(find_spec("swagger_ui"), "submodule_search_locations", [""])))) / "static"
_SERVED = frozenset({"swagger-ui.css", "swagger-ui-bundle.js"})
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ferry API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<nav class="swagger-ui" aria-label="Ferry">
<p class="wrapper"><a href="/">Data</a> | <a href="/status">Status</a></p>
</nav>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
_START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", validatorUrl: null, deepLinking: true});\n'
# Swagger UI uses inline styles and data: images, and nothing from other sites.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@bp.get("/openapi.json")
def openapi() -> ResponseReturnValue:
    """
    Return the OpenAPI 3.1 document of this repository's API, with the schema of each of its sheets.
    """
    settings, paths = services().pipeline.settings, current_app.extensions[PATHS]
    return document(snapshot_of(), settings, paths, root=request.script_root or "/")


@bp.get("/docs")
def page() -> Response:
    """
    Show the document in a browser.
    """
    return _html(_PAGE)


@bp.get("/docs/start.js")
def start() -> Response:
    """
    Return the script that starts the page: the policy forbids scripts in the page itself.
    """
    return Response(_START, content_type="text/javascript; charset=utf-8")


@bp.get("/docs/<name>")
def asset(name: str) -> Response:
    """
    Return one of the page's own files.
    """
    return send_from_directory(_ASSETS, name if name in _SERVED else "", max_age=3600)


def _html(text: str) -> Response:
    response = Response(text, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
