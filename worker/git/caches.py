"""
Repairing the files that git derives from the objects: indexes, commit-graphs, bitmaps.

These files only save work and can be rebuilt, but git fails when one is damaged. Each ends with the digest of
the bytes before it (gitformat-pack, gitformat-commit-graph), so damage can be proved.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ferry.worker.git.environment import environment
from ferry.worker.observe.logs import log
from ferry.worker.process import running

_DIGEST_BYTES = 20  # SHA-1; repositories of another format are refused at the start
_PIECE_BYTES = 1 << 20
_REBUILD_TIMEOUT_S = 300.0

# A commit-graph chain is a list of digests: if one graph is missing, the list is useless.
_REMOVED = (
    "objects/pack/multi-pack-index*",
    "objects/pack/pack-*.bitmap",
    "objects/pack/pack-*.rev",
    "objects/info/commit-graph",
    "objects/info/commit-graphs/*.graph",
)
_CHAIN = "objects/info/commit-graphs/commit-graph-chain"


def mend(git_dir: str | Path) -> list[str]:
    """
    Remove or rebuild each derived file of the repository *git_dir* that is damaged.

    Returns:
        Their paths in the repository. Empty: these files are not why git failed.
    """
    top = Path(git_dir)
    mended = []
    # A directory that cannot be listed; the caller reports git's own error.
    with contextlib.suppress(OSError):
        for path in _damaged(top):
            is_index = path.suffix == ".idx"
            if _rebuilt(top, path, path.stat().st_mtime_ns) if is_index else _removed(path):
                mended.append(str(path.relative_to(top)))
    if any("commit-graphs/" in name for name in mended):
        _removed(top / _CHAIN)
    if mended:
        log().warning("repository.caches_mended", files=mended)
    return mended


def _damaged(top: Path) -> Iterator[Path]:
    for pattern in (*_REMOVED, "objects/pack/pack-*.idx"):
        for path in sorted(top.glob(pattern)):
            with contextlib.suppress(FileNotFoundError):  # a packing has just replaced it
                seen = path.stat()
                if not _is_sound(str(path), seen.st_ino, seen.st_size, seen.st_mtime_ns):
                    yield path


@lru_cache(maxsize=256)
def _is_sound(path: str, inode: int, size: int, modified_ns: int) -> bool:
    """
    Whether the file ends with the digest of the rest. The other arguments identify this version of the file.
    """
    digest = hashlib.sha1(usedforsecurity=False)
    rest = size - _DIGEST_BYTES
    with open(path, "rb") as file:
        while rest > 0 and (piece := file.read(min(rest, _PIECE_BYTES))):
            digest.update(piece)
            rest -= len(piece)
        return rest == 0 and file.read() == digest.digest()


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):  # a read-only disk; another process was faster
        path.unlink()
        return True
    return False


@lru_cache(maxsize=256)
def _rebuilt(top: Path, index: Path, modified_ns: int) -> bool:
    """
    Rebuild a pack's index from the pack. A damaged pack is tried once, not at each command.
    """
    pack = str(index.with_suffix(".pack"))
    try:
        with tempfile.TemporaryDirectory(prefix="tmp_idx_", dir=index.parent) as directory:
            draft = Path(directory) / index.name
            made = running.run(
                ["git", "index-pack", "-o", str(draft), pack],
                timeout_s=_REBUILD_TIMEOUT_S,
                env=environment(top, os.environ),
                directory=top,
            )
            if made.exit_status != 0:
                log().error("repository.pack_damaged", file=pack, error=made.stderr)
                return False
            draft.chmod(index.stat().st_mode)
            draft.replace(index)
    except OSError as exc:
        log().error("repository.pack_damaged", file=str(index), error=str(exc))
        return False
    return True
