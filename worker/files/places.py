"""
The path of each of Ferry's own files, in the directory ``ferry`` of the bare repository.

==========================  ==========================================================================
``write.lock``              held by the writer that commits
``prepare.lock``            held while a start changes git's ``config`` or a remote's address
``packing.lock``            held by the packing of one of many repositories
``maintenance.*``           the lock of this repository's packing, and its last result
``drafts/``                 the next content of each ref, and of ``config``
``addresses/``              the address of each remote, as a digest
``remotes/``                the ledger: an entry, a lock, the last landings and the events of each remote;
                            entry, lock and position of each extension's functions, ``@EXTENSION.EVENT.*``
``pages/``                  pages that wait to be sent
``idempotency/``            answers to requests with an idempotency key
``packs.git``               a view of the packs, for ``git repack``
``rebase.git``              a view of the objects, for a rebase
``whole.json``              the commit up to which all objects were found at a start
``sweep.json``              the time of the last sweep
``verified.REMOTE.json``    when a remote was last verified and restored
``fenced.json``             that another repository is the primary, or that this is a replica's
``promoted.json``           that a promotion made this repository the primary
``followed.json``           when a replica last had all of origin
``heard.json``              when a replica last heard the primary's event stream
``flower.*``                the tasks that Flower has seen under ``ferry dev``
==========================  ==========================================================================
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ferry.worker.files.locks import FileLock

_DIRECTORY = "ferry"


def state_directory(repository: Path) -> Path:
    """
    Return the directory of Ferry's own files, which is on the repository's volume.
    """
    return repository / _DIRECTORY


@lru_cache(maxsize=4096)  # a push needs some ten of its remote, and a worker may serve hundreds of remotes
def file_in(directory: Path, name: str) -> Path:
    """
    Return the path of a file that is used again and again. The last paths are kept.

    pathlib takes ten microseconds for each new path, and interns its parts. Parts that come and go fill the
    interpreter's table of interned strings until it is made anew, which is two MiB that a fork no longer
    shares.
    """
    return directory / name


def write_lock(repository: Path) -> FileLock:
    """
    Return the lock that every writer of the repository holds.
    """
    return FileLock(state_directory(repository) / "write.lock")


def prepare_lock(repository: Path) -> FileLock:
    """
    Return the lock that a start holds while it changes git's ``config`` or a remote's address.
    """
    return FileLock(state_directory(repository) / "prepare.lock")


def packing_lock(repository: Path) -> FileLock:
    """
    Return the lock, in the first of a worker's repositories, that makes it pack one at a time.
    """
    return FileLock(state_directory(repository) / "packing.lock")


def hook_places(repository: Path, count: int) -> list[FileLock]:
    """
    Return the locks, in the first of a worker's repositories, of which a call of functions holds one.
    """
    return [FileLock(remotes_directory(repository) / f"@hooks.{number}.lock") for number in range(count)]


def drafts_directory(repository: Path) -> Path:
    """
    Return the directory of the drafts: complete files are renamed from it to their final path.
    """
    return state_directory(repository) / "drafts"


def addresses_directory(repository: Path) -> Path:
    """
    Return the directory with the address of each remote.
    """
    return state_directory(repository) / "addresses"


def remotes_directory(repository: Path) -> Path:
    """
    Return the directory in which the ledger keeps an entry and a lock for each remote.
    """
    return state_directory(repository) / "remotes"


def pages_directory(repository: Path) -> Path:
    """
    Return the directory of the pages that wait to be sent.
    """
    return state_directory(repository) / "pages"


def idempotency_directory(repository: Path) -> Path:
    """
    Return the directory of the answers to requests with an idempotency key.
    """
    return state_directory(repository) / "idempotency"


def packs_view(repository: Path) -> Path:
    """
    Return the git directory that contains only a link to the packs.
    """
    return state_directory(repository) / "packs.git"


def rebase_view(repository: Path) -> Path:
    """
    Return the git directory, with the same objects, in which a rebase moves its own ref.
    """
    return state_directory(repository) / "rebase.git"


def whole_record(repository: Path) -> Path:
    """
    Return the file with the commit up to which a start found every object.
    """
    return state_directory(repository) / "whole.json"


def verified_record(repository: Path, remote: str) -> Path:
    """
    Return the file with the time when *remote* was last verified and restored.
    """
    return state_directory(repository) / f"verified.{remote}.json"


def fence_record(repository: Path) -> Path:
    """
    Return the file that records that another repository is the primary.
    """
    return state_directory(repository) / "fenced.json"


def promoted_record(repository: Path) -> Path:
    """
    Return the file that records that the last promotion made this repository the primary.
    """
    return state_directory(repository) / "promoted.json"


def follower_lock(repository: Path) -> Path:
    """
    Return the lock of the one process that makes a replica follow origin.
    """
    return state_directory(repository) / "following.lock"


def followed_record(repository: Path) -> Path:
    """
    Return the file with the time when a replica last had all of origin.
    """
    return state_directory(repository) / "followed.json"


def heard_record(repository: Path) -> Path:
    """
    Return the file with the time when a replica last heard the primary; none while it does not listen.
    """
    return state_directory(repository) / "heard.json"


def flower_history(repository: Path) -> Path:
    """
    Return the file of the tasks that Flower has seen under ``ferry dev``. Flower appends a suffix.
    """
    return state_directory(repository) / "flower"
