"""
``ferry`` is the one import name: neither a user's own modules nor the checkout's short names clash with it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.parts import clean_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(data):
    """
    Run a command in a directory, over a data repository; returns what it printed.
    """

    def run(where: Path, *command: str) -> str:
        env = {"CFP_DATA_REPO_PATH": str(data.path), "CFP_REDIS_URL": "redis://127.0.0.1:1/0"}
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=where,
            env={**clean_environment(), **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_an_app_and_a_worker_of_the_users_own_clash_with_nothing(run, tmp_path):
    """
    Flask's tutorial makes an ``app.py``, Celery's a ``worker.py``.
    """
    for name in ("app", "worker"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is the user\\'s own')\n")

    assert "ferry" in run(tmp_path, "celery", "-A", "ferry.worker", "report")
    run(tmp_path, "gunicorn", "--check-config", "ferry.app:create_app()")


def test_the_short_names_work_in_the_checkout(run):
    assert "ferry" in run(ROOT, "celery", "-A", "worker", "report")
    run(ROOT, "gunicorn", "--check-config", "app:create_app()")
