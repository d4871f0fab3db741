"""
Real repositories and real processes, with what tests ask of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests import nursery

CELERY = [sys.executable, "-m", "celery", "--quiet", "-A", "ferry.worker"]
_POLL_S = 0.02
_IDENTITY = {
    "GIT_AUTHOR_NAME": "Stranger",
    "GIT_AUTHOR_EMAIL": "stranger@example.org",
    "GIT_COMMITTER_NAME": "Stranger",
    "GIT_COMMITTER_EMAIL": "stranger@example.org",
}


def wait_until(
    happened: Callable[[], Any], *, timeout_s: float = 60.0, every_s: float = _POLL_S, what: str = ""
) -> Any:
    """
    Poll until *happened* returns something true, and return that.

    What is dear to ask, or lasts, is asked less often: the asking takes a fifth of the time at most, or it
    would keep from happening what is waited for.
    """
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        found = happened()
        if found:
            return found
        if (now := time.monotonic()) > began + timeout_s:
            raise AssertionError(f"waited {timeout_s:g} s for {what or happened}")
        time.sleep(max(every_s, 4 * (now - asked), 0.05 * (now - began)))


def sample(text: str, name: str, **labels: str) -> float:
    """
    Return the sum of the samples *name* with *labels*, and with any others, in what ``/metrics`` answers.
    """
    return sum(
        each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.name == name and labels.items() <= each.labels.items()
    )


def least(measure: Callable[[], float], *, below_s: float, tries: int = 10) -> float:
    """
    Return the first time that *measure* returns below *below_s*, or the least of several.

    What else this machine does adds to a time now and then; a fault adds to each.
    """
    least_s = measure()
    while least_s >= below_s and (tries := tries - 1):
        least_s = min(least_s, measure())
    return least_s


@cache
def _content(template: Path) -> dict[str, dict[str, tuple[int, bytes]]]:
    """
    Return the mode and the content of each file, by its directory. A directory comes after its parent.
    """
    return {
        directory.removeprefix(str(template)): {
            name: (os.stat(file).st_mode & 0o777, Path(file).read_bytes())
            for name in names
            if (file := os.path.join(directory, name))
        }
        for directory, _, names in os.walk(template)
    }


@dataclass(frozen=True)
class Bare:
    """
    A bare repository on this disk.
    """

    path: Path

    @classmethod
    def init(cls, path: Path) -> Bare:
        return cls.like(_empty(), path)

    @classmethod
    def like(cls, template: Path, path: Path) -> Bare:
        """
        Copy a repository that does not change. Its files are read once, so that a copy takes a fifth of a
        millisecond.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        for directory, files in _content(template).items():
            made = f"{path}{directory}"
            os.mkdir(made)
            for name, (mode, content) in files.items():
                file = os.open(os.path.join(made, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                os.write(file, content)
                os.close(file)
        return cls(path)

    @classmethod
    def copy(cls, source: Path, path: Path) -> Bare:
        shutil.copytree(source, path)
        return cls(path)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **_IDENTITY},
        )
        return done.stdout.strip()

    def edit(self, files: Mapping[str, str | None]) -> None:
        """
        Commit the texts of files to the branch main; None removes one.
        """
        lines = [
            f"D {path}\n" if text is None else f"M 100644 inline {path}\ndata {len(text)}\n{text}\n"
            for path, text in files.items()
        ]
        head = "commit refs/heads/main\ncommitter Sam <sam@example.org> 1780000000 +0000\ndata 4\nedit\n"
        content = f"{head}from {self.head()}\n{''.join(lines)}".encode()
        self.feed("fast-import", "--quiet", content=content)

    def feed(self, *arguments: str, content: bytes) -> str:
        """
        Run a git command that reads *content*; returns what it prints.
        """
        command = ["git", "-C", str(self.path), *arguments]
        done = subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True, timeout=60)
        return done.stdout.decode()

    def head(self) -> str | None:
        with contextlib.suppress(OSError):
            # As git stores it: whoever waits for a commit asks again and again, at the cost of a process.
            ref = (self.path / "refs/heads/main").read_text()
            # While a push holds its locks it has not ended, and git takes a moment to tell.
            if re.fullmatch(r"[0-9a-f]{40}\n", ref) and not (self.path / "HEAD.lock").exists():
                return ref.strip()
        done = subprocess.run(
            ["git", "-C", str(self.path), "rev-parse", "--verify", "--quiet", "main"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() or None

    def has(self, commit: str) -> bool:
        done = subprocess.run(
            ["git", "-C", str(self.path), "merge-base", "--is-ancestor", commit, "main"],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def commit(self, message: str = "a commit") -> str:
        """
        Commit on top of ``main`` with nothing changed, as somebody else would.
        """
        text = f"{message}\n".encode()
        head = b"commit refs/heads/main\nmark :1\ncommitter Stranger <stranger@example.org> now\n"
        content = b"%sdata %d\n%sfrom refs/heads/main^0\n\nget-mark :1\n" % (head, len(text), text)
        # One process of git, and not one for the commit and one for the branch.
        return self.feed("fast-import", "--quiet", "--date-format=now", content=content).strip()

    def grow(self, commits: int, *, files: int = 200) -> None:
        """
        Put so many commits on top of ``main``, each of which changes one of *files* records.
        """
        lines = [f"from {self.head()}\n", *[""] * (commits - 1)]
        stream = [
            f"commit refs/heads/main\ncommitter Tess <tess@example.org> {1_780_000_000 + number} +0000\n"
            f"data <<END\nvisit {number}\nEND\n{line}M 100644 inline people/visitor-{number % files}.toml\n"
            f'data <<END\nname = "Visit {number}"\nslug = "visitor-{number % files}"\nEND\n\n'
            for number, line in enumerate(lines)
        ]
        self.feed("fast-import", "--quiet", content="".join(stream).encode())

    def hook(self, name: str, script: str) -> None:
        path = self.path / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@dataclass
class Process:
    """
    A real process of Ferry's and what it logs; it may be killed and started again.
    """

    command: list[str]
    env: dict[str, str]
    log_path: Path
    process: subprocess.Popen[bytes] | nursery.Child | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def spawn(self) -> None:
        with self.log_path.open("ab") as output:
            self.process = nursery.spawn(
                self.command,
                cwd=self.log_path.parent,
                env={**clean_environment(), **self.env},
                output=output,
                errors=output,
            )

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def text(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    def logged(self, words: str) -> bool:
        return words in self.text()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self._lines() if event.get("event") == name]

    def await_event(self, name: str, *, count: int = 1, timeout_s: float = 60.0) -> dict[str, Any]:
        """
        Wait for the *count*-th event *name*, and return it.
        """
        try:
            found = wait_until(
                lambda: events if len(events := self.events(name)) >= count else None,
                timeout_s=timeout_s,
                what=f"{count} times {name}",
            )
        except AssertionError as exc:
            raise AssertionError(f"{exc}; the worker said:\n{self.text()[-4000:]}") from None
        return dict(found[count - 1])

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self.text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def wait(self, timeout_s: float = 60.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """
        Ask it to stop, as an init system does; returns its exit status.
        """
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """
        Kill it and its pool, without warning.
        """
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()  # one that was forked just now leads no group yet
        self.process.wait(10)


class Worker(Process):
    """
    A real worker process.
    """

    @classmethod
    def start(cls, env: dict[str, str], log_path: Path, *options: str) -> Worker:
        worker = cls([*CELERY, "worker", "-l", "INFO", *options], env, log_path)
        worker.spawn()
        worker.await_ready()
        return worker

    def await_ready(self) -> None:
        wait_until(lambda: self.logged("ready.") or self.ended(), what="the worker")
        assert not self.ended(), self.text()


def start_beat(env: dict[str, str], log_path: Path) -> Process:
    """
    Start ``celery -A ferry.worker beat``.
    """
    beat = Process([*CELERY, "beat"], env, log_path)
    beat.spawn()
    return beat


def clean_environment() -> dict[str, str]:
    ours = ("CFP_", "SENTRY_", "GIT_", "PROMETHEUS_", "OTEL_")
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**theirs, "TMPDIR": _left_overs().name}


@cache
def _empty() -> Path:
    path = Path(_left_overs().name) / "empty.git"
    options = ["--quiet", "--bare", "--template=", "-b", "main"]
    subprocess.run(["git", "init", *options, str(path)], check=True)
    return path


@cache
def _left_overs() -> tempfile.TemporaryDirectory[str]:
    # Processes that are killed leave files, which go with the tests. Short, for the names of sockets in it.
    return tempfile.TemporaryDirectory(prefix="f", ignore_cleanup_errors=True)
