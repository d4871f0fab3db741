"""
`make release`: the version everywhere, and the same files to the byte each time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import yaml

from tests.deployment.helm import ROOT
from tests.meta.test_repository_rules import _files

pytestmark = pytest.mark.timeout(600)  # two builds, before the first test


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """
    A copy of the tree in which a release was made twice, what the first one made, and the names of its files.
    """
    tree = tmp_path_factory.mktemp("release") / "tree"
    names = [path.relative_to(ROOT) for path in _files()]
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    first = tree.with_name("first")
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "tests.deployment.release", "9.8.7"],
            cwd=tree,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1790000000"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if not first.exists():
            (tree / "dist").rename(first)
    return tree, first, names


def test_it_is_the_same_twice_to_the_byte(released):
    tree, first, _ = released
    again = {path.name: path.read_bytes() for path in (tree / "dist").iterdir()}
    assert {path.name: path.read_bytes() for path in first.iterdir()} == again
    sums = (first / "SHA256SUMS").read_text()
    assert sorted(re.findall(r"  (.*)$", sums, re.MULTILINE)) == sorted(set(again) - {"SHA256SUMS"})


def test_the_version_is_the_same_everywhere(released):
    tree, dist, _ = released
    chart = yaml.safe_load((tree / "helm/ferry/Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == "9.8.7"
    [wheel] = dist.glob("*-9.8.7-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as packed:
        [metadata] = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        assert "\nVersion: 9.8.7\n" in packed.read(metadata).decode()
        assert {name.partition("/")[0] for name in packed.namelist()} == {
            "ferry",
            "gitsheets_ferry-9.8.7.dist-info",
        }
        modules = (path for place in ("ferry", "ferry/extensions") for path in (ROOT / place).glob("*.py"))
        public = {"ferry/py.typed", *(str(path.relative_to(ROOT)) for path in modules)}
        assert {*public, "ferry/app/factory.py", "ferry/worker/push.py"} <= set(packed.namelist())
    changelog = (tree / "CHANGELOG.md").read_text()
    assert changelog.count("\n## 9.8.7 (2026-09-21)\n") == 1


def test_the_sdist_has_all_of_the_tree(released):
    """
    So that tests, benchmarks and documentation can be built from it.
    """
    _, dist, names = released
    with tarfile.open(next(dist.glob("*.tar.gz"))) as packed:
        held = {name.partition("/")[2] for name in packed.getnames()}
    fragments = {str(name) for name in names if name.parts[0] == "changelog.d" and name.name != "README.md"}
    assert {str(name) for name in names} - fragments - held == set()


def test_chart_and_constraints_are_what_helm_and_pip_take(released):
    _, dist, _ = released
    with tarfile.open(dist / "ferry-chart-9.8.7.tgz") as packed:
        held = packed.getnames()
    assert "ferry/Chart.yaml" in held
    assert not [name for name in held if "/ci/" in name]
    lines = (dist / "constraints.txt").read_text().splitlines()
    assert len(lines) > 20
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+( ; .+)?", line) for line in lines), lines
