"""
The one runner for git: it sets git's environment, applies a timeout and redacts the output.

``environment`` makes git's environment, ``process.running`` starts and ends git, and ``caches`` repairs the
derived files that make git fail. ``Git`` is the runner of one repository.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ferry.worker.errors import RepositoryError
from ferry.worker.git.caches import mend
from ferry.worker.git.environment import Pairs, environment
from ferry.worker.process import groups, running
from ferry.worker.process.running import Finished
from ferry.worker.process.talking import Talk

_AHEAD_BYTES = 1 << 20  # the most that Linux permits to each user
QUERY_TIMEOUT_S = 30.0  # for git commands that talk to no remote


def run_git(
    git_dir: Path,
    *arguments: str,
    timeout_s: float = QUERY_TIMEOUT_S,
    given: Mapping[str, str] | None = None,
    configuration: Pairs = (),
    extra: Mapping[str, str] | None = None,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
    whole: bool = True,
    started: Callable[[int], object] = lambda group: None,
    noted: Callable[[int], object] | None = None,
) -> Finished:
    """
    Run a git command on the repository *git_dir*; again if a damaged derived file made it fail.

    Args:
        given: Variables that were set from outside; default: this process's.
        configuration: See ``environment``.
        extra: Variables for this command only, passed unchanged.
        stdin, stdout: See ``ferry.worker.process.running.run``.
        whole: Whether to keep all of its output, or only the beginning and the end.
        started: Called with its process group.
        noted: Called with its process group before git begins.

    Raises:
        RepositoryError: git could not be started.
    """
    env = environment(git_dir, os.environ if given is None else given, configuration) | dict(extra or {})
    run = partial(
        _run, ["git", *arguments], env=env, directory=git_dir, stdin=stdin, stdout=stdout, whole=whole,
        started=started, noted=noted,
    )  # fmt: skip
    found = run(timeout_s=timeout_s)
    left_s = timeout_s - found.duration_s
    if not _is_fatal(found) or left_s <= 0 or not mend(git_dir):
        return found
    for file in (stdin, stdout):
        if file is not None:
            file.seek(0)
    if stdout is not None:
        stdout.truncate()
    return run(timeout_s=left_s)


def _run(command: list[str], **options: Any) -> Finished:
    with _starting():
        return running.run(command, **options)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except OSError as exc:  # not installed, no memory, no more processes or files
        raise RepositoryError(f"git cannot be started: {exc}") from exc


def _is_fatal(found: Finished) -> bool:
    """
    Whether git died, by itself or by a signal: a damaged commit-graph makes some commands die.
    """
    status = found.exit_status
    return status is not None and (not 0 <= status < 128 or "fatal:" in found.stderr)


class Git:
    """
    Runs git commands on one repository, all in the same environment.

    Args:
        path: The bare repository's directory.
        environ: Variables beside this process's own, such as those of a worker's second repository.
    """

    def __init__(self, path: Path, environ: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._environ = environ or {}

    def given(self) -> dict[str, str]:
        """
        Return the variables that were set from outside.
        """
        return {**os.environ, **self._environ}

    def run(
        self,
        *arguments: str,
        timeout_s: float = QUERY_TIMEOUT_S,
        stdin: BinaryIO | None = None,
        stdout: BinaryIO | None = None,
        environment: Mapping[str, str] | None = None,
        gives_way: bool = False,
    ) -> Finished:
        """
        Run a command that talks to no remote; returns its outcome, whatever its exit status.

        Args:
            environment: Variables for this command alone.
            gives_way: Whether to run it at low priority, so that pushes do not wait for reads and packing.

        Raises:
            RepositoryError: git could not be started.
        """
        return run_git(
            self.path, *arguments, timeout_s=timeout_s, given=self.given(), stdin=stdin, stdout=stdout,
            extra=environment, started=groups.give_way if gives_way else lambda group: None,
        )  # fmt: skip

    def query(
        self,
        *arguments: str,
        timeout_s: float = QUERY_TIMEOUT_S,
        stdin: BinaryIO | None = None,
        environment: Mapping[str, str] | None = None,
        gives_way: bool = False,
    ) -> str:
        """
        Run a command as ``run`` does, and return what it printed.

        Raises:
            RepositoryError: It failed, or took too long.
        """
        found = self.run(
            *arguments, timeout_s=timeout_s, stdin=stdin, environment=environment, gives_way=gives_way
        )
        return self.answer(found, *arguments)

    def talk(self, *arguments: str) -> Talk:
        """
        Start a command that answers what it reads from its input, and talks to no remote.

        Raises:
            RepositoryError: git could not be started.
        """
        env = environment(self.path, self.given())
        with _starting():
            return Talk(["git", *arguments], env=env, directory=self.path, ahead_bytes=_AHEAD_BYTES)

    def answer(self, found: Finished, *arguments: str) -> str:
        """
        Return the output of a command that ended with status 0.

        Raises:
            RepositoryError: It failed, or took too long.
        """
        command = f"git {' '.join(arguments[:3])}"
        if found.exit_status is None:
            raise RepositoryError(f"{command} took longer than {found.duration_s:.0f} s in {self.path}")
        if found.exit_status != 0:
            raise RepositoryError(f"{command} failed in {self.path}: {_last_line(found.stderr)}")
        return found.stdout

    def version(self) -> str:
        """
        Return what ``git version`` says, such as ``git version 2.39.5``.
        """
        return self.query("version").strip()


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")
