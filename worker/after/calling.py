"""
Calling extensions' functions in a process of their own, and what came of it.

The kernel ends that process at the limit of a function, and this one ends it soon after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ferry.extension import EVENTS
from ferry.worker.after import child
from ferry.worker.after.hooks import Hook
from ferry.worker.errors import SettingsError
from ferry.worker.hosting.process import START_S, report_of
from ferry.worker.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    What came of a process that called functions.

    Attributes:
        done: How many calls have returned, and are in the position.
        failed: Why the last one has not; None: all have.
        wait_s: The least seconds until they are called again, as the function has said.
        stops: Whether it has said that no function of the extension is called again by itself.
        at: The name of what it was called for; None where it was not called.
        said: What the functions printed, redacted; its two ends where it is long.
        duration_s: How long the process ran, in seconds.
    """

    done: int = 0
    failed: str | None = None
    wait_s: float = 0.0
    stops: bool = False
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


def call_again(hook: Hook, what: str, settings: Settings, env: Mapping[str, str]) -> Outcome:
    """
    Call the functions of *hook* once more for *what*, as ``Work.past`` has it; the position stays.
    """
    return _outcome(["again", hook.extension, hook.event, what], settings, env)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """
    What the extensions have registered for this side of Ferry.

    Attributes:
        hooks: Their functions for commits, pushes and divergences.
        has_rules: Whether one of them has a rule for writes, which a merge asks, too.
    """

    hooks: tuple[Hook, ...] = ()
    has_rules: bool = False


def registered_in(settings: Settings, env: Mapping[str, str]) -> Registered:
    """
    Return what the extensions in *settings* have registered, which this process does not import.

    Raises:
        SettingsError: One of them cannot be used.
    """
    if not settings.extensions:
        return Registered()
    report = report_of(child.__name__, ["list"], env, timeout_s=START_S)
    if (hooks := report.first("hooks")) is not None:
        found = tuple(Hook(name, event) for name, event in hooks if event in EVENTS)
        return Registered(hooks=found, has_rules=bool(report.first("rules")))
    if failed := report.first("failed"):
        raise SettingsError(f"CFP_API_EXTENSIONS: {failed}")
    raise SettingsError(
        f"CFP_API_EXTENSIONS: the modules cannot be imported: {report.ended(START_S)}{report.last_printed()}"
    )


def _outcome(arguments: list[str], settings: Settings, env: Mapping[str, str]) -> Outcome:
    limit_s = settings.api_hook_timeout_s
    try:
        report = report_of(child.__name__, arguments, env, timeout_s=START_S + child.TURN_S + limit_s)
    except OSError as exc:
        return Outcome(failed=f"no process could be started: {exc}")
    names, done, failed = report.all("begun"), len(report.all("done")), report.first("failed")
    if failed is None and not report.all("ended"):
        failed = report.ended(limit_s)
    return Outcome(
        done=done,
        failed=failed,
        wait_s=report.first("wait_s") or 0.0,
        stops=bool(report.first("stops")),
        at=names[-1] if len(names) > done else None,
        said=report.printed,
        duration_s=report.duration_s,
    )
