"""
Reading git's configuration for the data repository, and replacing its ``config`` atomically.

git itself reads it; where git cannot be started, GitPython does. Both write the file without flushing it, and
GitPython in place: a power cut leaves it empty. A URL may hold a token, so no value is passed as a process's
argument.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ferry.worker.errors import RepositoryError
from ferry.worker.files.flushing import flush
from ferry.worker.files.places import drafts_directory
from ferry.worker.files.sharing import make_directories
from ferry.worker.git import lock_files
from ferry.worker.git.command import run_git
from ferry.worker.observe.redaction import redact

_LOCK_WAIT_S = 5.0
_NOTHING_TO_UNSET = 5  # git config's exit status
_FALSE = frozenset({"false", "no", "off", "0", ""})

# As git's files write a key: the section, with its name in quotation marks, and the option.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """
    One configured value.

    Attributes:
        key: As git spells it: in lower case, except for the name in its middle.
        value: The value.
        origin: The file that sets it, such as ``/root/.gitconfig``.
        is_own: Whether the repository's own file sets it, or one that it includes.
    """

    key: str
    value: str
    origin: str
    is_own: bool


def read_all(git_dir: Path, given: Mapping[str, str] | None = None) -> list[Configured]:
    """
    Return every configured value for *git_dir*, of all scopes, in git's order: a key's last value wins.

    Args:
        given: Variables that were set from outside; default: this process's.

    Raises:
        RepositoryError: git cannot be started, or cannot read it.
    """
    found = run_git(git_dir, "config", "-z", "--list", "--show-scope", "--show-origin", given=given)
    if found.exit_status != 0:
        raise RepositoryError(f"git's configuration cannot be read: {found.stderr.strip()}")
    parts = found.stdout.split("\0")
    return [
        _configured(*entry.partition("\n"), origin=_place(origin), is_own=scope == "local")
        for scope, origin, entry in zip(parts[::3], parts[1::3], parts[2::3], strict=False)
    ]


def read_without_git(git_dir: Path) -> list[Configured]:
    """
    Return what GitPython reads of the same: what files set.

    Raises:
        RepositoryError: GitPython cannot read it.
        OSError: A file cannot be read.
    """
    from ferry.worker.process.gitpython import git, options  # a tenth of a command's time, and seldom needed

    try:
        return [
            Configured(
                key=dotted((section, option)),
                value=value,
                origin=f"the configuration of the {level}",
                is_own=level == "repository",
            )
            for level, section, option, value in options(git_dir)
        ]
    except (git.GitError, configparser.Error) as exc:
        raise RepositoryError(f"cannot prepare {git_dir}: {exc}") from exc


def dotted(key: Key) -> str:
    """
    Write *key* as git prints it: ``remote.origin.url``.
    """
    section, option = key
    kind, _, name = section.partition(" ")
    return ".".join([kind.lower(), *([name.strip('"')] if name else []), option.lower()])


def values_of(configured: Sequence[Configured], key: Key) -> list[str]:
    """
    Return the values of *key*, the one that git takes last.
    """
    name = dotted(key)
    return [each.value for each in configured if each.key == name]


def is_true(value: str) -> bool:
    """
    Whether git takes *value* for true, where it wants a boolean.
    """
    return value.lower() not in _FALSE


def pushes_elsewhere(configured: Sequence[Configured], remote: str, url: str) -> Configured | None:
    """
    Return the configuration that would send a ``git push`` to *remote* elsewhere than to *url*, or None.
    """
    given = [each for each in configured if each.key == f"remote.{remote}.pushurl"]
    meant, _ = _rewritten(configured, url, "insteadof")
    for each in given:
        if _rewritten(configured, each.value, "insteadof")[0] != meant:
            return each
    pushed, rule = _rewritten(configured, url, "pushinsteadof")
    return rule if not given and rule and pushed != meant else None


def partial_clone(configured: Sequence[Configured]) -> Configured | None:
    """
    Return the configuration that makes the repository a partial clone, which lacks objects on purpose, or
    None.
    """
    return next(
        (
            each
            for each in configured
            if each.key == "extensions.partialclone"
            or (
                each.key.startswith("remote.")
                and (
                    each.key.endswith(".partialclonefilter")
                    or (each.key.endswith(".promisor") and is_true(each.value))
                )
            )
        ),
        None,
    )


def replace_config(git_dir: Path, wanted: Mapping[Key, Sequence[str]]) -> None:
    """
    Replace all values of each key of *wanted* in the repository's own ``config``, whole and durably.

    Readers find the old file or the new one, even after a power cut. The caller holds ``prepare.lock``.

    Raises:
        RepositoryError: Another git process writes the file, or died while it wrote; or git failed.
        OSError: The file cannot be written. The old file is still there.
    """
    config = (git_dir / "config").resolve()
    draft = drafts_directory(git_dir) / "config~"
    lock = config.with_name(f"{config.name}.lock")
    make_directories(str(git_dir), draft.parent)
    lock_files.clear_left_over(draft, lock)
    draft.touch(mode=0o600)
    try:
        lock_files.take(git_dir, lock, draft, wait_s=_LOCK_WAIT_S)
    except lock_files.LockFileError as exc:
        raise RepositoryError(str(exc)) from None
    try:
        draft.write_bytes(_changed(git_dir, config, wanted))
        before = config.stat()
        # This user is not in that group: the file keeps this user's group.
        with contextlib.suppress(PermissionError):
            os.chown(draft, -1, before.st_gid)
        draft.chmod(before.st_mode & 0o770)  # a remote's URL may hold a token
        flush(draft.parent)
        lock.rename(config)
    except BaseException:
        lock.unlink(missing_ok=True)
        raise
    flush(config.parent)
    draft.unlink()


def _configured(key: str, equals: str, value: str, *, origin: str, is_own: bool) -> Configured:
    # An option without "=" is true.
    return Configured(key=key, value=value if equals else "true", origin=origin, is_own=is_own)


def _place(origin: str) -> str:
    return "the environment" if origin.startswith("command line") else origin.removeprefix("file:")


def _changed(git_dir: Path, config: Path, wanted: Mapping[Key, Sequence[str]]) -> bytes:
    copy = drafts_directory(git_dir) / "config"
    shutil.copyfile(config, copy)
    try:
        there = run_git(git_dir, "config", "--file", str(copy), "-z", "--name-only", "--list")
        present = there.stdout.split("\0") if there.exit_status == 0 else None
        for name in map(dotted, wanted):
            if present is not None and name not in present:
                continue  # most keys are missing at a first start, and removing each takes a process
            done = run_git(git_dir, "config", "--file", str(copy), "--unset-all", name)
            if done.exit_status not in (0, _NOTHING_TO_UNSET):
                raise RepositoryError(f"cannot change {name} in {config}: {redact(done.stderr.strip())}")
        kept = copy.read_bytes()
    finally:
        copy.unlink()
    lines = [
        f"[{section}]\n\t{option} = {_quoted(value)}\n"
        for (section, option), values in wanted.items()
        for value in values
    ]
    return kept + (b"" if kept.endswith(b"\n") or not kept else b"\n") + "".join(lines).encode()


def _quoted(value: str) -> str:
    """
    Quote *value* for git's config, so that blanks, quotation marks and ``#`` in it survive.
    """
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    return f'"{escaped}"'


def _rewritten(configured: Sequence[Configured], url: str, option: str) -> tuple[str, Configured | None]:
    """
    Return *url* as git's longest matching ``insteadOf`` rule rewrites it, and that rule.
    """
    rules = [
        each
        for each in configured
        if each.key.startswith("url.") and each.key.endswith(f".{option}") and url.startswith(each.value)
    ]
    if not rules:
        return url, None
    rule = max(rules, key=lambda each: len(each.value))
    return rule.key[len("url.") : -len(f".{option}")] + url[len(rule.value) :], rule
