"""
Errors as ``application/problem+json`` (RFC 9457), each with a stable code and a hint.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from ferry.app import errors
from ferry.worker import paging
from ferry.worker.errors import RepositoryError
from ferry.worker.observe.logs import log

MEDIA_TYPE = "application/problem+json"

_STATUS_OF: Mapping[type[errors.StoreError], int] = {
    errors.SheetNotFoundError: 404,
    errors.RecordNotFoundError: 404,
    errors.AttachmentNotFoundError: 404,
    errors.CommitNotFoundError: 404,
    errors.RecordExistsError: 409,
    errors.PreconditionError: 412,
    errors.InvalidPathError: 422,
    errors.InvalidRecordError: 422,
    errors.InvalidJsonError: 400,
    errors.ImportInvalidError: 422,
    errors.InvalidKeyError: 400,
    errors.KeyReusedError: 422,
    errors.KeysExhaustedError: 429,
    errors.SheetConfigError: 500,
    errors.UnreadableRecordError: 500,
    errors.AttachmentUnreadableError: 500,
    errors.SheetTooLargeError: 507,
    errors.BusyError: 503,
    errors.DiskFullError: 507,
    errors.NotSignedError: 503,
    errors.FencedError: 403,
    errors.ExtensionFailedError: 500,
    errors.ExtensionTooSlowError: 503,
}
_CODES = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    413: "body-too-large",
    429: "rate-limited",
}
_HINTS = {
    404: "GET /api/sheets lists the sheets.",
    405: "The Allow header lists the methods of this resource.",
    413: "Send a smaller body.",
    429: "Wait as long as Retry-After says.",
}


class Problem(Exception):
    """
    An error that is answered as a problem document.

    Args:
        status: HTTP status.
        code: Stable name, for programs.
        detail: What is wrong with this request, in a sentence.
        hint: What to do next.
        headers: Further response headers.
        members: Further members of the problem document.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        hint: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.hint = status, code, detail, hint
        self.headers, self.members = dict(headers or {}), members

    def response(self) -> Response:
        """
        Write the problem document.
        """
        document = {
            "type": f"urn:ferry:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "hint": self.hint,
            **self.members,
        }
        response = Response(json.dumps(document) + "\n", self.status, self.headers, content_type=MEDIA_TYPE)
        # Set here too: the server answers some problems before Flask is called.
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """
    Return "did you mean" with the name in *known* that is most similar to *name*; "" if none is similar.
    """
    nearest = difflib.get_close_matches(name[:80], known, 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def register(app: Flask) -> None:
    """
    Answer every error of *app* as a problem document.
    """
    app.register_error_handler(Problem, Problem.response)
    app.register_error_handler(errors.StoreError, _store_error)
    app.register_error_handler(RepositoryError, _repository_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def store_problem(error: errors.StoreError, **more: Any) -> Problem:
    """
    Return the problem that *error* is answered with.
    """
    status = error.status if isinstance(error, errors.RefusedError) else _STATUS_OF[type(error)]
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    headers |= error.headers if isinstance(error, errors.RefusedError) else {}
    detailed = errors.InvalidRecordError | errors.ImportInvalidError | errors.RefusedError
    faults = error.errors if isinstance(error, detailed) else []
    has_errors = bool(faults) or isinstance(error, errors.InvalidRecordError)
    members: dict[str, Any] = {"errors": faults} if has_errors else {}
    return Problem(status, error.code, str(error), error.hint, headers=headers, **members, **more)


def _store_error(error: errors.StoreError) -> Response:
    return store_problem(error).response()


def _repository_error(error: RepositoryError) -> Response:
    log().error("api.repository_failed", error=str(error), method=request.method, path=request.path)
    hint = "GET /api/commits shows what was written. An operator finds the cause in the log or with: git fsck"
    return Problem(503, "repository-unavailable", "The data repository cannot be read now.", hint).response()


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    code = _CODES.get(status, "request-refused")
    headers = {
        name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After", "Location")
    }
    detail = error.description or HTTPStatus(status).phrase
    return Problem(
        status, code, detail, _HINTS.get(status, "Correct the request."), headers=headers
    ).response()


def _unexpected(error: Exception) -> Response:
    # The process's edge: the client gets a problem document in any case. The cause goes to the log and to
    # Sentry, never into the response.
    log().exception("api.unexpected_error", method=request.method, path=request.path)
    paging.report(error)
    return Problem(
        500,
        "internal-error",
        "An error occurred in the server.",
        "Report the X-Request-Id to the operators.",
    ).response()
