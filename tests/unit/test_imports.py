"""
What Ferry's processes do not import.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_BROKER = """
import importlib.util, sys
import ferry.worker.broker.connection
for name in ("redis.asyncio.client", "opentelemetry"):
    assert name not in sys.modules, name
# An extension can use them.
import redis
assert redis.asyncio.Redis.__module__ == "redis.asyncio.client"
from redis.asyncio import Redis
assert importlib.util.find_spec("opentelemetry")
"""

_MAIN = """
import sys
from gunicorn.util import load_class
from ferry.app import production
load_class(production.worker_class)
for name in ("flask", "celery", "ferry.app.factory"):
    assert name not in sys.modules, name
"""

_COMMAND = """
import sys
from ferry.app.cli.main import main
main(["push", "status"], standalone_mode=False)
for name in ("flask", "celery", "kombu", "redis", "git", "importlib.metadata"):
    assert name not in sys.modules, name
"""


@pytest.mark.parametrize(
    "script",
    [_BROKER, _MAIN, _COMMAND],
    ids=["what sends messages", "gunicorn's main process of one API process", "a command that sends nothing"],
)
def test_what_is_not_used_is_not_imported(script, env):
    env = {**os.environ, **env, "PYTHONPATH": ""}  # tests/lean hides opentelemetry
    # Not forked from the nursery, which has imported all of it.
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
