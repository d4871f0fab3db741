"""
Where the API's figures are kept, and that nothing of them stays.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.parts import clean_environment

ROOT = Path(__file__).resolve().parents[2]


def test_figures_of_processes_that_have_ended_are_removed(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left_over = tmp_path / f"ferry-metrics-{os.getuid()}-{ended.pid}-123"
    alive = tmp_path / f"ferry-metrics-{os.getuid()}-{os.getpid()}-123"
    for directory in (left_over, alive):
        directory.mkdir()
        (directory / "counter_1.db").touch()

    script = "from app import metering; metering.prepare()"
    env = {**clean_environment(), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, check=True)

    assert not left_over.exists()
    assert (alive / "counter_1.db").exists()


def test_every_metric_is_made_with_the_app_before_two_threads_can_make_it_twice(env: dict[str, str]):
    script = (
        "import os; from app import create_app, metering; create_app(dict(os.environ)); "
        "print([make.cache_info().currsize for make in (metering._requests, metering._request_seconds, "
        "metering._transact_seconds, metering._enqueue_failures)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**clean_environment(), **env},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip().endswith("[1, 1, 1, 1]")
