"""
A volume that belongs to another user: every command says so in one line, with the remedy.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys

import pytest

from ferry.worker.bootstrap import build
from tests.parts import clean_environment

_COMMANDS = (
    "init",
    "doctor",
    "push status",
    "push now",
    "push pause",
    "commits --pending",
    "reconcile --dry-run",
    "page --test",
)
# One process for all, because its start takes longer than all that it does.
_RUN_ALL = """
import contextlib, io, json, os, sys
from pathlib import Path
from ferry.app.cli.main import main

def say(command):
    try:
        main(command.split())
    except SystemExit as exc:
        return exc.code

is_root = os.geteuid() == 0
for part in map(Path, sys.argv[2:]):
    before = part.stat()
    part.chmod((0o700 if part.is_dir() else 0o600) if is_root else 0)
    if is_root:
        os.chown(part, 65534, 65534)
    print(json.dumps([say(command) for command in json.loads(sys.argv[1])]))
    part.chmod(before.st_mode)
    if is_root:
        os.chown(part, before.st_uid, before.st_gid)
"""
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2
_OWNER = "nobody (user 65534)" if os.geteuid() == 0 else f"(user {os.geteuid()})"


def _as_permissions_say():
    """
    Take from root, for the program that is started now, the right to pass over permissions.
    """
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.fixture
def run_all(env):
    """
    Run each command once for each path, with that path another's; returns what each said, by the path.
    """

    def run(*paths):
        done = subprocess.run(
            [sys.executable, "-c", _RUN_ALL, json.dumps(_COMMANDS), *map(str, paths)],
            env={**clean_environment(), **env},
            capture_output=True,
            text=True,
            timeout=100,
            preexec_fn=_as_permissions_say,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        return dict(zip(paths, said, strict=True))

    return run


def test_one_line_names_path_owner_and_remedy(data, env, run_all):
    """
    Nothing is said of what is above the repository, least of all to give that to Ferry.
    """
    build(env)
    parts = [data.path / part for part in ("", "objects", "refs", "config", "HEAD", "ferry", "ferry/remotes")]
    above = data.path.parent
    found = run_all(*parts, above)
    command = f"chown -R 0:0 {data.path}" if os.geteuid() == 0 else f"chmod -R u+rwX {data.path}"
    remedies = dict.fromkeys(parts, f"correct it with: {command}")
    remedies[above] = f"allow access with: chmod o+x {above}"
    for culprit, remedy in remedies.items():
        for line in found[culprit]:
            assert line.startswith(f"ferry: {culprit} belongs to "), line
            assert _OWNER in line
            assert line.endswith(remedy)


def test_a_place_where_no_repository_can_be_made_is_named(data, env, run_all):
    place = data.path.parent / "of another"
    place.mkdir()
    if os.geteuid() == 0:
        os.chown(place, 65534, 65534)
    place.chmod(0o555)
    env["CFP_DATA_REPO_PATH"] = f"{place}/data.git"
    [init, *others] = run_all(data.path)[data.path]
    ids = f"-o {os.geteuid()} -g {os.getegid()}"
    assert init.endswith(f"make the directory with: install -d {ids} {place}/data.git")
    assert all("does not exist" in line for line in others)
