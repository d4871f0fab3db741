"""
Flower as ``ferry dev`` starts it: without a password, and so only for pages of this machine.

    python -m ferry.app.dev.flower -A ferry.worker flower --address=127.0.0.1

Without a password Flower does not check origins, and its API allows every origin. This module checks each
request by ``ferry.app.clients.neighbours``.
"""

from __future__ import annotations

from typing import Any

import tornado.web
from celery.bin.celery import main
from flower.app import Flower
from flower.views import BaseHandler

from ferry.app.clients.neighbours import refusal

_FORBIDDEN = 403


class _Refused(tornado.web.RequestHandler):
    """
    Answers a request that is refused.
    """

    def initialize(self, detail: str) -> None:
        self._detail = detail

    def check_xsrf_cookie(self) -> None:
        """
        Skip the check, so that the answer gives the reason of the refusal.
        """

    def prepare(self) -> None:
        self.set_status(_FORBIDDEN)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(self._detail)


def _guard() -> None:
    find_handler = Flower.find_handler

    def find(app: Flower, request: Any, **options: Any) -> Any:
        refused = refusal(request.method, request.headers.get)
        if refused is None:
            return find_handler(app, request, **options)
        return app.get_handler_delegate(request, _Refused, {"detail": f"{refused.detail}\n"})

    def set_default_headers(handler: BaseHandler) -> None:
        handler.set_header("X-Content-Type-Options", "nosniff")

    Flower.find_handler = find
    BaseHandler.set_default_headers = set_default_headers


if __name__ == "__main__":
    _guard()
    main()
