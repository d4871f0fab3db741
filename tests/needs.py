"""
Programs that a test needs and PyPI does not carry: without one it is skipped with a reason and fails in CI.

``.ci/run`` installs all of them.
"""

from __future__ import annotations

import os
import shutil

import pytest

# Each with the Debian package that brings it. sshd lives where an ordinary user's PATH does not look.
PACKAGES = {
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "curl": "curl",
    "npm": "npm",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
}
_PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def lacking(command: str) -> str | None:
    """
    Return why a test that needs *command* cannot run here, or None where it can, or is to fail.
    """
    if shutil.which(command, path=_PLACES) or os.environ.get("CI"):
        return None
    return f"needs {command}, which PyPI does not carry: apt install {PACKAGES[command]}"


def need(command: str) -> None:
    """
    Skip the running test where *command* is missing.
    """
    if reason := lacking(command):
        pytest.skip(reason)
