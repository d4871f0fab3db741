"""
What ``ferry dev`` prints while it runs: a line for each commit, each push and each trouble.

The processes write everything to one log file. The console reads what is new in it, and on the branch.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ferry.worker.errors import RepositoryError
from ferry.worker.git.repository import Repository
from ferry.worker.observe.printable import in_line

_ONCE_PER_S = 60.0  # at the start, each process gives the same warnings
_COMMITS_SHOWN = 20
_END_LINES = 40
_SENTENCES = {
    "push.done": "{commit:.7} is on {remote}, {lag_ms} ms after the commit",
    "push.recovered": "{remote} takes pushes again, after {episode_seconds} s of {reason}",
    "push.failed": "{remote}: attempt {attempt} failed, {reason}: {error}",
    "push.retry_scheduled": "{remote}: the next attempt is in {next_delay_ms} ms",
    "push.blocked": "{remote} is blocked, {reason}: {error}. {hint}",
    "push.disabled": "{hint}",
    "dev.restarted": "the {part} ended with status {exit_status}, and is started again",
}
# A push's lag is that of its oldest commit.
_OF_SEVERAL = "{commits} commits up to {commit:.7} are on {remote}, {lag_ms} ms after the oldest of them"
_TROUBLE = ("warning", "error", "critical")
_NOT_SHOWN = ("event", "level", "timestamp", "request_id", "traceparent", "exception")


class Console:
    """
    Prints what happens in a stack.

    Args:
        log: The file that its processes write to, a JSON object in each line of Ferry's own.
        repository: Its data repository.
    """

    def __init__(self, log: Path, repository: Repository) -> None:
        self._log = log
        self._position = 0
        self._repository = repository
        self._head = repository.head()
        self._shown_at: dict[tuple[str, str], float] = {}  # by line and request

    def look(self) -> None:
        """
        Print what has happened since the last look.
        """
        for line in self._commits():
            self._say(f"commit   {line}")
        for event in self._events():
            is_trouble = event["level"] in _TROUBLE
            sentence = _sentence(event)
            if sentence or is_trouble:
                word = "trouble" if is_trouble else "push"
                text = sentence.format_map(_Fields(event)) if sentence else _all_of(event)
                color = "red" if is_trouble else None
                self._say(f"{word:<8} {text}", color=color, request=event.get("request_id", ""))

    def _say(self, line: str, *, color: str | None = None, request: str = "") -> None:
        line, now = in_line(line), time.monotonic()
        self._shown_at = {said: at for said, at in self._shown_at.items() if now - at < _ONCE_PER_S}
        if (line, request) not in self._shown_at:
            click.secho(f"{time.strftime('%H:%M:%S')}  {line}", fg=color)
        self._shown_at[line, request] = now

    def _commits(self) -> list[str]:
        try:
            head, before = self._repository.head(), self._head
            if head is None or head == before:
                return []
            latest = self._repository.log(head, limit=_COMMITS_SHOWN)
        except RepositoryError:
            return []  # the API's own log line says why
        self._head = head
        names = [commit.hash for commit in latest]
        new = latest[: names.index(before)] if before in names else latest
        return [f"{commit.hash[:7]} {commit.subject} ({commit.author[0]})" for commit in reversed(new)]

    def _events(self) -> Iterator[dict[str, Any]]:
        """
        Yield the new lines that Ferry itself has logged. The lines of libraries repeat what Ferry logs.
        """
        with self._log.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # a process is still writing it
                self._position += len(line)
                yield from _own(line)


def _own(line: bytes) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict) and "logger" not in event and {"event", "level"} <= event.keys():
            yield event


def _sentence(event: dict[str, Any]) -> str | None:
    has_several = event["event"] == "push.done" and event.get("commits", 1) > 1
    return _OF_SEVERAL if has_several else _SENTENCES.get(event["event"])


class _Fields(dict[str, Any]):
    """
    An event's fields; one that is missing is a question mark.
    """

    def __missing__(self, name: str) -> str:
        return "?"


def _all_of(event: dict[str, Any]) -> str:
    fields = ", ".join(f"{name}={value}" for name, value in event.items() if name not in _NOT_SHOWN)
    return f"{event['event']}: {fields}"


def end_of(log: Path) -> str:
    """
    Return the last lines of a log, to print with the message that a start has failed.
    """
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    return "\n".join(["The end of the log:", *lines[-_END_LINES:]])
