"""
Reading git's configuration for the data repository, and replacing its ``config`` atomically.

git and GitPython write the file without flushing it, and GitPython in place: a power cut
leaves it empty. A URL may hold a token, so no value is passed as a process's argument.
"""

from __future__ import annotations

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
_FALSE = frozenset({"false", "no", "off", "0"})

# As git writes a key: the section, with its name in quotation marks, and the option.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """
    One configured value.

    Attributes:
        key: As git spells it: in lower case, except for the name in its middle.
        value: The value.
        origin: The file that sets it, such as ``/root/.gitconfig``.
    """

    key: str
    value: str
    origin: str


def read_all(git_dir: Path, given: Mapping[str, str] | None = None) -> list[Configured]:
    """
    Return every configured value for *git_dir*, of all scopes, in git's order: a key's last value wins.

    Args:
        given: Variables that were set from outside; default: this process's.

    Raises:
        RepositoryError: git cannot be started, or cannot read it.
    """
    found = run_git(git_dir, "config", "-z", "--list", "--show-origin", given=given)
    if found.exit_status != 0:
        raise RepositoryError(f"git's configuration cannot be read: {found.stderr.strip()}")
    parts = found.stdout.split("\0")
    pairs = zip(parts[::2], parts[1::2], strict=False)
    return [
        Configured(key=entry.partition("\n")[0], value=entry.partition("\n")[2], origin=_place(origin))
        for origin, entry in pairs
    ]


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
                    or (each.key.endswith(".promisor") and each.value.lower() not in _FALSE)
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


def _place(origin: str) -> str:
    return "the environment" if origin.startswith("command line") else origin.removeprefix("file:")


def _changed(git_dir: Path, config: Path, wanted: Mapping[Key, Sequence[str]]) -> bytes:
    copy = drafts_directory(git_dir) / "config"
    shutil.copyfile(config, copy)
    try:
        there = run_git(git_dir, "config", "--file", str(copy), "-z", "--name-only", "--list")
        present = there.stdout.lower().split("\0") if there.exit_status == 0 else None
        for section, option in wanted:
            name = f"{section.replace(' ', '.', 1).replace(chr(34), '')}.{option}"
            if present is not None and name.lower() not in present:
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
