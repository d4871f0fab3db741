"""
The object files: loose objects, packs and the commit-graph. ``packing`` decides when to make each.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from typing import BinaryIO, cast

from ferry.worker.files.places import packs_view, state_directory
from ferry.worker.files.sharing import make_directories, share, sharing
from ferry.worker.git import commit_graph, loose
from ferry.worker.git.command import Git

# One thread: the other cores are for writers and pushes.
_ONE_THREAD = ("-c", "pack.threads=1")
_PART = 5000  # objects
_LARGE_INDEX_BYTES = 256 * 1024  # of some 9,000 objects


class Packs:
    """
    The object files of one repository.

    Args:
        git: The repository's git.
    """

    def __init__(self, git: Git) -> None:
        self._git = git
        self._path = git.path

    def loose_objects(self) -> int:
        """
        Estimate the number of loose objects: 256 times the number in one of their 256 directories.
        """
        try:
            return 256 * len(os.listdir(self._path / "objects" / "17"))
        except FileNotFoundError:
            return 0

    def count(self) -> int:
        """
        Return how many packs there are.
        """
        return sum(1 for _ in (self._path / "objects" / "pack").glob("*.pack"))

    def pack_loose_objects(
        self, *, timeout_s: float, packed: Callable[[], object] = lambda: None, gives_way: bool = True
    ) -> dict[str, str]:
        """
        Copy every loose object, reachable or not, into packs of at most five thousand.

        Each part takes a second or two. Interrupting the packing loses the current part only.

        Args:
            timeout_s: Seconds for each part.
            packed: Called after each part.
            gives_way: Whether git runs at low priority.

        Returns:
            The fault of each damaged file, by its path in the repository. They are left out, because git
            packs nothing if one object is damaged.

        Raises:
            RepositoryError: git failed, or took too long.
        """
        damaged: dict[str, str] = {}
        for names, faults in loose.survey(str(self._path), most=_PART):
            damaged |= faults
            with tempfile.TemporaryFile(dir=state_directory(self._path)) as listed:
                listed.write("\n".join(names).encode("ascii"))
                listed.seek(0)
                pack = self._path / "objects" / "pack" / "pack"
                self._git.query(
                    *_ONE_THREAD, "pack-objects", "-q", "--non-empty", str(pack),
                    timeout_s=timeout_s, stdin=cast(BinaryIO, listed), gives_way=gives_way,
                )  # fmt: skip
            packed()
        return damaged

    def prune_packed(self) -> None:
        """
        Remove the loose objects that are in a pack as well.

        Only under the write lock: git also removes emptied directories, and
        gitsheets fails when it is about to write into one of them.

        Raises:
            RepositoryError: git failed.
        """
        self._git.query("prune-packed", "-q")

    def merge(self, *, timeout_s: float) -> None:
        """
        Roll small packs into larger ones, so that each is at least twice the size of the next.

        ``git repack -d`` prunes loose objects too, and refuses a repository of precious objects. So it runs
        in a small git directory that contains only a link to the packs, and needs no lock.

        Raises:
            RepositoryError: git failed, or took too long.
            OSError: The disk refused.
        """
        view, shared = packs_view(self._path), sharing(str(self._path))
        for part in ("objects", "refs"):
            make_directories(str(self._path), view / part)
        # Written each time, because a power cut may have emptied these files.
        (view / "HEAD").write_text("ref: refs/heads/none\n")
        options = ("repositoryformatversion = 0", "bare = true", f"sharedRepository = {shared.setting}")
        (view / "config").write_text("\n\t".join(("[core]", *options, "")))
        for name in ("HEAD", "config"):
            share(str(self._path), view / name)
        with contextlib.suppress(FileExistsError):
            # A relative link, so that a copy of the repository merges its own packs.
            (view / "objects" / "pack").symlink_to("../../../objects/pack")
        self._git.query(
            *_ONE_THREAD, "repack", "-d", "-l", "-q", "--geometric=2",
            timeout_s=timeout_s, environment={"GIT_DIR": str(view)}, gives_way=True,
        )  # fmt: skip

    def write_commit_graph(self, *, timeout_s: float) -> None:
        """
        Write the commit-graph with the changed paths of each commit, which makes logs fast.

        Raises:
            RepositoryError: git failed, or took too long.
        """
        # An earlier release wrote it without changed paths; git would keep that part.
        split = "--split" if commit_graph.has_paths(self._path) else "--split=replace"
        command = ("commit-graph", "write", "--reachable", "--changed-paths", split, "--no-progress")
        self._git.query(*command, timeout_s=timeout_s, gives_way=True)

    def lacks_commit_graph(self) -> bool:
        """
        Whether logs are slow because there is no commit-graph.
        """
        indexes = (self._path / "objects" / "pack").glob("*.idx")
        is_large = sum(index.stat().st_size for index in indexes) > _LARGE_INDEX_BYTES
        return is_large and not commit_graph.has_paths(self._path)

    def size(self) -> dict[str, int]:
        """
        Count the repository's objects: ``loose_objects``, ``packed_objects``, ``packs`` and ``bytes``.
        """
        counted = dict(line.split(": ") for line in self._git.query("count-objects", "-v").splitlines())
        return {
            "loose_objects": int(counted["count"]),
            "packed_objects": int(counted["in-pack"]),
            "packs": int(counted["packs"]),
            "bytes": 1024 * (int(counted["size"]) + int(counted["size-pack"])),
        }
