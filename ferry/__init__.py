"""
Ferry: a REST API over a gitsheets repository that gets every commit to the repository's remote.

The code is in ``app/`` and ``worker/`` of the checkout, and installs as ``ferry.app`` and ``ferry.worker``.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("gitsheets-ferry")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"
