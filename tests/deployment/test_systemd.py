"""
The systemd units, as far as they can be checked without becoming services.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ferry.worker.settings import Settings
from tests.deployment.helm import ROOT

UNITS = {path.stem.removeprefix("ferry-"): path for path in (ROOT / "systemd").glob("ferry-*.service")}


def directives(path: Path) -> dict[str, list[str]]:
    """
    Return the values of each directive; a unit may name one several times.
    """
    found: dict[str, list[str]] = {}
    for line in path.read_text().replace("\\\n", " ").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_each_role_has_a_unit_that_starts_what_the_image_starts():
    entrypoint = re.sub(r"\s*\\\n\s*", " ", (ROOT / "docker" / "entrypoint").read_text())
    assert set(UNITS) == {"api", "worker", "beat", "flower"}
    for role, path in UNITS.items():
        [start] = directives(path)["ExecStart"]
        command = re.sub(r" --(bind|workers|address|port)[ =]\S+", "", " ".join(start.split()))
        command = command.removeprefix("/opt/ferry/bin/python -m ferry.worker.observe.streams ")
        [there] = re.findall(rf"^{role}\)\n(?:    .*\n)*?    exec \$in_json (.*)", entrypoint, re.MULTILINE)
        there = re.sub(r' --(bind|workers|address|port)[ =]\S+| "\$@"', "", there)
        assert command == there


def test_each_role_has_the_settings_that_it_works_with():
    files = {role: directives(path)["EnvironmentFile"] for role, path in UNITS.items()}
    assert {role: [Path(file).stem for file in those] for role, those in files.items()} == {
        "api": ["ferry", "remotes", "api"],
        "worker": ["ferry", "remotes"],
        "beat": ["ferry"],
        "flower": ["ferry", "flower"],
    }


def test_the_worker_is_given_longer_than_a_push_may_take():
    env = {"CFP_DATA_REPO_PATH": "/srv/ferry/data.git", "CFP_REDIS_URL": "redis://x/0"}
    [stop] = directives(UNITS["worker"])["TimeoutStopSec"]
    assert float(stop) > Settings.from_env(env).push_timeout_s


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_them(tmp_path):
    for path in (ROOT / "systemd").iterdir():
        # Only its own machine has Ferry in that place.
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/ferry/bin/python", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / path.name for path in UNITS.values())],
        capture_output=True,
        text=True,
        timeout=60,
    )
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "ferry" in line]
    assert complaints == [], done.stderr
