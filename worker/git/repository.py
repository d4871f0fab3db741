"""
The data repository as the push pipeline sees it.

What can be read from files is read in this process; for everything else git is
started, see ``ferry.worker.git.command``. A remote is given to git under a name made up
for one command, which no configuration of any scope knows, and where the branch
stands there is remembered by Ferry itself, see ``ferry.worker.git.tracking``.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

import gitsheets

from ferry.worker.errors import RepositoryError
from ferry.worker.failures import POLICIES, Reason, Verdict, explain
from ferry.worker.files.sharing import make_directories, share, sharing
from ferry.worker.git import commit_graph, process
from ferry.worker.git.backlog import Backlog, Backlogs
from ferry.worker.git.command import QUERY_TIMEOUT_S, run_git
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.objects import is_commit, lineage, loose
from ferry.worker.git.process import Finished
from ferry.worker.git.refs import STATE_DIRECTORY, RefError, read_ref
from ferry.worker.git.tracking import Tracking
from ferry.worker.settings import Settings

_OBJECT_NAME = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_CHANGED = re.compile(r":([0-7]+) ([0-7]+) ([0-9a-f]{40}) ([0-9a-f]{40}) [A-Z][0-9]*")
_BATCHED = re.compile(rb"([0-9a-f]+) (?:missing|[a-z]+ ([0-9]+))\n")
# The writers and the pushes have the other cores.
_ONE_THREAD = ("-c", "pack.threads=1")
_A_FEW_COMMITS = 100  # read in this process; git takes 3 ms for any number
_NEIGHBOURS = 100  # a burst
_LARGE_INDEX_BYTES = 256 * 1024  # of some 9,000 objects
_WALK_TIMEOUT_S = 300.0  # for those that read a whole history
_HANG_UP_TIMEOUT_S = 5.0
# Where git leaves what it fetches: under no name that configuration or people know.
_FETCHED = "refs/ferry/fetched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed(Finished):
    """
    What a ``git push`` came to.

    Attributes:
        ref: Full name of the ref that it was to move.
    """

    ref: str

    def verdict(self) -> Verdict:
        """
        Say what came of it; nothing counts as pushed that does not name our ref.
        """
        return explain(self.exit_status, self.stdout, self.stderr, ref=self.ref)


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
        expressions: Whether sheets may be used whose declarations hold code.
    """

    def __init__(
        self,
        path: Path,
        *,
        branch: str,
        credentials: Credentials | None = None,
        name: str = "",
        root: str = ".",
        expressions: bool = True,
    ) -> None:
        self.path = path
        self.root = root
        self.expressions = expressions
        self.name = name
        self.branch = branch
        self.ref = f"refs/heads/{branch}"
        self._credentials = credentials or Credentials(remotes={}, environ=os.environ)
        self._tracking = Tracking(path, branch)
        self._backlogs = Backlogs(self)

    @classmethod
    def of(cls, settings: Settings, credentials: Credentials, name: str = "") -> Repository:
        """
        Return the repository that *settings* name.
        """
        return cls(
            settings.data_repo_path,
            branch=settings.data_branch,
            credentials=credentials,
            name=name,
            root=settings.data_root,
            expressions=settings.data_expressions,
        )

    def head(self) -> str | None:
        """
        Return the branch's commit, or None while it has none.

        Raises:
            RepositoryError: The ref is damaged.
        """
        try:
            return read_ref(self.path, self.ref)
        except (RefError, OSError) as exc:
            raise RepositoryError(f"{self.path}: {exc}") from exc

    def remote_head(self, remote: str) -> str | None:
        """
        Return where we last saw the branch on *remote* (its remote-tracking ref); None: not known.

        Raises:
            RepositoryError: It cannot be read at the moment.
        """
        return self._tracking.read(remote)

    def tracking_ref(self, remote: str) -> str:
        """
        Return the full name of the remote-tracking ref of the branch on *remote*.
        """
        return self._tracking.ref(remote)

    def contains(self, commit: str, tip: str | None) -> bool:
        """
        Whether *commit* is *tip* or one of its ancestors; False if either is unknown here.

        Clients name commits, too: what is no full object name reaches neither a path nor git's options.
        """
        if tip is None or commit == tip:
            return commit == tip
        if not _OBJECT_NAME.fullmatch(commit):
            return False
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

    def backlog(self, remote: str) -> Backlog:
        """
        Return what *remote* was last seen to lack.

        Raises:
            RepositoryError: git could not tell.
        """
        return self._backlogs.of(remote, self.head(), self.remote_head(remote))

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
        limit: int = -1,
        skip: int = 0,
        without: str | Sequence[str] | None = None,
        file: str | None = None,
        children_first: bool = False,
        saying: str | None = None,
    ) -> list[Commit]:
        """
        Return commits that are in *tip*, newest first by their committers' clocks.

        Args:
            tip: Full object name of a commit.
            limit: How many to return at most; default: all.
            skip: How many to leave out first.
            without: Leave out what this commit contains, or any of these.
            file: Only commits that change the file at this path of the tree.
            children_first: Whether no commit may stand before one of its children, whatever clocks said.
            saying: Only commits with this text in one line of their message.
        """
        left_out = [without] if isinstance(without, str) else without or ()
        said = ["--fixed-strings", f"--grep={saying}"] if saying else []
        text = self._query(
            "log", "-z", f"--format={_LOG_FORMAT}", f"--skip={skip}", f"--max-count={limit}", *said,
            *(["--date-order"] if children_first else []), tip, *(f"^{name}" for name in left_out),
            "--", *([f":(literal){file}"] if file else []),  # with `top`, git reads no changed paths
            gives_way=True,
        )  # fmt: skip
        values = text.split("\0")[: -1 if text.endswith("\0") else None]
        width = _LOG_FORMAT.count("%x00") + 1
        return [_commit(values[start : start + width]) for start in range(0, len(values) - width + 1, width)]

    def count_between(self, old: str | None, new: str) -> int:
        """
        Count the commits that are in *new* and not in *old*, if there is one.

        Raises:
            RepositoryError: One of them is not known here.
        """
        return int(self._query("rev-list", "--count", new, *([f"^{old}"] if old else []), "--"))

    def root_of(self, tip: str) -> str:
        """
        Return the commit without parents that *tip* began with; of several, the oldest.

        Raises:
            RepositoryError: git could not tell.
        """
        return self._query("rev-list", "--max-parents=0", tip, "--").split()[-1]

    def bytes_between(self, old: str | None, new: str) -> int:
        """
        Return about how many bytes a push of *new* sends to a remote that holds *old*.

        Raises:
            RepositoryError: git could not tell.
        """
        known = [f"^{old}"] if old else []
        asked = ("rev-list", "--objects", "--disk-usage", new, *known, "--")
        return int(self._query(*asked, timeout_s=_WALK_TIMEOUT_S))

    def merge_base(self, one: str, other: str) -> str | None:
        """
        Return the best commit that is in both, or None where they share no history.

        Raises:
            RepositoryError: One of them is not known here.
        """
        found = self._run("merge-base", one, other, timeout_s=QUERY_TIMEOUT_S)
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

    def changes_of(
        self, commits: Sequence[Commit], file: str
    ) -> dict[str, tuple[tuple[str, str], tuple[str, str]]]:
        """
        Return mode and full object name of the file at a path before and after commits, by their names.

        Before is at their first parent. A mode of zeros says that there is no file. Commits that change
        nothing are left out.

        Raises:
            RepositoryError: git could not tell.
        """
        lines = "".join(f"{' '.join((commit.hash, *commit.parents[:1]))}\n" for commit in commits)
        with open(os.memfd_create("commits"), "w+b") as wanted:
            wanted.write(lines.encode())
            wanted.seek(0)
            said = self._query(
                "diff-tree", "--stdin", "--root", "-r", "-z", "--raw", "--no-abbrev", "--no-renames", "--",
                f":(literal){file}", timeout_s=_WALK_TIMEOUT_S, stdin=cast(BinaryIO, wanted), gives_way=True,
            )  # fmt: skip
        found, commit = {}, ""
        for part in said.split("\0"):
            if _OBJECT_NAME.fullmatch(part):
                commit = part
            elif changed := _CHANGED.fullmatch(part):
                found[commit] = (changed[1], changed[3]), (changed[2], changed[4])
        return found

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """
        Return how many bytes each object in *names* has; those that git cannot find are left out.

        Raises:
            RepositoryError: git could not be started.
        """
        answer = self._batch("--batch-check", names).splitlines()
        return {parts[0].decode(): int(parts[2]) for line in answer if len(parts := line.split()) == 3}

    def contents(self, names: Sequence[str]) -> dict[str, bytes]:
        """
        Return the content of each object in *names*, by full names; those that git cannot read are left out.

        Raises:
            RepositoryError: git could not be started.
        """
        answer = self._batch("--batch", names)
        found, at = {}, 0
        while header := _BATCHED.match(answer, at):  # ends where git met a damaged object
            at = header.end() + int(header[2]) + 1 if header[2] else header.end()
            if header[2] and at <= len(answer):
                found[header[1].decode()] = answer[header.end() : at - 1]
        return found

    def _batch(self, option: str, names: Sequence[str]) -> bytes:
        # In memory: a list can be read while no disk takes a byte.
        with (
            open(os.memfd_create("names"), "w+b") as wanted,
            open(os.memfd_create("said"), "w+b") as answered,
        ):
            wanted.write("".join(f"{name}\n" for name in names).encode())
            wanted.seek(0)
            self._run(
                "cat-file", option, timeout_s=_WALK_TIMEOUT_S,
                stdin=cast(BinaryIO, wanted), stdout=cast(BinaryIO, answered),
            )  # fmt: skip
            answered.seek(0)
            return answered.read()

    def is_whole(self, commit: str, *, known: str | None = None) -> bool | None:
        """
        Whether every object of *commit* and of all before it is here; None: five minutes do not tell.

        Args:
            known: A commit of which that is known.
        """
        left_out = [f"^{known}"] if known and self.contains(known, commit) else []
        found = self._run(
            "rev-list", "--objects", "--quiet", commit, *left_out, "--", timeout_s=_WALK_TIMEOUT_S
        )
        return None if found.exit_status is None else found.exit_status == 0

    def push(
        self,
        remote: str,
        commit: str,
        *,
        timeout_s: float,
        branch: str | None = None,
        dry_run: bool = False,
        started: Callable[[int], object] = lambda group: None,
        noted: Callable[[int], object] | None = None,
    ) -> Pushed:
        """
        Push *commit* to a branch on *remote*, by fast-forward only.

        Args:
            commit: A full object name. An empty one would make git delete the
                branch, so it is resolved and checked here.
            timeout_s: Seconds until the push and all its children are ended.
            branch: Short name of the branch there; default: the same as here.
            dry_run: Do everything but send and move something. No hook is asked.
            started: Called with the process group as soon as it exists.
            noted: Called with the process group before git begins in it: a caller that is killed
                before it has noted the group leaves no git behind.

        Raises:
            RepositoryError: *commit* is not a commit of this repository; git cannot be started; or the
                push landed and could not be remembered.
        """
        self._check_commit(commit)
        ref, url = f"refs/heads/{branch or self.branch}", self._url(remote)
        options = ["--dry-run"] if dry_run else []
        found = self._visit(
            remote, url, "push", "--porcelain", *options, refspec=f"{commit}:{ref}",
            timeout_s=timeout_s, started=started, noted=noted,
        )  # fmt: skip
        pushed = Pushed(**asdict(found), ref=ref)
        if ref == self.ref and not dry_run and pushed.verdict().landed:
            self._remember(remote, commit, url)
        return pushed

    def remove_branch(self, remote: str, branch: str, *, expected: str, timeout_s: float) -> Pushed:
        """
        Remove *branch* on *remote*, if it stands at *expected* there. Only for branches that Ferry made.
        """
        ref, url = f"refs/heads/{branch}", self._url(remote)
        lease = f"--force-with-lease={ref}:{expected}"
        found = self._visit(remote, url, "push", "--porcelain", lease, refspec=f":{ref}", timeout_s=timeout_s)
        return Pushed(**asdict(found), ref=ref)

    def ask(self, remote: str, *, timeout_s: float, branch: str | None = None) -> str | None:
        """
        Ask *remote* where a branch (default: ours) stands now; None where it has none.

        Raises:
            RepositoryError: The remote did not answer.
        """
        ref = f"refs/heads/{branch or self.branch}"
        found = self._visit(remote, self._url(remote), "ls-remote", refspec=ref, timeout_s=timeout_s)
        if found.exit_status != 0:
            raise RepositoryError(f"{remote} did not say where {branch or self.branch} stands: {_why(found)}")
        return next(
            (line.split()[0] for line in found.stdout.splitlines() if line.endswith(f"\t{ref}")), None
        )

    def fetch(self, remote: str, *, timeout_s: float) -> str | None:
        """
        Fetch the branch from *remote*, and remember where it stands; returns that.

        For the holder of the claim on *remote*.

        Raises:
            RepositoryError: It could not be fetched.
        """
        url, ref = self._url(remote), f"{_FETCHED}/{remote}"
        place = self.path / ref
        try:
            for left_over in (place, Path(f"{place}.lock")):  # git would follow a symbolic ref
                if left_over.is_dir() and not left_over.is_symlink():
                    shutil.rmtree(left_over)
                left_over.unlink(missing_ok=True)
            self._tracking.clear(remote, *self._credentials.remotes)
            found = self._visit(
                remote, url, "fetch", "--no-tags", "--refmap=", "--no-write-fetch-head",
                refspec=f"+{self.ref}:{ref}", timeout_s=timeout_s,
            )  # fmt: skip
            if found.exit_status != 0:
                raise RepositoryError(f"cannot fetch {self.branch} from {remote}: {_why(found)}")
            tip = read_ref(self.path, ref)
            if tip is not None:
                self._tracking.write(remote, tip, url=url)
        except (RefError, OSError) as exc:
            raise RepositoryError(f"cannot fetch {self.branch} from {remote}: {exc}") from exc
        finally:
            with contextlib.suppress(OSError):
                place.unlink(missing_ok=True)
        return tip

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
            self._query(*command, timeout_s=timeout_s, stdin=cast(BinaryIO, listed), gives_way=True)
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
            timeout_s=timeout_s, environment={"GIT_DIR": str(view)}, gives_way=True,
        )  # fmt: skip

    def write_commit_graph(self, *, timeout_s: float) -> None:
        """
        Write down the order of the commits, and the paths that each changed, for logs to read.

        Raises:
            RepositoryError: git could not, or not in time.
        """
        # What an earlier release wrote has no paths, and would stay.
        split = "--split" if commit_graph.has_paths(self.path) else "--split=replace"
        command = ("commit-graph", "write", "--reachable", "--changed-paths", split, "--no-progress")
        self._query(*command, timeout_s=timeout_s, gives_way=True)

    def lacks_commit_graph(self) -> bool:
        """
        Whether a log would be slow for want of what ``write_commit_graph`` writes.
        """
        indexes = (self.path / "objects" / "pack").glob("*.idx")
        is_large = sum(index.stat().st_size for index in indexes) > _LARGE_INDEX_BYTES
        return is_large and not commit_graph.has_paths(self.path)

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
        Record that *remote* holds *commit*.

        Raises:
            RepositoryError: The ref could not be moved.
        """
        self._remember(remote, commit, self._url(remote))

    def forget(self, remote: str) -> None:
        """
        Drop what we remember of the branch on *remote*, which has none.

        Raises:
            RepositoryError: git could not.
        """
        self._tracking.forget(remote)

    def remove_ref(self, ref: str) -> None:
        """
        Remove *ref*, if there is one, loose or packed.

        Raises:
            RepositoryError: git could not.
        """
        self._query("update-ref", "--no-deref", "-d", ref)

    def is_current(self, remote: str) -> bool:
        """
        Whether *remote* is still where this process was told that it is: another may have started with
        another CFP_DATA_REMOTE since.
        """
        url = self._credentials.remotes.get(remote)
        return url is None or self._tracking.is_at(remote, url)

    def git_version(self) -> str:
        """
        Return what ``git version`` says, such as ``git version 2.39.5``.
        """
        return self._query("version").strip()

    def ssh_programs(self) -> dict[str, list[str]]:
        """
        Return the programs by which git reaches remotes over ssh, each with those remotes.
        """
        found: dict[str, list[str]] = {}
        for remote, url in self._credentials.remotes.items():
            configured = self._configured(remote, url).get("core.sshcommand", "")
            if program := self._credentials.ssh_program(remote, configured):
                found.setdefault(program, []).append(remote)
        return found

    def hang_up(self, *remotes: str) -> None:
        """
        End the ssh connections to *remotes* (default: to all) that are kept for the next push.
        """
        for remote in remotes or self._credentials.remotes:
            if command := self._credentials.hang_up_command(remote):
                with contextlib.suppress(OSError):  # no ssh, no memory: then it ends by itself
                    process.run(command, timeout_s=_HANG_UP_TIMEOUT_S, env=os.environ, directory=self.path)

    def _visit(
        self,
        remote: str,
        url: str,
        *command: str,
        refspec: str,
        timeout_s: float,
        started: Callable[[int], object] = lambda group: None,
        noted: Callable[[int], object] | None = None,
    ) -> Finished:
        """
        Run a git command that talks to *remote*, which is at *url*.
        """
        configured = self._configured(remote, url)
        # Made up for this command: nothing that is configured for a remote of any other name applies.
        name = f"ferry-{secrets.token_hex(8)}"
        found = run_git(
            self.path,
            *command,
            name,
            refspec,
            timeout_s=timeout_s,
            given=self._given(),
            configuration=[
                (f"remote.{name}.url", url),
                # A pushurl of its own keeps `pushInsteadOf` away; `insteadOf` applies to both.
                (f"remote.{name}.pushurl", url),
                (f"remote.{name}.tagOpt", "--no-tags"),
                (f"remote.{name}.followRemoteHEAD", "never"),
                *(
                    (f"remote.{name}.{option}", configured[key])
                    for option in ("proxy", "proxyAuthMethod")
                    if (key := f"remote.{remote}.{option}".lower()) in configured
                ),
                # It was named on purpose; git's own default forbids it to submodules alone.
                *([("protocol.file.allow", "always")] if url.startswith(("/", "file:")) else []),
                *self._credentials.configuration(remote),
            ],
            extra=self._credentials.environment(remote, ssh_is_configured="core.sshcommand" in configured),
            whole=False,
            started=started,
            noted=noted,
        )
        if found.exit_status is None:
            # What it waited for may be a shared connection, which the next one would wait for as well.
            self.hang_up(remote)
        return found

    def _configured(self, remote: str, url: str) -> Mapping[str, str]:
        """
        Return what is configured for the way to *remote* under a name that git is not given, by key.
        """
        if url.startswith(("/", "file:")):
            return {}
        keys = rf"^(core\.sshcommand|remote\.{re.escape(remote)}\.proxy(authmethod)?)$"
        found = self._run("config", "-z", "--get-regexp", keys)
        if found.exit_status not in (0, 1):  # 1: none of them is
            self._answer(found, "config")
        pairs = (entry.partition("\n") for entry in found.stdout.split("\0") if entry)
        return {key.lower(): value for key, _, value in pairs}

    def _url(self, remote: str) -> str:
        """
        Return where *remote* is: as the settings say, or as the repository's own configuration does without.

        Raises:
            RepositoryError: There is no such remote.
        """
        if url := self._credentials.remotes.get(remote):
            return url
        return self._query("config", "--local", "--get", f"remote.{remote}.url").strip()

    def _given(self) -> dict[str, str]:
        return {**os.environ, **self._credentials.environ}

    def _remember(self, remote: str, commit: str, url: str) -> None:
        if not self.contains(commit, self.remote_head(remote)):
            self._tracking.write(remote, commit, url=url)

    def _check_commit(self, name: str) -> None:
        try:
            if _OBJECT_NAME.fullmatch(name) and is_commit(str(self.path), name):
                return
        except (gitsheets.GitsheetsError, OSError) as exc:
            raise RepositoryError(f"cannot read the commit {name} of {self.path}: {exc}") from exc
        raise RepositoryError(f"{name!r} is not a commit of {self.path}")

    def _query(
        self,
        *arguments: str,
        timeout_s: float = QUERY_TIMEOUT_S,
        stdin: BinaryIO | None = None,
        environment: Mapping[str, str] | None = None,
        gives_way: bool = False,
    ) -> str:
        found = self._run(
            *arguments, timeout_s=timeout_s, stdin=stdin, environment=environment, gives_way=gives_way
        )
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
        timeout_s: float = QUERY_TIMEOUT_S,
        stdin: BinaryIO | None = None,
        stdout: BinaryIO | None = None,
        environment: Mapping[str, str] | None = None,
        gives_way: bool = False,
    ) -> Finished:
        return run_git(
            self.path, *arguments, timeout_s=timeout_s, given=self._given(), stdin=stdin, stdout=stdout,
            extra=environment, started=process.give_way if gives_way else lambda group: None,
        )  # fmt: skip


@lru_cache(maxsize=256)
def _are_neighbours(git_dir: str, old: str, new: str) -> bool:
    # Asked several times for each push. Commits say it for ever, but for one that is missing and comes back.
    return bool(lineage(git_dir, old, new, longest=_NEIGHBOURS, packed=False))


def _is_ancestor(git_dir: str, commit: str, tip: str) -> bool:
    if _are_neighbours(git_dir, tip, commit):
        return False
    # gitsheets would hold the interpreter for the whole walk, and be mistaken among clocks that differ.
    return _are_neighbours(git_dir, commit, tip) or _is_ancestor_by_git(git_dir, commit, tip)


@lru_cache(maxsize=4096)
def _is_ancestor_by_git(git_dir: str, commit: str, tip: str) -> bool:
    found = run_git(Path(git_dir), "merge-base", "--is-ancestor", commit, tip)
    if found.exit_status not in (0, 1):
        raise gitsheets.GitsheetsError(f"git cannot compare {commit} with {tip}: {found.stderr.strip()}")
    return found.exit_status == 0


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


def ended_within_s(timeout_s: float) -> float:
    """
    Return the seconds after which a visit to a remote with that timeout has ended at the latest.
    """
    return timeout_s + process.ENDING_S + _HANG_UP_TIMEOUT_S + process.ENDING_S


def _why(found: Finished) -> str:
    """
    Say why a remote did not let us read, and what helps: ssh's last words are the same for every reason.
    """
    verdict = explain(found.exit_status, "", found.stderr)
    reason = cast(Reason, verdict.reason)
    return f"{reason}: {verdict.evidence or 'it said nothing'}. {POLICIES[reason].hint}"


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")
