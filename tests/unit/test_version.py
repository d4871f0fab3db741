"""
Version and revision, wherever Ferry runs.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

import ferry
from ferry.app import version as module
from ferry.app.cli.main import main
from ferry.app.version import this_build

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("FERRY_REVISION", raising=False)
    this_build.cache_clear()
    yield
    this_build.cache_clear()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    A git checkout with a commit, in the place of the one that Ferry runs from.
    """
    path = tmp_path / "checkout"
    (path / "ferry").mkdir(parents=True)
    (path / "ferry" / "app").symlink_to("../app")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "--quiet"], [*who, "commit", "--quiet", "--allow-empty", "--message", "one"]):
        subprocess.run(["git", "-C", str(path), *arguments], check=True, timeout=30)
    monkeypatch.setattr(module, "_CHECKOUT", path)
    return path


def test_the_version_is_the_distributions():
    assert ferry.__version__ == this_build().version == version("gitsheets-ferry")


def test_a_checkout_names_its_commit(checkout: Path):
    head = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    shown = subprocess.run(head, check=True, timeout=30, capture_output=True, text=True).stdout.strip()

    assert this_build().revision == shown


def test_what_the_image_was_built_from_comes_first(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FERRY_REVISION", "c0ffee")

    assert this_build().revision == "c0ffee"


def test_a_build_without_a_revision_asks_the_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FERRY_REVISION", "unknown")

    assert len(this_build().revision) == 40


def test_an_installation_inside_another_checkout_does_not_name_its_commit(checkout: Path):
    (checkout / "ferry" / "app").unlink()
    (checkout / "ferry" / "app").mkdir()

    assert this_build().revision == "unknown"


@pytest.mark.parametrize("fault", ["no repository", "a damaged one", "no git", "a git that hangs"])
def test_finding_the_revision_never_fails(checkout: Path, monkeypatch, tmp_path: Path, fault: str):
    if fault == "no repository":
        shutil.rmtree(checkout / ".git")
    elif fault == "a damaged one":
        (checkout / ".git" / "HEAD").write_text("nonsense")
    else:
        programs = tmp_path / "bin"
        programs.mkdir()
        if fault == "a git that hangs":
            (programs / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
            (programs / "git").chmod(0o755)
            monkeypatch.setattr(module, "_TIMEOUT_S", 0.2)
        monkeypatch.setenv("PATH", str(programs))

    assert this_build().revision == "unknown"


def test_the_command_prints_both(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FERRY_REVISION", "c0ffee")

    done = CliRunner().invoke(main, ["--version"])

    assert (done.exit_code, done.output) == (0, f"ferry {ferry.__version__} (revision c0ffee)\n")
