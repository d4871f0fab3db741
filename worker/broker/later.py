"""
What is made when it is first used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Later:
    """
    Stands for an object that takes long to make, such as a Celery app, and makes it when an attribute of it
    is asked for; usable from any thread.

    Args:
        make: Makes the object; called once.
    """

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        self._mutex = threading.Lock()
        self._made: object = None

    def __getattr__(self, name: str) -> Any:
        with self._mutex:
            if self._made is None:
                self._made = self._make()
        return getattr(self._made, name)
