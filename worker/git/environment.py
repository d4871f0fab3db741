"""
What git is told: the environment and the configuration of every git command.

git reads the configuration of the repository, the user and the machine, some sixty environment
variables, and hooks. What the operator rightly decides there is kept: proxy, certificates,
credential helpers, ``insteadOf``, ssh. Whatever could change which commit goes where or what is
read, or could prompt for input, is set here in the command's own scope, which wins over every
file. See ``docs/decisions/0011-git-alone-with-our-remote.md``; ``command`` runs git with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path

Pairs = Iterable[tuple[str, str]]

# Ferry's own and those of its libraries. git, ssh, a credential helper, and a hook of a remote on this disk
# do not get them. Other names pass, because a credential helper reads names of its own.
_NOT_FOR_CHILDREN = ("CFP_", "FERRY_", "SENTRY_", "CELERY_", "FLOWER_", "FLASK_", "GUNICORN_", "OTEL_")
_ASKERS = frozenset({"SSH_ASKPASS", "SSH_ASKPASS_REQUIRE"})
# Of git's own, those that say how a remote is reached, and those that say what git does.
_GIT_NAMES = frozenset({
    "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_PROXY_COMMAND", "GIT_EXEC_PATH", "GIT_CURL_VERBOSE",
    "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM",
})  # fmt: skip
_GIT_PREFIXES = ("GIT_HTTP_", "GIT_SSL_", "GIT_PROXY_SSL_", "GIT_TRACE")
# Those that make git read and write another repository than the one in GIT_DIR; gitsheets
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
    # Objects are read in this process, and pushed, without replacements and grafts.
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",
    # One ref that a power cut emptied would make git refuse every fetch.
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
    # Fetched objects are checked as hosts check them: a tree with ".git" or ".." in it is refused. Harmless
    # faults of old tools are not: long histories contain them.
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
    # Making a repository: in the format that gitsheets reads, without hooks.
    ("init.templateDir", ""),
    ("init.defaultObjectFormat", "sha1"),
    ("init.defaultRefFormat", "files"),
)


def environment(git_dir: Path, given: Mapping[str, str], configuration: Pairs = ()) -> dict[str, str]:
    """
    Return all the variables that a git command on *git_dir* gets.

    Args:
        given: Variables that were set from outside, for Ferry or for git.
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


def stay_here(environ: MutableMapping[str, str]) -> list[str]:
    """
    Remove the variables that make git, or gitsheets in this process, open another repository or none.

    Returns:
        The names of those that were set.
    """
    found = sorted(_ELSEWHERE.intersection(environ))
    for name in found:
        del environ[name]
    whole = str(sum(1 for _ in _configured(environ)))
    if environ.get("GIT_CONFIG_COUNT", whole) != whole:  # gitsheets opens no repository then
        environ["GIT_CONFIG_COUNT"] = whole
        found.append("GIT_CONFIG_COUNT")
    return found


def _is_kept(name: str) -> bool:
    if name.startswith("GIT_"):
        return name in _GIT_NAMES or name.startswith(_GIT_PREFIXES)
    return not name.startswith(_NOT_FOR_CHILDREN) and name not in _ASKERS


def _configured(given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """
    Yield what GIT_CONFIG_COUNT configures, up to the first pair that is incomplete: git refuses the rest.
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
