"""
The data repository as the push pipeline sees it, and the only subprocess.

What can be read from files is read in this process; ``_run`` starts everything
else, through GitPython: in git's own C locale, without a prompt, in a session of
its own that is ended whole at its timeout (a ``git push`` that is ended alone
leaves ``git remote-https`` or ssh behind), and redacted before a word leaves.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, cast

import git
import gitsheets

from worker.credentials import Credentials
from worker.errors import RepositoryError
from worker.failures import POLICIES, Reason, explain
from worker.objects import is_commit, lineage, loose
from worker.redaction import redact
from worker.refs import STATE_DIRECTORY, RefError, move_ref, read_ref
from worker.sharing import make_directories, share, sharing

_OBJECT_NAME = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_BATCHED = re.compile(rb"([0-9a-f]+) (?:missing|[a-z]+ ([0-9]+))\n")
_QUERY_TIMEOUT_S = 30.0  # for git commands that stay on this machine
# The writers and the pushes have the other cores.
_ONE_THREAD = ("-c", "pack.threads=1")
_A_FEW_COMMITS = 100  # read in this process; git takes 3 ms for any number
_NEIGHBOURS = 4  # gitsheets takes 0.3 ms for any distance
_WALK_TIMEOUT_S = 300.0  # for those that read a whole history
_HANG_UP_TIMEOUT_S = 5.0
_TERM_GRACE_S = 2.0  # git removes its lock files on SIGTERM; a hung ssh ignores it


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """
    What a git command came to.

    Attributes:
        exit_status: As git gave it; None when we ended it at its timeout.
        stdout: Redacted standard output.
        stderr: Redacted standard error.
        duration_s: How long it ran, in seconds.
    """

    exit_status: int | None
    stdout: str
    stderr: str
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """
    One commit, as its author and message tell it.

    Attributes:
        hash: Full object name.
        parents: Full object names of its parents.
        author: Name and e-mail address.
        authored_at: RFC 3339, with the author's offset.
        message: The whole message, trailers included.
        trailers: Its trailers; the last one where a key stands twice.
        trailer_lines: Key and value of each of them, in order.
    """

    hash: str
    parents: tuple[str, ...]
    author: tuple[str, str]
    authored_at: str
    message: str
    trailers: Mapping[str, str]
    trailer_lines: tuple[tuple[str, str], ...] = ()


# Split by NUL, the one character that no part of a commit can hold.
_LOG_FORMAT = "%H%x00%P%x00%an%x00%ae%x00%aI%x00%B%x00%(trailers:only,unfold)"


class Repository:
    """
    A bare data repository and its one pushed branch.

    Holds no open file and starts nothing by itself, so it survives a fork.

    Args:
        path: The bare repository's directory.
        branch: The branch's short name.
        credentials: What lets git in at the remotes.
        name: What people call it, where a worker serves several; else "".
        root: Directory in the branch's tree with ``.gitsheets`` and the sheets; ``.`` is the top.
    """

    def __init__(
        self,
        path: Path,
        *,
        branch: str,
        credentials: Credentials | None = None,
        name: str = "",
        root: str = ".",
    ) -> None:
        self.path = path
        self.root = root
        self.name = name
        self.branch = branch
        self.ref = f"refs/heads/{branch}"
        self._git = git.Git(path)
        self._environment = {
            # An explicit GIT_DIR also spares git the search for a repository
            # above and the guess at who owns it.
            "GIT_DIR": str(path),
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
            # What is read in this process knows no replaced objects (git-replace), and is pushed as it is.
            "GIT_NO_REPLACE_OBJECTS": "1",
        }
        self._credentials = credentials or Credentials(remotes={})

    def head(self) -> str | None:
        """
        Return the branch's commit, or None while it has none.

        Raises:
            RepositoryError: The ref is damaged.
        """
        return self._read(self.ref)

    def remote_head(self, remote: str) -> str | None:
        """
        Return where we last saw the branch on *remote* (its remote-tracking ref).
        """
        return self._read(self.tracking_ref(remote))

    def tracking_ref(self, remote: str) -> str:
        """
        Return the full name of the remote-tracking ref of the branch on *remote*.
        """
        return f"refs/remotes/{remote}/{self.branch}"

    def contains(self, commit: str, tip: str | None) -> bool:
        """
        Whether *commit* is *tip* or one of its ancestors; False if either is unknown here.
        """
        if tip is None or commit == tip:
            return commit == tip
        try:
            return _is_ancestor(str(self.path), commit, tip)
        except gitsheets.GitsheetsError:
            return False

    def objects_named(self, prefix: str) -> list[str]:
        """
        Return the full names of the objects whose names begin with *prefix*, at least four digits.
        """
        return self._query("rev-parse", f"--disambiguate={prefix}").split()

    def is_pushed(self, remote: str, commit: str | None = None) -> bool:
        """
        Whether *remote* was seen to hold *commit* (default: everything there is).
        """
        commit = commit or self.head()
        return commit is None or self.contains(commit, self.remote_head(remote))

    def commits_between(self, old: str | None, new: str, *, first_parents: bool = False) -> list[str]:
        """
        Return the commits that are in *new* and not in *old*, newest first.

        Args:
            first_parents: Only those that *new* itself went through, and not what they merged.

        Raises:
            RepositoryError: git could not tell.
        """
        if old == new:
            return []
        if old and (few := lineage(str(self.path), old, new, longest=_A_FEW_COMMITS)):
            return few
        options = ["--first-parent"] if first_parents else []
        return self._query("rev-list", *options, new, *([f"^{old}"] if old else []), "--").split()

    def commit_time(self, commit: str) -> float:
        """
        Return when *commit* was made, in seconds since the epoch.

        git keeps whole seconds. A commit's loose object was written when the
        commit was made, and the file system knows that to the millisecond.
        """
        try:
            return (self.path / "objects" / commit[:2] / commit[2:]).stat().st_mtime
        except FileNotFoundError:
            return float(self._query("show", "--no-patch", "--format=%ct", commit, "--"))

    def log(
        self,
        tip: str,
        *,
        limit: int,
        skip: int = 0,
        without: str | Sequence[str] | None = None,
        file: str | None = None,
        children_first: bool = False,
    ) -> list[Commit]:
        """
        Return commits that are in *tip*, newest first by their committers' clocks.

        Args:
            tip: Full object name of a commit.
            limit: How many to return at most.
            skip: How many to leave out first.
            without: Leave out what this commit contains, or any of these.
            file: Only commits that change the file at this path of the tree.
            children_first: Whether no commit may stand before one of its children, whatever clocks said.
        """
        left_out = [without] if isinstance(without, str) else without or ()
        text = self._query(
            "log", "-z", f"--format={_LOG_FORMAT}", f"--skip={skip}", f"--max-count={limit}",
            *(["--date-order"] if children_first else []), tip, *(f"^{name}" for name in left_out),
            "--", *([f":(top,literal){file}"] if file else []),
        )  # fmt: skip
        values = text.split("\0")[: -1 if text.endswith("\0") else None]
        width = _LOG_FORMAT.count("%x00") + 1
        return [_commit(values[start : start + width]) for start in range(0, len(values) - width + 1, width)]

    def count_between(self, old: str, new: str) -> int:
        """
        Count the commits that are in *new* and not in *old*.

        Raises:
            RepositoryError: One of them is not known here.
        """
        return int(self._query("rev-list", "--count", new, f"^{old}", "--"))

    def merge_base(self, one: str, other: str) -> str | None:
        """
        Return the best commit that is in both, or None where they share no history.

        Raises:
            RepositoryError: One of them is not known here.
        """
        found = self._run("merge-base", one, other, timeout_s=_QUERY_TIMEOUT_S)
        if found.exit_status == 1 and not found.stderr:
            return None
        return self._answer(found, "merge-base", one, other).strip()

    def files_changed(self, old: str, new: str) -> list[str]:
        """
        Return the paths of the files in which the trees of two commits differ, sorted.

        Raises:
            RepositoryError: One of them is not known here.
        """
        changed = self._query("diff-tree", "-r", "-z", "--name-only", "--no-renames", old, new, "--")
        return sorted(filter(None, changed.split("\0")))

    def check_objects(self, *, timeout_s: float) -> None:
        """
        Read every object and check it against its name.

        Raises:
            RepositoryError: One is missing or damaged.
        """
        self._query("fsck", "--full", "--strict", "--no-dangling", "--no-progress", timeout_s=timeout_s)

    def files_of(self, commit: str) -> list[str]:
        """
        Return the paths of the files that *commit* changes against its first parent, sorted.

        Raises:
            RepositoryError: git could not.
        """
        changed = self._query(
            "diff-tree", "-r", "-z", "--root", "--name-only", "--no-renames", "--no-commit-id",
            "-m", "--first-parent", commit, "--",
        )  # fmt: skip
        return sorted(filter(None, changed.split("\0")))

    def contents(self, names: Sequence[str]) -> dict[str, bytes]:
        """
        Return the content of each object in *names*, by full names; those that git cannot read are left out.
        """
        with tempfile.TemporaryFile() as wanted:
            wanted.write("".join(f"{name}\n" for name in names).encode())
            wanted.seek(0)
            handle = self._git.execute(
                ["git", "cat-file", "--batch"],
                as_process=True,
                start_new_session=True,
                istream=wanted,
                env=self._environment,
            )
            process = handle.proc
            assert process is not None  # noqa: S101 - as in _execute
            try:
                answer, _ = process.communicate(timeout=_WALK_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                answer, _ = _end_group(process)
            except BaseException:
                _end_group(process)
                raise
        found, at = {}, 0
        while header := _BATCHED.match(answer, at):  # ends where git met a damaged object
            at = header.end() + int(header[2]) + 1 if header[2] else header.end()
            if header[2] and at <= len(answer):
                found[header[1].decode()] = answer[header.end() : at - 1]
        return found

    def is_whole(self, commit: str) -> bool:
        """
        Whether every object of *commit* and of all before it is here, as far as five minutes tell.
        """
        found = self._run("rev-list", "--objects", "--quiet", commit, "--", timeout_s=_WALK_TIMEOUT_S)
        return found.exit_status in (0, None)

    def push(
        self,
        remote: str,
        commit: str,
        *,
        timeout_s: float,
        branch: str | None = None,
        dry_run: bool = False,
        started: Callable[[int], object] = lambda group: None,
    ) -> Finished:
        """
        Push *commit* to a branch on *remote*, by fast-forward only.

        Args:
            commit: A full object name. An empty one would make git delete the
                branch, so it is resolved and checked here.
            timeout_s: Seconds until the push and all its children are ended.
            branch: Short name of the branch there; default: the same as here.
            dry_run: Do everything but send and move something. No hook is asked.
            started: Called with the process group as soon as it exists.

        Raises:
            RepositoryError: *commit* is not a commit of this repository.
        """
        if not _OBJECT_NAME.fullmatch(commit) or not is_commit(str(self.path), commit):
            raise RepositoryError(f"{commit!r} is not a commit of {self.path}")
        refspec = f"{commit}:refs/heads/{branch or self.branch}"
        options = ["--dry-run"] if dry_run else []
        return self._visit(
            remote, "push", "--porcelain", *options, remote, refspec, timeout_s=timeout_s, started=started
        )

    def remove_branch(self, remote: str, branch: str, *, expected: str, timeout_s: float) -> Finished:
        """
        Remove *branch* on *remote*, if it stands at *expected* there. Only for branches that Ferry made.
        """
        lease = f"--force-with-lease=refs/heads/{branch}:{expected}"
        return self._visit(
            remote, "push", "--porcelain", lease, remote, f":refs/heads/{branch}", timeout_s=timeout_s
        )

    def ask(self, remote: str, *, timeout_s: float, branch: str | None = None) -> str | None:
        """
        Ask *remote* where a branch (default: ours) stands now; None where it has none.

        Raises:
            RepositoryError: The remote did not answer.
        """
        ref = f"refs/heads/{branch or self.branch}"
        found = self._visit(remote, "ls-remote", remote, ref, timeout_s=timeout_s)
        if found.exit_status != 0:
            raise RepositoryError(f"{remote} did not say where {branch or self.branch} stands: {_why(found)}")
        return next(
            (line.split()[0] for line in found.stdout.splitlines() if line.endswith(f"\t{ref}")), None
        )

    def fetch(self, remote: str, *, timeout_s: float) -> str | None:
        """
        Fetch the branch from *remote* into its remote-tracking ref; returns where it stands.

        Raises:
            RepositoryError: It could not be fetched.
        """
        refspec = f"+{self.ref}:{self.tracking_ref(remote)}"
        found = self._visit(
            remote, "fetch", "--no-tags", "--no-auto-maintenance", remote, refspec, timeout_s=timeout_s
        )
        if found.exit_status != 0:
            raise RepositoryError(f"cannot fetch {self.branch} from {remote}: {_why(found)}")
        return self.remote_head(remote)

    def loose_objects(self) -> int:
        """
        Return about how many loose objects there are: 256 times those in one of their 256 directories.
        """
        try:
            return 256 * len(os.listdir(self.path / "objects" / "17"))
        except FileNotFoundError:
            return 0

    def packs(self) -> int:
        """
        Return how many packs there are.
        """
        return sum(1 for _ in (self.path / "objects" / "pack").glob("*.pack"))

    def pack_loose_objects(self, *, timeout_s: float) -> dict[str, str]:
        """
        Copy every loose object, reachable or not, into a pack.

        Returns:
            The files that stand in an object's place and are none, by their path in the
            repository, with what is wrong. git would pack nothing on account of one.

        Raises:
            RepositoryError: git could not, or not in time.
        """
        names, damaged = loose(str(self.path))
        with tempfile.TemporaryFile(dir=self.path / STATE_DIRECTORY) as listed:
            listed.write("\n".join(names).encode("ascii"))
            listed.seek(0)
            pack = self.path / "objects" / "pack" / "pack"
            command = (*_ONE_THREAD, "pack-objects", "-q", "--non-empty", str(pack))
            self._query(*command, timeout_s=timeout_s, stdin=cast(BinaryIO, listed))
        return damaged

    def prune_packed(self) -> None:
        """
        Remove the loose objects that are in a pack as well.

        Only under the write lock: git removes emptied directories too, and
        gitsheets fails where one goes that it is about to write into.

        Raises:
            RepositoryError: git could not.
        """
        self._query("prune-packed", "-q")

    def merge_packs(self, *, timeout_s: float) -> None:
        """
        Roll small packs into larger ones, so that each is at least twice the size of the next.

        ``git repack -d`` prunes loose objects too, and refuses to work on precious objects. It is given
        a small git directory that holds a link to the packs and nothing else, and so needs no lock.

        Raises:
            RepositoryError: git could not, or not in time.
            OSError: The disk refused.
        """
        view, shared = self.path / STATE_DIRECTORY / "packs.git", sharing(str(self.path))
        for part in ("objects", "refs"):
            make_directories(str(self.path), view / part)
        # Each time anew: a power cut may have emptied them.
        (view / "HEAD").write_text("ref: refs/heads/none\n")
        options = ("repositoryformatversion = 0", "bare = true", f"sharedRepository = {shared.setting}")
        (view / "config").write_text("\n\t".join(("[core]", *options, "")))
        for name in ("HEAD", "config"):
            share(str(self.path), view / name)
        with contextlib.suppress(FileExistsError):
            # Relative, so that a copy of the repository merges its own.
            (view / "objects" / "pack").symlink_to("../../../objects/pack")
        self._query(
            *_ONE_THREAD, "repack", "-d", "-l", "-q", "--geometric=2",
            timeout_s=timeout_s, environment={"GIT_DIR": str(view)},
        )  # fmt: skip

    def write_commit_graph(self, *, timeout_s: float) -> None:
        """
        Write down the order of the commits, so that a log in that order need not read them all.

        Raises:
            RepositoryError: git could not, or not in time.
        """
        self._query("commit-graph", "write", "--reachable", "--split", "--no-progress", timeout_s=timeout_s)

    def size(self) -> dict[str, int]:
        """
        Count the repository's objects: ``loose_objects``, ``packed_objects``, ``packs`` and ``bytes``.
        """
        counted = dict(line.split(": ") for line in self._query("count-objects", "-v").splitlines())
        return {
            "loose_objects": int(counted["count"]),
            "packed_objects": int(counted["in-pack"]),
            "packs": int(counted["packs"]),
            "bytes": 1024 * (int(counted["size"]) + int(counted["size-pack"])),
        }

    def saw_on_remote(self, remote: str, commit: str) -> None:
        """
        Record that *remote* holds *commit*, where git did not move the remote-tracking ref itself.

        Raises:
            RepositoryError: The ref could not be moved.
        """
        ref = self.tracking_ref(remote)
        seen = self._read(ref)
        if self.contains(commit, seen):
            return
        try:
            move_ref(self.path, ref, new=commit, old=seen)
        except (RefError, OSError) as exc:
            raise RepositoryError(f"cannot move {ref}: {exc}") from exc

    def forget(self, remote: str) -> None:
        """
        Drop what we remember of the branch on *remote*, which has none.

        Raises:
            RepositoryError: git could not.
        """
        self.remove_ref(self.tracking_ref(remote))

    def remove_ref(self, ref: str) -> None:
        """
        Remove *ref*, if there is one, loose or packed.

        Raises:
            RepositoryError: git could not.
        """
        self._query("update-ref", "-d", ref)

    def clear_tracking_lock(self, remote: str) -> None:
        """
        Remove git's lock on the remote-tracking ref, left behind by a push that was killed.

        Only for whoever holds the claim on *remote* and has seen that push's end:
        nobody else of Ferry's moves this ref.
        """
        lock = self.path / f"{self.tracking_ref(remote)}.lock"
        lock.unlink(missing_ok=True)

    def git_version(self) -> str:
        """
        Return what ``git version`` says, such as ``git version 2.39.5``.
        """
        return self._query("version").strip()

    def hang_up(self, *remotes: str) -> None:
        """
        End the ssh connections to *remotes* (default: to all) that are kept for the next push.
        """
        for remote in remotes or self._credentials.remotes:
            if command := self._credentials.hang_up_command(remote):
                self._execute(command, timeout_s=_HANG_UP_TIMEOUT_S)

    def _visit(
        self,
        remote: str,
        *arguments: str,
        timeout_s: float,
        started: Callable[[int], object] = lambda group: None,
    ) -> Finished:
        """
        Run a git command that talks to *remote*.
        """
        found = self._run(
            *arguments,
            timeout_s=timeout_s,
            started=started,
            environment=self._credentials.environment(remote),
        )
        if found.exit_status is None:
            # What it waited for may be a shared connection, which the next one would wait for as well.
            self.hang_up(remote)
        return found

    def _read(self, ref: str) -> str | None:
        try:
            return read_ref(self.path, ref)
        except (RefError, OSError) as exc:
            raise RepositoryError(f"{self.path}: {exc}") from exc

    def _query(
        self,
        *arguments: str,
        timeout_s: float = _QUERY_TIMEOUT_S,
        stdin: BinaryIO | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        found = self._run(*arguments, timeout_s=timeout_s, stdin=stdin, environment=environment)
        return self._answer(found, *arguments)

    def _answer(self, found: Finished, *arguments: str) -> str:
        if found.exit_status is None:
            raise RepositoryError(
                f"git {' '.join(arguments[:3])} took longer than {found.duration_s:.0f} s in {self.path}"
            )
        if found.exit_status != 0:
            raise RepositoryError(
                f"git {' '.join(arguments[:3])} failed in {self.path}: {_last_line(found.stderr)}"
            )
        return found.stdout

    def _run(
        self,
        *arguments: str,
        timeout_s: float,
        started: Callable[[int], object] = lambda group: None,
        stdin: BinaryIO | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Finished:
        return self._execute(
            ["git", *arguments], timeout_s=timeout_s, started=started, stdin=stdin, environment=environment
        )

    def _execute(
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        started: Callable[[int], object] = lambda group: None,
        stdin: BinaryIO | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Finished:
        begun = time.monotonic()
        handle = self._git.execute(
            list(command),
            as_process=True,
            start_new_session=True,
            istream=stdin,
            env={**self._environment, **environment},
        )
        process = handle.proc
        assert process is not None  # noqa: S101 - narrows GitPython's type; it raises where there is none
        started(process.pid)
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
            exit_status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            stdout, stderr = _end_group(process)
            exit_status = None
        except BaseException:
            _end_group(process)
            raise
        return Finished(
            exit_status=exit_status,
            stdout=redact(stdout.decode("utf-8", "replace")),
            stderr=redact(stderr.decode("utf-8", "replace")),
            duration_s=time.monotonic() - begun,
        )


@lru_cache(maxsize=256)
def _are_neighbours(git_dir: str, old: str, new: str) -> bool:
    # Asked several times for each push. Commits say it for ever, but for one that is missing and comes back.
    return bool(lineage(git_dir, old, new, longest=_NEIGHBOURS))


def _is_ancestor(git_dir: str, commit: str, tip: str) -> bool:
    if _are_neighbours(git_dir, tip, commit):
        return False
    return _are_neighbours(git_dir, commit, tip) or bool(gitsheets.is_ancestor(git_dir, commit, tip))


def _commit(values: list[str]) -> Commit:
    name, parents, author, email, authored_at, message, trailers = values
    pairs = (line.partition(": ") for line in trailers.splitlines())
    lines = tuple((key, value) for key, _, value in pairs if value)
    return Commit(
        hash=name,
        parents=tuple(parents.split()),
        author=(author, email),
        authored_at=authored_at,
        message=message.strip("\n"),
        trailers=dict(lines),
        trailer_lines=lines,
    )


def _end_group(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """
    End *process* and every child that stayed in its session; returns what it had said.
    """
    said = b"", b""
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal_group(process.pid, number)
        try:
            said = process.communicate(timeout=_TERM_GRACE_S)
            break
        except subprocess.TimeoutExpired as exc:
            said = exc.output or b"", exc.stderr or b""
    else:
        # Only a child that left the session can still hold the pipes: let them go.
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
    signal_group(process.pid, signal.SIGKILL)  # whoever outlived git without holding a pipe
    return said


def end_group(group: int) -> None:
    """
    End a process group that is not our child: SIGTERM, and SIGKILL if that is not enough.
    """
    signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + _TERM_GRACE_S
    while time.monotonic() < deadline and signal_group(group, 0):
        time.sleep(0.02)
    signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """
    Send a signal to a process group, 0 to send none; returns whether the group still exists.
    """
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def birth(process: int) -> str | None:
    """
    Return when a process started, in the kernel's clock ticks since the boot; None where it has gone.
    """
    # Field 22, counted after the command's name, which may itself hold blanks and parentheses:
    # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _why(found: Finished) -> str:
    """
    Say why a remote did not let us read, and what helps: ssh's last words are the same for every reason.
    """
    verdict = explain(found.exit_status, "", found.stderr)
    reason = cast(Reason, verdict.reason)
    return f"{reason}: {verdict.evidence or 'it said nothing'}. {POLICIES[reason].hint}"


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")
