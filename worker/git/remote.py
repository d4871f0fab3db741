"""
Talking to a remote: push, ask, fetch, remove a branch.

git gets the remote under a name made up for one command, which no configuration of any scope knows. Ferry
itself remembers where the branch stands there, see ``ferry.worker.git.tracking``.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import gitsheets

from ferry.worker.errors import RepositoryError
from ferry.worker.failures import Verdict, explain
from ferry.worker.git.command import run_git
from ferry.worker.git.refs import OBJECT_NAME, RefError, read_ref
from ferry.worker.git.repository import Repository
from ferry.worker.process import running
from ferry.worker.process.running import Finished

_HANG_UP_TIMEOUT_S = 5.0
_ASK_TIMEOUT_S = 30.0  # for one line; a fetch may take longer
# Where git leaves what it fetches: under a name that no configuration and no person uses.
_FETCHED = "refs/ferry/fetched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed(Finished):
    """
    The outcome of a ``git push``.

    Attributes:
        verdict: What came of it. A push counts as landed only where git names the ref that it was to move.
    """

    verdict: Verdict

    @classmethod
    def of(cls, found: Finished, ref: str) -> Pushed:
        """
        Return the outcome of a push that was to move *ref*.
        """
        verdict = explain(found.exit_status, found.stdout, found.stderr, ref=ref)
        return cls(**asdict(found), verdict=verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """
    Where the branch stands on a remote.

    Attributes:
        known: Where it was last seen before; None: not known.
        tip: Where it stands now; None: the remote has no such branch.
    """

    known: str | None
    tip: str | None

    @property
    def has_moved(self) -> bool:
        """
        Whether it no longer stands where it was last seen.
        """
        return self.tip != self.known


class Remote:
    """
    One remote of a repository, and how long a command may take that talks to it.

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
            commit: A full object name. An empty one would make git delete the
                branch, so it is resolved and checked here.
            branch: Short name of the branch there; default: the same as here.
            dry_run: Send and move nothing. No hook is asked.
            started: Called with the process group as soon as it exists.
            noted: Called with the process group before git begins in it: a caller that is killed
                before it has noted the group leaves no git behind.

        Raises:
            RepositoryError: *commit* is not a commit of this repository; git cannot be started; or the
                push landed and could not be remembered.
        """
        repository = self._repository
        self._check_commit(commit)
        ref, url = self._ref(branch), repository.url_of(self.name)
        options = ["--dry-run"] if dry_run else []
        command = ("push", "--porcelain", *options)
        found = self._visit(url, *command, refspecs=[f"{commit}:{ref}"], started=started, noted=noted)
        pushed = Pushed.of(found, ref)
        if ref == repository.ref and not dry_run and pushed.verdict.landed:
            repository.saw_on_remote(self.name, commit, url=url)
        return pushed

    def remove_branch(self, branch: str, *, expected: str) -> Pushed:
        """
        Remove *branch* on the remote if it stands at *expected* there. Only for branches that Ferry made.

        Raises:
            RepositoryError: git could not be started.
        """
        ref, url = self._ref(branch), self._repository.url_of(self.name)
        lease = f"--force-with-lease={ref}:{expected}"
        found = self._visit(url, "push", "--porcelain", lease, refspecs=[f":{ref}"])
        return Pushed.of(found, ref)

    def ask(self, branch: str | None = None) -> str | None:
        """
        Ask the remote where a branch (default: ours) stands now; None where it has none.

        Raises:
            RepositoryError: The remote did not answer.
        """
        ref = self._ref(branch)
        return self.heads(ref).get(ref)

    def heads(self, *patterns: str) -> dict[str, str]:
        """
        Ask the remote for its refs that match *patterns*; returns the commit of each by its full name.

        Raises:
            RepositoryError: The remote did not answer.
        """
        found = self._visit(self._repository.url_of(self.name), "ls-remote", refspecs=patterns)
        if found.exit_status != 0:
            asked = patterns[0].removeprefix("refs/heads/")
            raise RepositoryError(f"{self.name} did not say where {asked} stands: {_why(found)}")
        return dict(line.split("\t", 1)[::-1] for line in found.stdout.splitlines() if "\t" in line)

    def look(self) -> Seen:
        """
        Ask the remote where the branch stands, fetch it if it has moved, and remember where it stands.

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
            repository.track(self.name, tip, url=url)  # nothing there is new to us
        elif tip != known:
            tip = self.fetch()
        return Seen(known=known, tip=tip)

    def fetch(self) -> str | None:
        """
        Fetch the branch from the remote, and remember where it stands; returns that.

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

    def _visit(
        self,
        url: str,
        *command: str,
        refspecs: Sequence[str],
        started: Callable[[int], object] = lambda group: None,
        noted: Callable[[int], object] | None = None,
    ) -> Finished:
        """
        Run a git command that talks to the remote, which is at *url*.
        """
        if command[0] == "push" and not self._repository.pushes:
            raise RepositoryError("this is a replica (CFP_API_ROLE), which pushes nothing")
        repository, credentials = self._repository, self._repository.credentials
        configured = _configured(repository, self.name, url)
        # Made up for this command: nothing that is configured for a remote of any other name applies.
        alias = f"ferry-{secrets.token_hex(8)}"
        found = run_git(
            repository.path,
            *command,
            alias,
            *refspecs,
            timeout_s=self._timeout_s,
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
            # It may have waited for a shared connection, which the next command would wait for as well.
            hang_up(repository, self.name)
        return found


def hang_up(repository: Repository, *remotes: str) -> None:
    """
    End the ssh connections to *remotes* (default: to all) that are kept for the next push.
    """
    for remote in remotes or repository.credentials.remotes:
        if command := repository.credentials.hang_up_command(remote):
            with contextlib.suppress(OSError):  # no ssh, no memory: then it ends by itself
                running.run(command, timeout_s=_HANG_UP_TIMEOUT_S, env=os.environ, directory=repository.path)


def ssh_programs(repository: Repository) -> dict[str, list[str]]:
    """
    Return the programs by which git reaches remotes over ssh, each with those remotes.
    """
    found: dict[str, list[str]] = {}
    for remote, url in repository.credentials.remotes.items():
        configured = _configured(repository, remote, url).get("core.sshcommand", "")
        if program := repository.credentials.ssh_program(remote, configured):
            found.setdefault(program, []).append(remote)
    return found


def ended_within_s(timeout_s: float) -> float:
    """
    Return the longest time in seconds that a command with that timeout takes until it has ended.
    """
    return timeout_s + running.ENDING_S + _HANG_UP_TIMEOUT_S + running.ENDING_S


def _address(alias: str, url: str) -> list[tuple[str, str]]:
    """
    Return the configuration that sends *alias* to *url*, and nothing else.
    """
    return [
        (f"remote.{alias}.url", url),
        # With a pushurl of its own `pushInsteadOf` does not apply; `insteadOf` applies to both.
        (f"remote.{alias}.pushurl", url),
        (f"remote.{alias}.tagOpt", "--no-tags"),
        (f"remote.{alias}.followRemoteHEAD", "never"),
        # The operator named it; git's own default forbids it to submodules alone.
        *([("protocol.file.allow", "always")] if _is_local(url) else []),
    ]


def _configured(repository: Repository, remote: str, url: str) -> Mapping[str, str]:
    """
    Return what is configured for *remote* under its own name, which git is not given, by key.
    """
    if _is_local(url):
        return {}
    keys = rf"^(core\.sshcommand|remote\.{re.escape(remote)}\.proxy(authmethod)?)$"
    found = repository.git.run("config", "-z", "--get-regexp", keys)
    if found.exit_status not in (0, 1):  # 1: there are none
        repository.git.answer(found, "config")
    pairs = (entry.partition("\n") for entry in found.stdout.split("\0") if entry)
    return {key.lower(): value for key, _, value in pairs}


def _is_local(url: str) -> bool:
    return url.startswith(("/", "file:"))


def _clear(place: Path) -> None:
    for left_over in (place, Path(f"{place}.lock")):  # git would follow a symbolic ref
        if left_over.is_dir() and not left_over.is_symlink():
            shutil.rmtree(left_over)
        left_over.unlink(missing_ok=True)


def _why(found: Finished) -> str:
    """
    Say why the remote refused a read, and what helps: ssh's last line is the same for every reason.
    """
    verdict = explain(found.exit_status, "", found.stderr)
    return f"{verdict.reason}: {verdict.evidence or 'it said nothing'}. {verdict.hint}"
