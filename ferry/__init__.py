"""
Ferry: a REST API over a gitsheets repository that gets every commit to the repository's remote.

The code is in ``app/`` and ``worker/`` of the checkout, and installs as ``ferry.app`` and ``ferry.worker``.
"""

from typing import Any

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> Any:
    """
    Read the version from the installation the first time that it is asked for (PEP 562).

    Every process that runs a function apart imports this package, and few ask.
    """
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("gitsheets-ferry")
    except PackageNotFoundError:  # a checkout that is not installed
        found = "unknown"
    globals()["__version__"] = found
    return found
