"""
Starting the process that calls extensions' functions, and reading what came of it.

An extension is code of others: it may hang, print without end, end its process or fork. So it is called in a
process of its own, which the kernel ends at the limit of a function, and this one ends soon after.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from ferry.extension import EVENTS
from ferry.worker.after import child
from ferry.worker.after.hooks import Hook
from ferry.worker.errors import SettingsError
from ferry.worker.process import running
from ferry.worker.settings import Settings

_START_S = 60.0  # a busy machine takes its time


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    What came of a process that called functions.

    Attributes:
        done: How many calls have returned, and are in the position.
        failed: Why the last one has not; None: all have.
        at: The name of what it was called for; None where it was not called.
        said: What the functions printed, redacted; its two ends where it is long.
        duration_s: How long the process ran, in seconds.
    """

    done: int = 0
    failed: str | None = None
    at: str | None = None
    said: str = ""
    duration_s: float = 0.0


def call(hook: Hook, settings: Settings, env: Mapping[str, str]) -> Outcome:
    """
    Call the functions of *hook* for what waits, for one turn at most.

    Args:
        env: Environment of the repository.
    """
    return _outcome(["call", hook.extension, hook.event], settings, env)


def call_again(extension: str, commit: str, settings: Settings, env: Mapping[str, str]) -> Outcome:
    """
    Call the functions of *extension* once more for *commit*; the position stays.
    """
    return _outcome(["again", extension, commit], settings, env)


def hooks_in(settings: Settings, env: Mapping[str, str]) -> tuple[Hook, ...]:
    """
    Return the hooks of the extensions in *settings*, which this process does not import.

    Raises:
        SettingsError: One of them cannot be used.
    """
    if not settings.extensions:
        return ()
    told, finished = _run(["list"], env, timeout_s=_START_S)
    for each in told:
        if "hooks" in each:
            return tuple(Hook(name, event) for name, event in each["hooks"] if event in EVENTS)
        if "failed" in each:
            raise SettingsError(f"CFP_API_EXTENSIONS: {each['failed']}")
    raise SettingsError(
        f"CFP_API_EXTENSIONS: the modules cannot be imported: {_ended(finished, _START_S)}{_last(finished)}"
    )


def _outcome(arguments: list[str], settings: Settings, env: Mapping[str, str]) -> Outcome:
    limit_s = settings.api_hook_timeout_s
    try:
        told, finished = _run(arguments, env, timeout_s=_START_S + child.TURN_S + limit_s)
    except OSError as exc:
        return Outcome(failed=f"no process could be started: {exc}")
    names = [each["begun"] for each in told if "begun" in each]
    done = sum("done" in each for each in told)
    failed = next((each["failed"] for each in told if "failed" in each), None)
    if failed is None and not any("ended" in each for each in told):
        failed = _ended(finished, limit_s)
    return Outcome(
        done=done,
        failed=failed,
        at=names[-1] if len(names) > done else None,
        said=finished.stderr,
        duration_s=finished.duration_s,
    )


def _run(
    arguments: list[str], env: Mapping[str, str], *, timeout_s: float
) -> tuple[list[dict[str, Any]], running.Finished]:
    with open(os.memfd_create("report"), "w+b") as report:
        finished = running.run(
            [sys.executable, "-P", "-m", child.__name__, str(os.getpid()), *arguments],
            timeout_s=timeout_s,
            env={**os.environ, **env},
            directory=Path.cwd(),
            stdout=cast(BinaryIO, report),
        )
        report.seek(0)
        return list(_lines(report)), finished


def _lines(report: BinaryIO | BytesIO) -> Iterator[dict[str, Any]]:
    for line in report:
        try:
            told = json.loads(line)
        except ValueError:
            continue  # it was ended while it wrote this
        if isinstance(told, dict):
            yield told


def _ended(finished: running.Finished, limit_s: float) -> str:
    if finished.exit_status in (None, -signal.SIGALRM):
        return f"took longer than {limit_s:g} s"
    return f"ended its process with status {finished.exit_status}"


def _last(finished: running.Finished) -> str:
    lines = finished.stderr.strip().splitlines()
    return f": {lines[-1][:300]}" if lines else ""
