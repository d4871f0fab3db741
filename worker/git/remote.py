"""
Talking to a remote: push, list refs, fetch, and remove a branch.

For each command Ferry gives the remote a random name, so that no configuration in any scope applies to it.
Ferry updates the remote-tracking ref itself, see ``ferry.worker.git.tracking``.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import gitsheets

from ferry.worker.errors import RepositoryError
from ferry.worker.failures import Verdict, explain
from ferry.worker.git.command import run_git
from ferry.worker.git.express.lane import Ride, open_again, ride
from ferry.worker.git.refs import OBJECT_NAME, RefError, read_ref
from ferry.worker.git.repository import Repository
from ferry.worker.process import running
from ferry.worker.process.running import Finished

_HANG_UP_TIMEOUT_S = 5.0
_ASK_TIMEOUT_S = 30.0  # for git ls-remote of one ref; a fetch may take longer
# The rule of a verdict from the express lane.
EXPRESS = "express"
# That of a verdict from asking the remote, after a push of unknown result.
ASKED = "asked-the-remote"
# git fetches to this ref, which no configuration and no person uses.
_FETCHED = "refs/ferry/fetched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed(Finished):
    """
    The outcome of a ``git push``.

    Attributes:
        verdict: The result. A push counts as landed only if git's output names the ref.
    """

    verdict: Verdict

    @classmethod
    def of(cls, found: Finished, ref: str) -> Pushed:
        """
        Return the outcome of a push to *ref*.
        """
        return cls._with(found, explain(found.exit_status, found.stdout, found.stderr, ref=ref))

    @classmethod
    def of_ride(cls, found: Finished) -> Pushed:
        """
        Return the outcome of a push in the express lane.
        """
        verdict = Verdict("pushed", EXPRESS, "", ambiguous=False)
        if found.exit_status is None:
            verdict = explain(None, "", found.stderr)
        return cls._with(found, verdict)

    @classmethod
    def _with(cls, found: Finished, verdict: Verdict) -> Pushed:
        return cls(**{each.name: getattr(found, each.name) for each in fields(Finished)}, verdict=verdict)

    def after(self, ride: Ride) -> Pushed:
        """
        Return the outcome of a ``git push`` that followed *ride*, which was in doubt.
        """
        verdict = self.verdict
        if ride.is_doubtful and verdict.reason == "up-to-date":
            verdict = replace(verdict, reason="pushed", rule=ASKED)  # by the ride
        return replace(self, verdict=verdict, duration_s=self.duration_s + ride.took_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """
    The position of the branch on a remote.

    Attributes:
        known: The tip when last seen before; None: not known.
        tip: The tip now; None: the remote has no such branch.
    """

    known: str | None
    tip: str | None

    @property
    def has_moved(self) -> bool:
        """
        Whether the tip has changed since it was last seen.
        """
        return self.tip != self.known


class Remote:
    """
    One remote of a repository, with the timeout of commands that talk to it.

    Args:
        repository: The data repository.
        name: The remote's name in the settings.
        timeout_s: Seconds until a command and all its children are ended.
    """

    def __init__(self, repository: Repository, name: str, *, timeout_s: float) -> None:
        self.name = name
        self._repository = repository
        self._timeout_s = timeout_s

    def push(
        self,
        commit: str,
        *,
        branch: str | None = None,
        dry_run: bool = False,
        started: Callable[[int], object] = lambda group: None,
        noted: Callable[[int], object] | None = None,
    ) -> Pushed:
        """
        Push *commit* to a branch on the remote, by fast-forward only.

        Args:
            commit: A full object name. It is checked, because an empty one would make git delete the branch.
            branch: Short name of the branch there; default: the repository's branch.
            dry_run: Sends nothing, moves nothing and runs no hook.
            started: Called with the process group as soon as it exists.
            noted: Called with the process group before git starts in it. If the caller is killed before it
                has stored the group, git does not start.

        Raises:
            RepositoryError: *commit* is not a commit of this repository; git cannot be started; or the push
                landed and the remote-tracking ref cannot be moved.
        """
        repository = self._repository
        ref, url = self._ref(branch), repository.url_of(self.name)
        is_ours = ref == repository.ref and not dry_run
        taken = self._ride(commit, url, noted) if is_ours and noted and repository.pushes else Ride()
        if taken.finished is not None:
            pushed = Pushed.of_ride(taken.finished)
            if pushed.exit_status is None:
                hang_up(repository, self.name)
        else:
            self._check_commit(commit)
            options = ["--dry-run"] if dry_run else []
            command = ("push", "--porcelain", *options)
            refspecs, timeout_s = [f"{commit}:{ref}"], self._timeout_s - taken.took_s
            found = self._visit(
                url, *command, refspecs=refspecs, timeout_s=timeout_s, started=started, noted=noted
            )
            pushed = Pushed.of(found, ref).after(taken)
            if pushed.verdict.landed:
                open_again(repository, url)
        if is_ours and pushed.verdict.landed:
            repository.saw_on_remote(self.name, commit, url=url)
            taken.prepare()
        return pushed

    def remove_branch(self, branch: str, *, expected: str) -> Pushed:
        """
        Remove *branch* on the remote if it is at *expected*. Only for branches that Ferry made.

        Raises:
            RepositoryError: git could not be started.
        """
        ref, url = self._ref(branch), self._repository.url_of(self.name)
        lease = f"--force-with-lease={ref}:{expected}"
        found = self._visit(url, "push", "--porcelain", lease, refspecs=[f":{ref}"])
        return Pushed.of(found, ref)

    def ask(self, branch: str | None = None) -> str | None:
        """
        Return the tip of a branch (default: the repository's) on the remote; None if there is no such branch.

        Raises:
            RepositoryError: The remote did not answer.
        """
        ref = self._ref(branch)
        return self.heads(ref).get(ref)

    def heads(self, *patterns: str) -> dict[str, str]:
        """
        Return the remote's refs that match *patterns*: the commit of each, by the ref's full name.

        Raises:
            RepositoryError: The remote did not answer.
        """
        found = self._visit(self._repository.url_of(self.name), "ls-remote", refspecs=patterns)
        if found.exit_status != 0:
            asked = patterns[0].removeprefix("refs/heads/")
            raise RepositoryError(f"{self.name} did not list {asked}: {_why(found)}")
        return dict(line.split("\t", 1)[::-1] for line in found.stdout.splitlines() if "\t" in line)

    def look(self) -> Seen:
        """
        Look at the branch on the remote; fetch it if it has moved, and move the remote-tracking ref.

        For the holder of the claim on the remote.

        Raises:
            RepositoryError: The remote did not answer, or the branch could not be fetched.
        """
        repository, timeout_s = self._repository, min(self._timeout_s, _ASK_TIMEOUT_S)
        known, url = repository.remote_head(self.name), repository.url_of(self.name)
        tip = Remote(repository, self.name, timeout_s=timeout_s).ask()
        if tip is None:
            repository.forget(self.name)
        elif tip != known and repository.contains(tip, repository.head()):
            repository.track(self.name, tip, url=url)  # we have every commit of it
        elif tip != known:
            tip = self.fetch()
        return Seen(known=known, tip=tip)

    def fetch(self) -> str | None:
        """
        Fetch the branch from the remote and move the remote-tracking ref; returns the tip.

        For the holder of the claim on the remote.

        Raises:
            RepositoryError: It could not be fetched.
        """
        repository, ref = self._repository, f"{_FETCHED}/{self.name}"
        url, place = repository.url_of(self.name), repository.path / ref
        failed = f"cannot fetch {repository.branch} from {self.name}"
        try:
            _clear(place)
            repository.clear_tracking(self.name)
            command = ("fetch", "--no-tags", "--refmap=", "--no-write-fetch-head")
            found = self._visit(url, *command, refspecs=[f"+{repository.ref}:{ref}"])
            if found.exit_status != 0:
                raise RepositoryError(f"{failed}: {_why(found)}")
            tip = read_ref(repository.path, ref)
            if tip is not None:
                repository.track(self.name, tip, url=url)
        except (RefError, OSError) as exc:
            raise RepositoryError(f"{failed}: {exc}") from exc
        finally:
            with contextlib.suppress(OSError):
                place.unlink(missing_ok=True)
        return tip

    def _ref(self, branch: str | None) -> str:
        return f"refs/heads/{branch or self._repository.branch}"

    def _check_commit(self, name: str) -> None:
        path = self._repository.path
        try:
            if OBJECT_NAME.fullmatch(name) and self._repository.objects.is_commit(name):
                return
        except (gitsheets.GitsheetsError, OSError) as exc:
            raise RepositoryError(f"cannot read the commit {name} of {path}: {exc}") from exc
        raise RepositoryError(f"{name!r} is not a commit of {path}")

    def _ride(self, commit: str, url: str, noted: Callable[[int], object]) -> Ride:
        return ride(self._repository, self.name, commit, url=url, timeout_s=self._timeout_s, noted=noted)

    def _visit(
        self,
        url: str,
        *command: str,
        refspecs: Sequence[str],
        timeout_s: float | None = None,
        started: Callable[[int], object] = lambda group: None,
        noted: Callable[[int], object] | None = None,
    ) -> Finished:
        """
        Run a git command that talks to the remote at *url*.
        """
        if command[0] == "push" and not self._repository.pushes:
            raise RepositoryError("this is a replica (CFP_API_ROLE), which pushes nothing")
        repository, credentials = self._repository, self._repository.credentials
        configured = _configured(repository, self.name, url)
        # A random name: configuration for a remote of any other name does not apply.
        alias = f"ferry-{secrets.token_hex(8)}"
        found = run_git(
            repository.path,
            *command,
            alias,
            *refspecs,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            given=repository.git.given(),
            configuration=[
                *_address(alias, url),
                *(
                    (f"remote.{alias}.{option}", configured[key])
                    for option in ("proxy", "proxyAuthMethod")
                    if (key := f"remote.{self.name}.{option}".lower()) in configured
                ),
                *credentials.configuration(self.name),
            ],
            extra=credentials.environment(self.name, ssh_is_configured="core.sshcommand" in configured),
            whole=False,
            started=started,
            noted=noted,
        )
        if found.exit_status is None:
            # The command may have hung on a shared connection, and the next command would hang too.
            hang_up(repository, self.name)
        return found


def hang_up(repository: Repository, *remotes: str) -> None:
    """
    Close the shared ssh connections to *remotes* (default: to all).
    """
    for remote in remotes or repository.credentials.remotes:
        if command := repository.credentials.hang_up_command(remote):
            # No ssh or no memory: the connection then ends after its idle time.
            with contextlib.suppress(OSError):
                running.run(command, timeout_s=_HANG_UP_TIMEOUT_S, env=os.environ, directory=repository.path)


def ssh_programs(repository: Repository) -> dict[str, list[str]]:
    """
    Return the ssh programs that git runs, each with the remotes that it is for.
    """
    found: dict[str, list[str]] = {}
    for remote, url in repository.credentials.remotes.items():
        configured = _configured(repository, remote, url).get("core.sshcommand", "")
        if program := repository.credentials.ssh_program(remote, configured):
            found.setdefault(program, []).append(remote)
    return found


def ended_within_s(timeout_s: float) -> float:
    """
    Return the most seconds after which a command with that timeout has ended.
    """
    return timeout_s + running.ENDING_S + _HANG_UP_TIMEOUT_S + running.ENDING_S


def _address(alias: str, url: str) -> list[tuple[str, str]]:
    """
    Return the configuration that points the remote *alias* to *url*.
    """
    return [
        (f"remote.{alias}.url", url),
        # With an explicit pushurl `pushInsteadOf` does not apply; `insteadOf` applies to both.
        (f"remote.{alias}.pushurl", url),
        (f"remote.{alias}.tagOpt", "--no-tags"),
        (f"remote.{alias}.followRemoteHEAD", "never"),
        # The operator configured the URL; git's default forbids its protocol only in submodules.
        *([("protocol.file.allow", "always")] if _is_local(url) else []),
    ]


def _configured(repository: Repository, remote: str, url: str) -> Mapping[str, str]:
    """
    Return the configuration of *remote* under its own name, by key. git does not see it under the random
    name.
    """
    if _is_local(url):
        return {}
    keys = rf"^(core\.sshcommand|remote\.{re.escape(remote)}\.proxy(authmethod)?)$"
    found = repository.git.run("config", "-z", "--get-regexp", keys)
    if found.exit_status not in (0, 1):  # status 1: there is none
        repository.git.answer(found, "config")
    pairs = (entry.partition("\n") for entry in found.stdout.split("\0") if entry)
    return {key.lower(): value for key, _, value in pairs}


def _is_local(url: str) -> bool:
    return url.startswith(("/", "file:"))


def _clear(place: Path) -> None:
    for left_over in (place, Path(f"{place}.lock")):  # otherwise git follows a symbolic ref
        if left_over.is_dir() and not left_over.is_symlink():
            shutil.rmtree(left_over)
        left_over.unlink(missing_ok=True)


def _why(found: Finished) -> str:
    """
    Return why the remote refused a read, with a hint. ssh's last line is the same for every reason.
    """
    verdict = explain(found.exit_status, "", found.stderr)
    return f"{verdict.reason}: {verdict.evidence or 'it said nothing'}. {verdict.hint}"
