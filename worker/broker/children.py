"""
Pool processes that share their parent's memory.

A pool process is a fork of the worker's main process. It shares each page of memory until one of the two
writes to it, and most of what writes without need is avoided here: it took half of a worker's memory.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - each pool process would import it for its first connection
import gc
from typing import Any

import celery.platforms
from celery.signals import worker_before_create_process

from ferry.worker.process.groups import end_with_parent

_OFTEN = 700, 10, 1  # Python's thresholds, but for the last: how many smaller collections make a full one due


def share_memory() -> None:
    """
    Let every pool process that is started from now on share the memory of this process.
    """
    # billiard's own asks cffi, which parses C in each pool process for that: 8 MiB and a tenth of a second.
    celery.platforms._set_pdeathsig = end_with_parent
    worker_before_create_process.connect(_freeze)


def _freeze(**_: Any) -> None:
    """
    Exclude the present objects from later garbage collections, which write to every object.

    The few others are collected often. By default Python waits until there are a quarter more objects than at
    the last full collection. That is thousands here, and each failed attempt leaves a cycle of frames.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # counts no frozen object
    gc.set_threshold(*_OFTEN)
