"""
Ferry: a REST API over a gitsheets repository that gets every commit to the repository's remote.

This package is what extensions import: the names in ``__all__``, and nothing else of Ferry's. The code is in
``app/`` and ``worker/`` of the checkout, and installs as ``ferry.app`` and ``ferry.worker``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferry.commits import Change, Commit, Divergence, Failed, Landing
    from ferry.extension import Extension
    from ferry.writes import Caller, Reader, Record, Refused, Transaction, Write

_MODULES = {
    **dict.fromkeys(("Change", "Commit", "Divergence", "Failed", "Landing"), "ferry.commits"),
    "Extension": "ferry.extension",
    **dict.fromkeys(("Caller", "Reader", "Record", "Refused", "Transaction", "Write"), "ferry.writes"),
}
__all__ = [
    "Caller",
    "Change",
    "Commit",
    "Divergence",
    "Extension",
    "Failed",
    "Landing",
    "Reader",
    "Record",
    "Refused",
    "Transaction",
    "Write",
    "__version__",
]

__version__: str


def __getattr__(name: str) -> Any:
    """
    Find a public name the first time that it is asked for (PEP 562).

    Every process that runs a function apart imports this package, and few ask.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        found: Any = _version()
    else:
        found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gitsheets-ferry")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
