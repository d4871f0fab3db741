"""
The environment and the configuration of every git command.

git reads the configuration of the repository, the user and the machine, some sixty environment
variables, and hooks. Ferry keeps what the operator decides there: proxy, certificates, credential helpers,
``insteadOf``, ssh. Ferry sets whatever could change which commit goes where or what is read, or could prompt
for input, in the command's own scope, which overrides every file. See
``docs/decisions/0011-git-alone-with-our-remote.md``; ``command`` runs git with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path

from ferry.worker.observe.logs import log

Pairs = Iterable[tuple[str, str]]

# Variables of Ferry and its libraries. They are kept from git, ssh, credential helpers, and hooks of a remote
# on this disk. All other variables are passed, because a credential helper may read any of them.
_NOT_FOR_CHILDREN = ("CFP_", "FERRY_", "SENTRY_", "CELERY_", "FLOWER_", "FLASK_", "GUNICORN_", "OTEL_")
_ASKERS = frozenset({"SSH_ASKPASS", "SSH_ASKPASS_REQUIRE"})
# Of git's own variables: those that say how a remote is reached, and those that change what git does.
_GIT_NAMES = frozenset({
    "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_PROXY_COMMAND", "GIT_EXEC_PATH", "GIT_CURL_VERBOSE",
    "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM",
})  # fmt: skip
_GIT_PREFIXES = ("GIT_HTTP_", "GIT_SSL_", "GIT_PROXY_SSL_", "GIT_TRACE")
# Those that make git use another repository than the one in GIT_DIR; gitsheets reads some of them too (``git
# rev-parse --local-env-vars``, and the namespace of refs).
_ELSEWHERE = frozenset({
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_DIR",
    "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
})  # fmt: skip

_TOLD = {
    "GIT_TERMINAL_PROMPT": "0",
    # An empty value ends git's search for others: core.askPass, SSH_ASKPASS.
    "GIT_ASKPASS": "",
    "SSH_ASKPASS_REQUIRE": "never",
    "GCM_INTERACTIVE": "never",
    "LC_ALL": "C",
    # Ferry reads and pushes objects without replacements and grafts, and so must git.
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",
    # Otherwise one ref that a power cut emptied makes git refuse every fetch.
    "GIT_REF_PARANOIA": "0",
}

# git's last value of a key wins. If two keys set the same thing, both are here.
CONFIGURATION = (
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
    # Larger blobs are packed undeltified, so that they can be read piece by piece: see ``blobs``.
    ("core.bigFileThreshold", "1m"),
    # Only some packs are merged, and a bitmap needs all objects in one pack.
    ("pack.writeBitmaps", "false"),
    ("repack.writeBitmaps", "false"),
    # Making a repository: in the format that gitsheets reads, without hooks.
    ("init.templateDir", ""),
    ("init.defaultObjectFormat", "sha1"),
    ("init.defaultRefFormat", "files"),
)


def environment(git_dir: Path, given: Mapping[str, str], configuration: Pairs = ()) -> dict[str, str]:
    """
    Return the complete environment of a git command on *git_dir*.

    Args:
        given: Variables that were set from outside, for Ferry or for git.
        configuration: Keys and values beside those of every command; a key's last value wins.
    """
    kept = {name: value for name, value in given.items() if _is_kept(name)}
    return {
        **kept,
        **_TOLD,
        # An explicit GIT_DIR also spares git the search for a repository and the check of its owner.
        "GIT_DIR": str(git_dir),
        **_numbered([*_configured(given), *CONFIGURATION, *configuration]),
    }


def neighbours_environment(given: Mapping[str, str]) -> dict[str, str]:
    """
    Return the environment in which ``git push`` starts ssh, or the remote's git on this machine: git's own,
    without what names our repository and its configuration.
    """
    whole = {name: value for name, value in given.items() if _is_kept(name)} | _TOLD
    return {name: value for name, value in whole.items() if name not in _ELSEWHERE}


def stay_here(environ: MutableMapping[str, str]) -> list[str]:
    """
    Remove the variables that make git, or gitsheets in this process, open another repository or fail.

    Returns:
        The names of those that were set.
    """
    found = sorted(_ELSEWHERE.intersection(environ))
    for name in found:
        del environ[name]
    whole = str(sum(1 for _ in _configured(environ)))
    if environ.get("GIT_CONFIG_COUNT", whole) != whole:  # with these gitsheets cannot open a repository
        environ["GIT_CONFIG_COUNT"] = whole
        found.append("GIT_CONFIG_COUNT")
    if found:
        log().warning("environment.ignored", variables=found)
    return found


def _is_kept(name: str) -> bool:
    if name.startswith("GIT_"):
        return name in _GIT_NAMES or name.startswith(_GIT_PREFIXES)
    return not name.startswith(_NOT_FOR_CHILDREN) and name not in _ASKERS


def _configured(given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """
    Yield the pairs that GIT_CONFIG_COUNT configures, up to the first incomplete one, which git refuses.
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
