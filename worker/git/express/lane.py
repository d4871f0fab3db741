"""
Taking the express lane: one push, spoken by Ferry itself to ``git receive-pack``.

The lane is for the usual case: a few new commits in a row, and a remote that is where it was last seen. It
believes only a clean report, which names the ref. In every other case, and after any doubt, the caller pushes
with git, which finds out and names what is wrong. The lane cannot force: the request names the old tip, of
which the new one is a descendant, and the remote moves the ref only if it is still there.

See ``docs/decisions/0034-an-express-lane.md``.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ferry.worker.git.environment import neighbours_environment
from ferry.worker.git.express import standing
from ferry.worker.git.express.allowed import is_plain, read_at_start
from ferry.worker.git.express.pack import UnfitError, chain_of, pack_of
from ferry.worker.git.express.pushes import Doubt, Wanted, push_by_talk, push_over_web
from ferry.worker.git.express.standing import Program
from ferry.worker.git.express.web import Place
from ferry.worker.git.repository import Repository
from ferry.worker.observe.logs import log
from ferry.worker.observe.redaction import redact
from ferry.worker.process.running import Finished

_CLOSED_S, _LONGEST_S = 60.0, 3600.0
# Of the addresses that git takes for ssh, those that need no quoting; the rest is left to git.
_HOST = r"(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*"
_SSH_URL = re.compile(
    rf"ssh://(?P<host>{_HOST})(?::(?P<port>[0-9]+))?(?P<path>/[A-Za-z0-9._][A-Za-z0-9._/+~-]*)"
    rf"|(?P<name>{_HOST}):(?P<short>(?!//)[A-Za-z0-9._/][A-Za-z0-9._/+~-]*)"
)
_OTHER_SSH = frozenset({"GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_PROXY_COMMAND"})


@dataclass(slots=True)
class _Doubts:
    """
    The rides to one remote since the last that landed, which all left a doubt.

    After a doubt the lane is closed until git has pushed there: otherwise a hook that refuses would run twice
    for each attempt. After more doubts it stays closed for a minute, then for two, at most for an hour: the
    remote is of a kind that the lane does not know.
    """

    count: int = 0
    closed_until: float = math.inf

    def add(self) -> None:
        """
        Count one more, and close the lane.
        """
        self.count, self.closed_until = self.count + 1, math.inf

    def git_has_pushed(self) -> None:
        """
        Let the lane open again, at once or later.
        """
        if self.closed_until == math.inf:
            wait_s = min(_CLOSED_S * 2.0 ** min(self.count - 2, 60), _LONGEST_S) if self.count > 1 else 0.0
            self.closed_until = time.monotonic() + wait_s


_doubts: dict[tuple[Path, str], _Doubts] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ride:
    """
    What came of the lane.

    Attributes:
        finished: The outcome: exit status 0 if the push landed, None if it was ended at its timeout. If there
            is no outcome, git is to push.
        is_doubtful: Whether the push may have landed, although no clean report says so.
        took_s: Seconds that it took.
        prepare: Call this when the push is recorded: it makes the next one faster.
    """

    finished: Finished | None = None
    is_doubtful: bool = False
    took_s: float = 0.0
    prepare: Callable[[], object] = lambda: None


def ride(
    repository: Repository,
    remote: str,
    commit: str,
    *,
    url: str,
    timeout_s: float,
    noted: Callable[[int], object],
) -> Ride:
    """
    Push *commit* to the repository's branch on *remote*, if the lane is certain to do what git would.

    Args:
        noted: Called with the process group of the program that is talked to, before it gets a request.

    Raises:
        RepositoryError: The remote-tracking ref cannot be read at the moment, or the ssh key not be prepared.
    """
    doubts = _doubts.get((repository.path, url))
    if not repository.express or (doubts and time.monotonic() < doubts.closed_until):
        return Ride()
    given = repository.git.given()
    old, way = repository.remote_head(remote), _way(repository, remote, url, given)
    if old is None or way is None:
        return Ride()
    begun, objects = time.monotonic(), repository.objects
    try:
        chain = chain_of(objects, old, commit)
        if not is_plain(repository.path, given, over_http=isinstance(way, Place)):
            return Ride()
        wanted = Wanted(ref=repository.ref, old=old, new=commit, pack=partial(pack_of, objects, old, chain))
        outcome = _push(url, way, wanted, begun + timeout_s, noted)
    except (UnfitError, OSError):
        return Ride(took_s=time.monotonic() - begun)
    took_s = time.monotonic() - begun
    if isinstance(outcome, Doubt):
        log().info("push.left_to_git", remote=remote, commit=commit, error=redact(outcome.why))
        _doubts.setdefault((repository.path, url), _Doubts()).add()
        return Ride(is_doubtful=outcome.is_sent, took_s=took_s)
    ridden = Ride(finished=outcome, took_s=took_s)
    if outcome.exit_status == 0:
        _doubts.pop((repository.path, url), None)
        if isinstance(way, Program):
            return replace(ridden, prepare=partial(standing.prepare, url, way))
    return ridden


def _push(
    url: str,
    way: Program | Place,
    wanted: Wanted,
    deadline: float,
    noted: Callable[[int], object],
) -> Finished | Doubt:
    if isinstance(way, Place):
        return push_over_web(way, wanted, deadline)
    talk, is_new = standing.take(url, way)
    return push_by_talk(talk, wanted, deadline, noted, is_new=is_new)


def get_ready(repository: Repository) -> None:
    """
    Read git's configuration, before pool processes are forked: each would ask git for it at its first push.
    """
    if repository.express and repository.pushes:
        is_plain(repository.path, repository.git.given())


def open_again(repository: Repository, url: str) -> None:
    """
    Let a next push to *url* take the lane: git has pushed there.
    """
    if doubts := _doubts.get((repository.path, url)):
        doubts.git_has_pushed()


def _way(repository: Repository, remote: str, url: str, given: Mapping[str, str]) -> Program | Place | None:
    """
    Return how *url* is reached; None: this is left to git.
    """
    credentials = repository.credentials
    if url.startswith(("http://", "https://")):
        return Place.of(url, given, credentials.login(url))
    env = neighbours_environment(given) | credentials.environment(remote)
    path, reads = url.removeprefix("file://"), None
    if path.startswith("/") and (path == url or "%" not in path):
        command, reads = ["git", "receive-pack", path], read_at_start(path, given)
        stands = reads is not None
    elif (there := _SSH_URL.fullmatch(url)) and not _OTHER_SSH.intersection(given):
        port = ["-p", there["port"]] if there["port"] else []
        place = there["host"] or there["name"], f"git-receive-pack '{there['path'] or there['short']}'"
        command = [*credentials.ssh_words(remote), *port, *place]
        stands = credentials.shares_connection(remote)
    else:
        return None
    stands = stands and not repository.name  # a worker of many would leave a process waiting for each
    return Program(command=command, env=env, directory=repository.path, reads=reads, stands=stands)
