"""
What an API process puts in front of Flask once it has built the app.

``worker`` imports this module late. gunicorn's main process imports ``worker``, and does without the app.
"""

from __future__ import annotations

import contextlib
import resource
import threading

import gitsheets
from flask import Flask

from ferry.app.server.bridge import Bridge
from ferry.app.server.protocol import CONNECTIONS, MAX_CONNECTIONS
from ferry.app.services import EXTENSION, Services
from ferry.worker.errors import RepositoryError

_OTHER_FILES = 512  # for git, the broker and the logs


def in_front_of(app: Flask, *, threads: int) -> Bridge:
    """
    Return a bridge to *app*, and get this process ready for many connections and large lists.

    Args:
        threads: How many requests Flask works on at once.
    """
    built: Services = app.extensions[EXTENSION]
    threading.Thread(target=_warm, args=(built,), name="warming", daemon=True).start()
    CONNECTIONS.most = max(
        1, min(MAX_CONNECTIONS, _allow_files(MAX_CONNECTIONS + _OTHER_FILES) - _OTHER_FILES)
    )
    return Bridge(app, threads=threads)


def _warm(built: Services) -> None:
    """
    Read the sheets, so that the first list of a large one is as fast as the next.
    """
    # Requests report what is wrong with the repository. RuntimeError: the process ends, and starts no thread.
    with contextlib.suppress(RepositoryError, gitsheets.GitsheetsError, RuntimeError):
        built.listing.warm(built.store.snapshot())


def _allow_files(wanted: int) -> int:
    """
    Raise this process's limit of open files to *wanted*, as far as the system allows; returns the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
        return soft
    return wanted
