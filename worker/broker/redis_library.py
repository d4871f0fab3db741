"""
redis-py and kombu's transport for it, imported without two parts of redis-py that Ferry does not use.

These are the asyncio client, and the metrics for OpenTelemetry, which import its SDK where that is installed.
Each of Ferry's processes kept four MiB for them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["redis"]


@contextmanager
def _without(name: str) -> Iterator[None]:
    """
    Import libraries in the block as if the optional package *name* were not installed, unless it is imported.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # the documented way to say so
    try:
        yield
    finally:
        del sys.modules[name]


def _put_off(name: str) -> None:
    """
    Have the package *name* imported only when something uses a name in it.

    Its own modules can be imported before: the rest of redis-py imports one.
    """
    library, _, part = name.partition(".")
    found = importlib.util.find_spec(library)
    if name in sys.modules or found is None:
        return
    package: Any = ModuleType(name)
    package.__path__ = [f"{place}/{part}" for place in found.submodule_search_locations or ()]

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)  # tools ask every module for some
        if sys.modules.get(name) is package:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    package.__getattr__ = load
    sys.modules[name] = package


_put_off("redis.asyncio")
with _without("opentelemetry"):
    from kombu.transport import redis
