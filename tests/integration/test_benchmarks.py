"""
`make bench`, as far as a run of the tests can go.
"""

from __future__ import annotations

import json
import os
import sys

import pytest

from tests import nursery


def test_a_measurement_for_machines():
    command = [sys.executable, "-m", "benchmarks", "bytes", "--json"]
    done = nursery.run(command, env=os.environ, timeout=240)
    assert done.returncode == 0, done.stderr
    sent, kept = json.loads(done.stdout)["figures"]
    assert sent["value"] > 200  # a commit, two trees and a record
    assert sent["ratio"] == pytest.approx(1, abs=0.1)
    assert kept["value"] >= kept["floor"] > 0
