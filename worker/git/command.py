"""
The one place that decides what git is told: its environment, its configuration, its time.

git takes orders from many mouths: the repository's configuration, the user's and the
machine's, some sixty environment variables, hooks. What an operator rightly decides
there is kept (proxy, certificates, credential helpers, ``insteadOf``, ssh); all that could
change which commit goes where, what is read, or ask somebody a question is set here, in the
command's own scope, which wins over every file. See ``docs/decisions/0011-git-alone-with-our-remote.md``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import BinaryIO

from ferry.worker.errors import RepositoryError
from ferry.worker.git import process
from ferry.worker.git.caches import mend
from ferry.worker.git.process import Finished

Pairs = Iterable[tuple[str, str]]

QUERY_TIMEOUT_S = 30.0  # for git commands that stay on this machine

# Ferry's own, and those of what it is made of: git, ssh, a helper and a hook of a remote on this disk
# have no business with them. Other names pass, because a credential helper reads names of its own.
_NOT_FOR_CHILDREN = ("CFP_", "FERRY_", "SENTRY_", "CELERY_", "FLOWER_", "FLASK_", "GUNICORN_", "OTEL_")
_ASKERS = frozenset({"SSH_ASKPASS", "SSH_ASKPASS_REQUIRE"})
# Of git's own, those that say how a remote is reached, and those that say what git does.
_GIT_NAMES = frozenset({
    "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_PROXY_COMMAND", "GIT_EXEC_PATH", "GIT_CURL_VERBOSE",
    "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM",
})  # fmt: skip
_GIT_PREFIXES = ("GIT_HTTP_", "GIT_SSL_", "GIT_PROXY_SSL_", "GIT_TRACE")
# Those by which another repository is read and written than the one that is named: gitsheets
# knows some of them too (``git rev-parse --local-env-vars``, and the namespace of refs).
_ELSEWHERE = frozenset({
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_DIR",
    "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
})  # fmt: skip

_TOLD = {
    "GIT_TERMINAL_PROMPT": "0",
    # An empty one ends the search for others: core.askPass, SSH_ASKPASS.
    "GIT_ASKPASS": "",
    "SSH_ASKPASS_REQUIRE": "never",
    "GCM_INTERACTIVE": "never",
    "LC_ALL": "C",
    # What is read in this process knows no replaced and no grafted objects, and is pushed as it is.
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",
    # A ref that a power cut emptied is another's affair: with it, git would fetch nothing at all.
    "GIT_REF_PARANOIA": "0",
}

# In git's order of reading the last one wins; where two keys set one thing, both are here.
_CONFIGURATION = (
    ("core.hooksPath", os.devnull),
    ("core.fsync", "all"),
    ("core.fsyncMethod", "fsync"),
    ("core.commentChar", "#"),
    ("advice.graftFileDeprecated", "false"),
    ("credential.interactive", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("submodule.recurse", "false"),
    # Pushing: this commit, to this branch, and nothing with it.
    ("push.followTags", "false"),
    ("push.gpgSign", "false"),
    ("push.recurseSubmodules", "no"),
    ("push.pushOption", ""),
    ("push.negotiate", "false"),
    # Fetching: one branch.
    ("fetch.prune", "false"),
    ("fetch.pruneTags", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("fetch.writeCommitGraph", "false"),
    # What comes is looked at as hosts look at it: a tree with ".git" or ".." in it stays out. Faults of old
    # tools that harm nothing stand in long histories.
    ("transfer.fsckObjects", "true"),
    ("fetch.fsckObjects", "true"),
    ("fetch.fsck.badTimezone", "ignore"),
    ("fetch.fsck.missingSpaceBeforeDate", "ignore"),
    ("fetch.fsck.zeroPaddedFilemode", "ignore"),
    ("fetch.negotiationAlgorithm", "default"),
    ("transfer.bundleURI", "false"),
    # Reading: in the form that is parsed here.
    ("log.showSignature", "false"),
    ("log.follow", "false"),
    ("log.mailmap", "false"),
    ("i18n.logOutputEncoding", "UTF-8"),
    ("trailer.separators", ":"),
    ("color.ui", "false"),
    ("color.push", "false"),
    ("color.transport", "false"),
    ("color.remote", "false"),
    ("pack.packSizeLimit", "0"),
    # Larger ones are packed as they are, so that they can be read piece by piece: see ``blobs``.
    ("core.bigFileThreshold", "1m"),
    # Some packs are merged, and a bitmap needs all objects in one.
    ("pack.writeBitmaps", "false"),
    ("repack.writeBitmaps", "false"),
    # Making a repository: as gitsheets reads it, and without anybody's hooks.
    ("init.templateDir", ""),
    ("init.defaultObjectFormat", "sha1"),
    ("init.defaultRefFormat", "files"),
)


def environment(git_dir: Path, given: Mapping[str, str], configuration: Pairs = ()) -> dict[str, str]:
    """
    Return all the variables that a git command on *git_dir* gets.

    Args:
        given: Those that somebody set, for us or for git.
        configuration: Keys and values beyond those that every command has; the last of a key wins.
    """
    kept = {name: value for name, value in given.items() if _is_kept(name)}
    return {
        **kept,
        **_TOLD,
        # An explicit one also spares git the search for a repository above and the guess at who owns it.
        "GIT_DIR": str(git_dir),
        **_numbered([*_configured(given), *_CONFIGURATION, *configuration]),
    }


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
    Run a git command on the repository *git_dir*; once more, where a damaged derived file made it fail.

    Args:
        given: Variables that somebody set; default: this process's.
        configuration: See ``environment``.
        extra: Variables for this command alone, as they are.
        stdin, stdout: See ``ferry.worker.git.process.run``.
        whole: Whether all that it prints is kept, or the two ends of it.
        started: Called with its process group.
        noted: Called with its process group before it begins.

    Raises:
        RepositoryError: git could not be started.
    """
    env = environment(git_dir, os.environ if given is None else given, configuration)

    def run(timeout_s: float) -> Finished:
        try:
            return process.run(
                ["git", *arguments],
                timeout_s=timeout_s,
                env={**env, **(extra or {})},
                directory=git_dir,
                stdin=stdin,
                stdout=stdout,
                whole=whole,
                started=started,
                noted=noted,
            )
        except OSError as exc:  # not installed, no memory, no more processes or files
            raise RepositoryError(f"git cannot be started: {exc}") from exc

    found = run(timeout_s)
    left_s = timeout_s - found.duration_s
    if not _is_fatal(found) or left_s <= 0 or not mend(git_dir):
        return found
    for file in (stdin, stdout):
        if file is not None:
            file.seek(0)
    if stdout is not None:
        stdout.truncate()
    return run(left_s)


def stay_here(environ: MutableMapping[str, str]) -> list[str]:
    """
    Remove the variables by which git, and gitsheets in this process, open another repository, or none.

    Returns:
        The names of those that were set.
    """
    found = sorted(_ELSEWHERE.intersection(environ))
    for name in found:
        del environ[name]
    whole = str(sum(1 for _ in _configured(environ)))
    if environ.get("GIT_CONFIG_COUNT", whole) != whole:  # gitsheets opens no repository with such a one
        environ["GIT_CONFIG_COUNT"] = whole
        found.append("GIT_CONFIG_COUNT")
    return found


def _is_fatal(found: Finished) -> bool:
    """
    Whether git itself gave up, or was ended by a signal: a damaged commit-graph ends some commands so.
    """
    status = found.exit_status
    return status is not None and (not 0 <= status < 128 or "fatal:" in found.stderr)


def _is_kept(name: str) -> bool:
    if name.startswith("GIT_"):
        return name in _GIT_NAMES or name.startswith(_GIT_PREFIXES)
    return not name.startswith(_NOT_FOR_CHILDREN) and name not in _ASKERS


def _configured(given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """
    Read what the operator configures by GIT_CONFIG_COUNT, as far as it is whole: git refuses anything else.
    """
    count = given.get("GIT_CONFIG_COUNT", "")
    number = 0
    while count.isascii() and count.isdigit() and number < int(count):
        key, value = given.get(f"GIT_CONFIG_KEY_{number}"), given.get(f"GIT_CONFIG_VALUE_{number}")
        if key is None or value is None:
            return
        yield key, value
        number += 1


def _numbered(pairs: Pairs) -> dict[str, str]:
    variables: dict[str, str] = {}
    count = 0
    for key, value in pairs:
        variables |= {f"GIT_CONFIG_KEY_{count}": key, f"GIT_CONFIG_VALUE_{count}": value}
        count += 1
    return {**variables, "GIT_CONFIG_COUNT": str(count)}
