"""
Whether git's configuration and variables say anything about a push that the express lane would not do.

An operator who configures git expects each push to obey. So the lane is taken only if each configured key is
one of those below: keys that do not concern a push, and keys that Ferry overrides for every command.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ferry.worker.errors import RepositoryError
from ferry.worker.git.config import read_all
from ferry.worker.git.environment import CONFIGURATION

# If files are included, one that does not exist yet is not among those that are looked at for changes.
_KNOWN_FOR_S = 60.0
_INCLUDES = ("include.", "includeif.")
_ABOUT_HTTP = re.compile(r"http\.|remote\..*\.proxy")
_NAMES = ("GIT_CONFIG", "HOME", "XDG_CONFIG_HOME")  # variables that say where the configuration is

_SECTIONS = frozenset({
    "advice", "alias", "am", "apply", "author", "blame", "branch", "browser", "checkout", "clean", "color",
    "column", "commit", "committer", "completion", "credential", "diff", "difftool", "fastimport",
    "feature", "ferry", "fetch", "filter", "format", "fsck", "gc", "gitweb", "gpg", "grep", "gui",
    "guitool", "help", "http", "i18n", "imap", "include", "includeif", "init", "instaweb", "interactive",
    "lfs", "log", "mailinfo", "mailmap", "maintenance", "man", "merge", "mergetool", "notes", "pack",
    "pager", "pretty", "pull", "push", "rebase", "receive", "remote", "repack", "rerere", "reset", "revert",
    "safe", "sendemail", "sequence", "showbranch", "splitindex", "stash", "status", "submodule", "tag",
    "trailer", "uploadarchive", "uploadpack", "user", "versionsort", "web", "worktree",
})  # fmt: skip
_KEYS = frozenset({key.lower() for key, _ in CONFIGURATION}) | {
    "core.abbrev", "core.askpass", "core.attributesfile", "core.autocrlf", "core.bare",
    "core.bigfilethreshold", "core.checkstat", "core.commitgraph", "core.compression",
    "core.deltabasecachelimit", "core.editor", "core.eol", "core.excludesfile", "core.filemode",
    "core.filesreflocktimeout", "core.fscache", "core.fsmonitor", "core.fsyncobjectfiles",
    "core.hidedotfiles", "core.ignorecase", "core.logallrefupdates", "core.loosecompression",
    "core.multipackindex", "core.packedgitlimit", "core.packedgitwindowsize", "core.packedrefstimeout",
    "core.pager", "core.precomposeunicode", "core.preloadindex", "core.protecthfs", "core.protectntfs",
    "core.quotepath", "core.repositoryformatversion", "core.safecrlf", "core.sharedrepository",
    "core.symlinks", "core.trustctime", "core.untrackedcache", "core.whitespace", "core.worktree",
    "extensions.preciousobjects", "extensions.worktreeconfig", "protocol.version", "transfer.hiderefs",
    "transfer.unpacklimit",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Answer:
    files: frozenset[str]
    state: object
    until: float
    is_plain: bool
    is_plain_over_http: bool


_answers: dict[Path, _Answer] = {}


def is_plain(path: Path, given: Mapping[str, str], *, over_http: bool = False) -> bool:
    """
    Whether the configuration, of all scopes, has nothing that the express lane does not honour.

    Args:
        path: The data repository.
        given: Variables that were set from outside.
        over_http: Whether the remote is reached over HTTP or HTTPS.

    The answer is remembered until a file of the configuration changes, and at most for a minute if it
    includes files: to ask git takes as long as a part of the push.
    """
    now = time.monotonic()
    if any(name.startswith("GIT_TRACE") or name == "GIT_CURL_VERBOSE" for name in given):
        return False
    known = _answers.get(path)
    if known and now < known.until and known.state == _state(known.files, given):
        return known.is_plain_over_http if over_http else known.is_plain
    try:
        configured = read_all(path, given)
    except RepositoryError:
        return False
    files = frozenset({*_usual_files(str(path), given), *(each.origin for each in configured)})
    plain = all(each.key.partition(".")[0] in _SECTIONS or each.key in _KEYS for each in configured)
    plain_over_http = plain and not any(_ABOUT_HTTP.match(each.key) for each in configured)
    includes = any(each.key.startswith(_INCLUDES) for each in configured)
    until = now + _KNOWN_FOR_S if includes else math.inf
    _answers[path] = _Answer(files, _state(files, given), until, plain, plain_over_http)
    return plain_over_http if over_http else plain


def read_at_start(path: str, given: Mapping[str, str]) -> object:
    """
    Return what changes when another repository is put at *path*, or the configuration in which git opens it
    changes, other than in an included file; None: there is no bare repository.
    """
    try:
        found = os.stat(path)
        os.stat(f"{path}/config")
    except OSError:
        return None
    return found.st_dev, found.st_ino, _state(frozenset(_usual_files(path, given)), given)


def _usual_files(git_dir: str, given: Mapping[str, str]) -> set[str]:
    """
    Return the files that git reads if they exist.
    """
    home = given.get("HOME", "")
    return {
        f"{git_dir}/config",
        f"{git_dir}/config.worktree",
        given.get("GIT_CONFIG_SYSTEM") or "/etc/gitconfig",
        given.get("GIT_CONFIG_GLOBAL") or f"{home}/.gitconfig",
        f"{given.get('XDG_CONFIG_HOME') or f'{home}/.config'}/git/config",
    }


def _state(files: frozenset[str], given: Mapping[str, str]) -> object:
    """
    Return what changes when the configuration does.
    """
    variables = tuple(
        sorted(pair for pair in given.items() if pair[0].startswith(("GIT_CONFIG", "HOME", "XDG_")))
    )
    return {file: _version(file) for file in files}, variables


def _version(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
