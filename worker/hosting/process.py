"""
Starting a process that calls extensions' code, and reading what it says.

An extension is code of others: it may hang, print without end, end its process or fork. So the process is
ended at a limit with all that it has started, and what it says is one JSON value a line, of which the last
may be cut off.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ferry.worker.process import groups, running

START_S = 60.0  # a busy machine takes its time, and nothing else waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """
    What a process has said, and how it ended.

    Attributes:
        lines: What it said, in order.
        printed: What the extensions printed, redacted; its two ends where it is long.
        exit_status: Its exit status; None if it was ended at its limit.
        duration_s: How long it ran, in seconds.
    """

    lines: tuple[Mapping[str, Any], ...]
    printed: str
    exit_status: int | None
    duration_s: float

    def first(self, name: str) -> Any:
        """
        Return the first value that it said under *name*, or None.
        """
        return next((line[name] for line in self.lines if name in line), None)

    def all(self, name: str) -> list[Any]:
        """
        Return each value that it said under *name*.
        """
        return [line[name] for line in self.lines if name in line]

    def ended(self, limit_s: float) -> str:
        """
        Say how it ended before it was done.

        Args:
            limit_s: The limit that it had.
        """
        if self.exit_status in (None, -signal.SIGALRM):
            return f"took longer than {limit_s:g} s"
        return f"ended its process with status {self.exit_status}"

    def last_printed(self) -> str:
        """
        Return the last line that was printed, after a colon; "" if there is none.
        """
        lines = self.printed.strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""


def report_of(module: str, arguments: Sequence[str], env: Mapping[str, str], *, timeout_s: float) -> Report:
    """
    Run *module*, a user of ``inside``, with *arguments* in the current directory, and return its report.

    Args:
        env: Environment of the repository.

    Raises:
        OSError: No process could be started.
    """
    group: list[int] = []
    with open(os.memfd_create("report"), "w+b") as said:
        finished = running.run(
            [sys.executable, "-P", "-m", module, str(os.getpid()), *arguments],
            timeout_s=timeout_s,
            env={**os.environ, **env},
            directory=Path.cwd(),
            stdout=cast(BinaryIO, said),
            started=group.append,
        )
        groups.end_group(*group)  # the kernel has ended the process alone, or it has ended itself
        said.seek(0)
        return Report(
            lines=tuple(_lines(cast(BinaryIO, said))),
            printed=finished.stderr,
            exit_status=finished.exit_status,
            duration_s=finished.duration_s,
        )


def _lines(report: BinaryIO) -> Iterator[dict[str, Any]]:
    for line in report:
        try:
            told = json.loads(line)
        except ValueError:
            continue  # it was ended while it wrote this
        if isinstance(told, dict):
            yield told
