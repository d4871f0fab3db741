"""
A request whose body is read whole, or refused.
"""

from __future__ import annotations

from typing import IO, Any

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.utils import cached_property
from werkzeug.wsgi import get_input_stream


class WholeRequest(Request):
    """
    Flask's request. A body beyond ``max_content_length`` is 413 even if its length was not declared.

    werkzeug silently truncates such a body at the limit.
    """

    @cached_property
    def stream(self) -> IO[bytes]:
        """
        The body as it arrives, up to one byte beyond the limit.
        """
        limit = self.max_content_length
        if limit is not None and (self.content_length or 0) > limit:
            raise RequestEntityTooLarge
        return get_input_stream(self.environ, max_content_length=None if limit is None else limit + 1)

    def get_data(self, *args: Any, **options: Any) -> Any:
        """
        Return the body.

        Raises:
            RequestEntityTooLarge: It is larger than ``max_content_length``.
        """
        data = super().get_data(*args, **options)
        if self.max_content_length is not None and len(data) > self.max_content_length:
            raise RequestEntityTooLarge
        return data
