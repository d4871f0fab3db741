"""
What goes on beside a deployment: readers, people's own git commands, others who push, a clock that jumps.

``tests.storm`` mixes these with its kills.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import struct
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

from tests.parts import Bare

_GIT_TIMEOUT_S = 120.0
_REQUEST_TIMEOUT_S = 10.0
_JUMPING = Path(__file__).with_name("jumping_clock.c")
# Programs that read without a pause take all processors that there are, whatever a deployment does.
# These are people, who look at a page for a moment.
_READ_EVERY_S = 0.5
_STEPS_S = (-172_800, -3600, -60, 60, 3600, 172_800)
_ADDRESSES = (
    "/api/sheets/places/records/w0-0/1/history",
    "/api/sheets/places/records/w1-0/2/history",
    "/api/commits?limit=50",
    "/api/sheets/places/records?limit=20",
    "/api/_internal/push",
)
FOREIGN_COMMANDS = (
    ("gc", "--quiet", "--prune=now"),
    ("prune", "--expire=now"),
    ("pack-refs", "--all"),
    ("repack", "-a", "-d", "--quiet"),
    ("fetch", "--quiet", "origin"),
    ("fsck", "--connectivity-only", "--no-progress"),
)


class Clock:
    """
    The wall clock of the processes that are started with ``env``, where a C compiler is at hand.

    Args:
        directory: Where the offset is, and the library that adds it.
    """

    def __init__(self, directory: Path) -> None:
        self._offset = directory / "clock-offset"
        self._offset.write_bytes(struct.pack("=q", 0))
        library = directory / "jumping_clock.so"
        compiler = shutil.which("cc")
        self.env: dict[str, str] = {}
        if compiler:
            subprocess.run(
                [compiler, "-shared", "-fPIC", "-o", str(library), str(_JUMPING)], check=True, timeout=60
            )
            self.env = {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(self._offset)}

    @property
    def can_jump(self) -> bool:
        return bool(self.env)

    def jump(self, order: random.Random) -> None:
        """
        Put it a minute, an hour or two days beside the real time.
        """
        with self._offset.open("r+b") as offset:  # in place: the processes have it mapped
            offset.write(struct.pack("=q", order.choice(_STEPS_S)))


class Readers:
    """
    People who read the history, the log and the status all the while.
    """

    def __init__(self, url: str, *, count: int = 3) -> None:
        self._url = url
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(number,)) for number in range(count)]
        self.answers = 0

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(2 * _REQUEST_TIMEOUT_S)

    def _read(self, number: int) -> None:
        while not self._stopped.wait(_READ_EVERY_S):
            number += 1
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                address = self._url + _ADDRESSES[number % len(_ADDRESSES)]
                with urllib.request.urlopen(address, timeout=_REQUEST_TIMEOUT_S) as response:
                    response.read()
                self.answers += 1


def run_foreign_git(repository: Bare, order: random.Random) -> str:
    """
    Run a command in *repository* as its owner might at any moment; returns what was run.
    """
    command = order.choice(FOREIGN_COMMANDS)
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            ["git", "-C", str(repository.path), *command],
            check=False,
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
        )
    return " ".join(command)


def push_as_a_stranger(remote: Bare, number: int) -> bool:
    """
    Put a commit of somebody else's on top of the remote's branch; returns whether nobody came in between.
    """
    try:
        tip = remote.git("rev-parse", "main")
        commit = remote.git("commit-tree", "-p", tip, "-m", f"A stranger's {number}", f"{tip}^{{tree}}")
        remote.git("update-ref", "refs/heads/main", commit, tip)
    except subprocess.CalledProcessError:
        return False
    return True
