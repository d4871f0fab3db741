"""
What a pool process keeps in memory.
"""

from __future__ import annotations

import os
import sys

from billiard.einfo import ExceptionInfo

from ferry.worker.files.places import file_in
from ferry.worker.tasks import PushTask
from tests import nursery

_COLLECTED = """
import gc, weakref
from celery.signals import worker_before_create_process
from ferry.worker.broker.children import share_memory

class Cycle:
    def __init__(self):
        self.itself = self

imported = [[] for _ in range(100_000)]
share_memory()
worker_before_create_process.send(sender=None)
old = Cycle()
gc.collect()  # what survives is looked at only by a full collection
gone = weakref.ref(old)
del old
made = [[] for _ in range(30_000)]
assert gone() is None
"""


def test_what_failed_attempts_leave_is_collected_soon():
    done = nursery.run([sys.executable, "-c", _COLLECTED], env=os.environ, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_retry_keeps_the_text_of_its_traceback_alone():
    try:
        raise TimeoutError("the remote did not answer")
    except TimeoutError as exc:
        einfo = ExceptionInfo()
        PushTask().on_retry(exc, "an id", (), {}, einfo)
    assert einfo.tb is None
    assert "the remote did not answer" in einfo.traceback


def test_the_path_of_a_file_that_is_used_again_is_made_once(tmp_path):
    assert file_in(tmp_path, "origin.json") is file_in(tmp_path, "origin.json")
