"""
Runs what the tutorial and the how-tos tell people to type.

A ``sh`` block below ``<!-- run -->`` is run as it stands, the blocks of a page one after the other, in one
directory and one shell. ``<!-- run: until "WORD" -->`` repeats it until it prints that;
``<!-- run: background, until "WORD" -->`` starts it and goes on when it has. Ports are exchanged for free
ones, so that nobody's server is in the way.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.dev import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs" / "tutorial").glob("*.md"), *(ROOT / "docs" / "how-to").glob("*.md")])

_BLOCK = re.compile(r"^( *)<!-- run(?:: (?P<how>[^>]*?))? -->\n\1```sh\n(?P<commands>.*?)^\1```", re.M | re.S)
_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Block:
    """
    What a page tells to type in one go.
    """

    commands: str
    until: str | None
    in_background: bool


def blocks(page: Path) -> Iterator[Block]:
    """
    Yield the blocks of *page* that are to be run.
    """
    for found in _BLOCK.finditer(page.read_text()):
        how = found["how"] or ""
        until = re.search(r'until "([^"]+)"', how)
        yield Block(textwrap.dedent(found["commands"]), until[1] if until else None, "background" in how)


class Reader:
    """
    Somebody who types what a page says.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = {"8000": str(free_port()), "5555": str(free_port())}
        self._exports = ""
        self._background: list[subprocess.Popen[bytes]] = []
        (directory / ".venv").symlink_to(ROOT / ".venv" if (ROOT / ".venv").exists() else sys.prefix)
        self._state = directory / "state"

    def type(self, block: Block) -> None:
        """
        Do what *block* says.

        Raises:
            AssertionError: It failed, or did not print what it should.
        """
        commands = block.commands
        for port, free in self._ports.items():
            commands = re.sub(rf"\b{port}\b", free, commands)
        if block.in_background:
            self._start(commands, block.until or "")
            return
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            said = self._run(commands)
            if block.until is None or block.until in said:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{block.until!r} did not show:\n{commands}\n{said}")
            time.sleep(0.2)

    def close(self) -> None:
        """
        End what runs in the background.
        """
        for process in self._background:
            process.send_signal(signal.SIGINT)
        for process in self._background:
            process.wait(60)

    def _run(self, commands: str) -> str:
        # The next block begins where this one ended, with what it exported.
        script = (
            f"[ -e {self._state} ] && . {self._state}\n{self._exports}\nset -euo pipefail\n{commands}\n"
            f'{{ echo "cd $PWD"; echo "export PATH=$PATH"; }} > {self._state}\n'
        )
        done = subprocess.run(
            ["bash", "-c", script], cwd=self._directory, env=_environment(), capture_output=True, text=True,
            timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise AssertionError(f"status {done.returncode}:\n{commands}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def _start(self, commands: str, until: str) -> None:
        log = self._directory / "background.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f". {self._state}\nexec {commands}"], cwd=self._directory, env=_environment(),
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._background.append(process)
        deadline = time.monotonic() + _TIMEOUT_S
        while until not in log.read_text("utf-8", "replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{commands}\n{log.read_text('utf-8', 'replace')[-3000:]}")
            time.sleep(0.1)
        found = re.search(r"^For ferry's commands elsewhere: (export .*)$", log.read_text(), re.M)
        self._exports = found[1] if found else ""


def _environment() -> dict[str, str]:
    ours = ("CFP_", "SENTRY_", "GIT_", "PROMETHEUS_", "OTEL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def check(page: Path) -> int:
    """
    Type all that *page* says; returns how many blocks that were.
    """
    typed = list(blocks(page))
    if not typed:
        return 0
    with tempfile.TemporaryDirectory(prefix="ferry-docs-") as directory:
        reader = Reader(Path(directory))
        try:
            for block in typed:
                reader.type(block)
        finally:
            reader.close()
    return len(typed)


def main() -> None:
    """
    Check every page, and say what was typed.
    """
    for page in PAGES:
        count = check(page)
        sys.stdout.write(f"{page.relative_to(ROOT)}: {count} blocks\n")


if __name__ == "__main__":
    main()
