"""
`make bench`, as far as a run of the tests can go.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_measurement_for_machines():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "bytes", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sent, kept = json.loads(done.stdout)["figures"]
    assert sent["value"] > 200  # a commit, two trees and a record
    assert sent["ratio"] == pytest.approx(1, abs=0.1)
    assert kept["value"] >= kept["floor"] > 0
