"""
Making sure, at the start, that the data repository can be written and pushed.

The API and the worker both call ``prepare`` before they do anything else; it is
safe to run at the same time in any number of processes.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import git

from worker.errors import RepositoryError
from worker.locks import FileLock, LockTimeoutError
from worker.logs import log
from worker.refs import STATE_DIRECTORY
from worker.settings import Settings
from worker.sharing import adopt, make_directories

COMMITTER = ("Ferry", "ferry@localhost")
_LOCAL_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=posix"})
_LOCK_TIMEOUT_S = 30.0
_GIT_TIMEOUT_S = 30
_LOCK_IS_OLD_S = 60.0  # git holds one for milliseconds


def state_directory(repository: Path) -> Path:
    """
    Return where Ferry keeps its locks and the ledger: on the repository's own volume.
    """
    return repository / STATE_DIRECTORY


def write_lock(repository: Path) -> FileLock:
    """
    Return the lock that every writer of the repository holds.
    """
    return FileLock(state_directory(repository) / "write.lock")


def remotes_directory(repository: Path) -> Path:
    """
    Return where the ledger keeps one file and one lock per remote.
    """
    return state_directory(repository) / "remotes"


def prepare(settings: Settings) -> str:
    """
    Check the data repository, point its remotes where the settings say, and return its identity.

    The identity is made once and lives in the repository's configuration: it
    names this repository's queue, so that several share one broker.

    Raises:
        RepositoryError: Naming what is wrong and the remedy.
    """
    path = settings.data_repo_path
    _check(path)
    _report_locks(path)
    state = state_directory(path)
    try:
        make_directories(str(path), remotes_directory(path))
        _check_file_system(state)
        with FileLock(state / "prepare.lock").hold(_LOCK_TIMEOUT_S), git.Repo(path) as repo:
            identity = _configure(repo, settings)
            adopt(str(path), state)
            return identity
    except (OSError, LockTimeoutError, git.GitError) as exc:
        raise RepositoryError(f"cannot prepare {path}: {exc}") from exc


def _check(path: Path) -> None:
    if not path.exists():
        raise RepositoryError(f"CFP_DATA_REPO_PATH: there is no {path}; make it with: ferry init")
    if (path / ".git").exists():
        raise RepositoryError(
            f"CFP_DATA_REPO_PATH: {path} is a working clone, Ferry needs a bare repository; "
            f"make one with: git clone --bare {path} {path}.git"
        )
    if not (path / "HEAD").is_file() or not (path / "objects").is_dir():
        raise RepositoryError(
            f"CFP_DATA_REPO_PATH: {path} is not a git repository, or one that was only half made; "
            f"move away what is there and make one from CFP_DATA_REMOTE with: ferry init"
        )
    for part in (path, path / "objects", path / "refs"):
        if part.is_dir() and not os.access(part, os.R_OK | os.W_OK | os.X_OK):
            raise RepositoryError(
                f"{part} cannot be written by user {os.getuid()}, whom Ferry runs as; "
                f"give it the repository with: chown -R {os.getuid()}:{os.getgid()} {path}"
            )
    if (path / "reftable").exists():
        raise RepositoryError(
            f"{path} keeps its refs as reftable, Ferry reads the files backend; "
            "convert it with: git refs migrate --ref-format=files"
        )
    if (path / "shallow").exists():
        raise RepositoryError(
            f"{path} is a shallow clone, whose commits many servers refuse; "
            f"complete it with: git -C {path} fetch --unshallow"
        )


def _report_locks(path: Path) -> None:
    """
    Log the lock files of git's that look left over; only who made one may say that it is.

    Ferry's own are known by their inode and cleared where they are in the way, see ``worker.refs``.
    """
    for lock, age_s in old_locks(path).items():
        hint = "if no git process runs on this repository, remove that file"
        log().warning("repository.lock_found", path=str(lock), age_seconds=round(age_s), hint=hint)


def old_locks(path: Path) -> dict[Path, float]:
    """
    Return git's lock files in *path* that are older than any live git keeps one, with their age in seconds.
    """
    found = {}
    for lock in (*path.glob("*.lock"), *(path / "refs").rglob("*.lock")):
        with contextlib.suppress(FileNotFoundError):
            age_s = time.time() - lock.stat().st_mtime
            if age_s > _LOCK_IS_OLD_S:
                found[lock] = age_s
    return found


def _check_file_system(state: Path) -> None:
    """
    Refuse a volume on which the locks would not be what they seem.

    Raises:
        RepositoryError: Naming the volume and what it lacks.
    """
    mount = _mount_of(state)
    # https://man7.org/linux/man-pages/man5/nfs.5.html
    if mount and mount.kind.startswith("nfs") and _LOCAL_LOCKS.intersection(mount.options):
        raise RepositoryError(
            f"{mount.point} is mounted with locks that no other host sees ({', '.join(mount.options)}); "
            "mount it by NFS version 4, without nolock and local_lock"
        )
    probe = state / f"probe.{uuid.uuid4().hex}"
    linked = state / f"{probe.name}.linked"
    try:
        probe.touch()
        os.link(probe, linked)
    except OSError as exc:
        raise RepositoryError(
            f"{state} needs a file system with hard links that we may write to: {exc}"
        ) from exc
    finally:
        probe.unlink(missing_ok=True)
        linked.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    point: str
    kind: str
    options: frozenset[str]


def _mount_of(path: Path) -> _Mount | None:
    """
    Return the mount that *path* is on (https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    found = None
    for line in lines:
        before, _, after = line.partition(" - ")
        point, (kind, _, options) = before.split()[4], after.split(" ", 2)
        covers = path.resolve().is_relative_to(point.replace("\\040", " "))
        if covers and (found is None or len(point) >= len(found.point)):
            found = _Mount(point=point, kind=kind, options=frozenset(options.split(",")))
    return found


def _configure(repo: git.Repo, settings: Settings) -> str:
    config = repo.config_reader("repository")
    if not config.get_value("core", "bare", default=False):
        raise RepositoryError(
            f"CFP_DATA_REPO_PATH: {repo.git_dir} is not bare; set it with: git config core.bare true"
        )
    if (kind := config.get_value("extensions", "objectformat", default="sha1")) != "sha1":
        raise RepositoryError(
            f"CFP_DATA_REPO_PATH: {repo.git_dir} names its objects by {kind}, and gitsheets knows sha1 only; "
            "make it anew with: git init --bare --object-format=sha1"
        )
    identity = config.get("ferry", "id", fallback="") or uuid.uuid4().hex[:12]
    wanted = {("ferry", "id"): identity, **_kept_whole(config)}
    # For the commits that git itself makes here, by an operator's hand; records have authors of their own.
    for option, value in (("name", COMMITTER[0]), ("email", COMMITTER[1])):
        if not config.get("user", option, fallback=""):
            wanted["user", option] = value
    for name, url in settings.remotes.items():
        section = f'remote "{name}"'
        if config.get_value(section, "mirror", default=False):
            raise RepositoryError(
                f"the remote {name} of {repo.git_dir} is a mirror, which pushes and deletes every ref; "
                f"stop that with: git config --unset remote.{name}.mirror"
            )
        wanted[section, "url"] = url
        # `git clone --bare` sets none, and without one no remote-tracking ref ever moves.
        wanted[section, "fetch"] = f"+refs/heads/*:refs/remotes/{name}/*"
    missing = {key: value for key, value in wanted.items() if config.get(*key, fallback="") != value}
    if missing:
        # In this process: a URL with a token on a command line would show in `ps`.
        moved = [
            name
            for name in settings.remotes
            if (f'remote "{name}"', "url") in missing and config.has_option(f'remote "{name}"', "url")
        ]
        with repo.config_writer("repository") as writer:
            for (section, option), value in missing.items():
                writer.set_value(section, option, value)
        for name in moved:
            # What was seen at the old address says nothing of the new one.
            repo.git.update_ref(
                "-d", f"refs/remotes/{name}/{settings.data_branch}", kill_after_timeout=_GIT_TIMEOUT_S
            )
        # A remote's URL may hold a token.
        config_file = Path(repo.git_dir) / "config"
        config_file.chmod(config_file.stat().st_mode & 0o770)
    return identity


def _kept_whole(config: git.GitConfigParser) -> dict[tuple[str, str], str]:
    """
    Return what keeps other people's git commands from taking objects or refs that Ferry has acknowledged.

    ``git gc`` and ``git prune`` remove what no ref named when they looked, and so what was
    committed since. In a repository of precious objects they remove nothing.
    """
    wanted = {("extensions", "preciousObjects"): "true"}
    if not config.get("core", "fsync", fallback=""):
        wanted["core", "fsync"] = "reference"  # `git pack-refs` removes what it does not flush otherwise
    extensions = config.options("extensions") if config.has_section("extensions") else []
    if {option.lower() for option in extensions} <= {"preciousobjects"}:
        # So that a git too old to know of them refuses. In format 0 git passes over an extension that
        # it does not know, and in format 1 it would not: then the repository stays as it is.
        wanted["core", "repositoryformatversion"] = "1"
    return wanted
