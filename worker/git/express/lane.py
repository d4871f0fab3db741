"""
Taking the express lane: one push, spoken by Ferry itself to ``git receive-pack``.

The lane is for the usual case: a few new commits in a row, and a remote that is where it was last seen. It
believes only a clean report, which names the ref. In every other case, and after any doubt, the caller pushes
with git, which finds out and names what is wrong. The lane cannot force: the request names the old tip, of
which the new one is a descendant, and the remote moves the ref only if it is still there.

See ``docs/decisions/0034-an-express-lane.md``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ferry.worker.git.environment import neighbours_environment
from ferry.worker.git.express import standing, web
from ferry.worker.git.express.allowed import is_plain
from ferry.worker.git.express.pack import chain_of, pack_of
from ferry.worker.git.express.standing import Program
from ferry.worker.git.express.web import Place
from ferry.worker.git.express.wire import DoubtError, read_advert, read_report, update
from ferry.worker.git.repository import Repository
from ferry.worker.observe.logs import log
from ferry.worker.observe.redaction import redact
from ferry.worker.process.running import KEPT_BYTES, Finished, Said
from ferry.worker.process.talking import Talk

_NOTHING = b"0000"  # ends the talk without a request
_ENDING_S = 2.0
# Of the addresses that git takes for ssh, those that need no quoting; the rest is left to git.
_HOST = r"(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*"
_SSH_URL = re.compile(
    rf"ssh://(?P<host>{_HOST})(?::(?P<port>[0-9]+))?(?P<path>/[A-Za-z0-9._][A-Za-z0-9._/+~-]*)"
    rf"|(?P<name>{_HOST}):(?P<short>(?!//)[A-Za-z0-9._/][A-Za-z0-9._/+~-]*)"
)
_OTHER_SSH = frozenset({"GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_PROXY_COMMAND"})

# Remotes that left a doubt, with their URL: until git has pushed there, the lane is closed. Otherwise a hook
# that refuses would run twice for each attempt.
_closed: set[tuple[Path, str]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ride:
    """
    What came of the lane.

    Attributes:
        finished: The outcome: exit status 0 if the push landed, None if it was ended at its timeout. If there
            is no outcome, git is to push.
        is_doubtful: Whether the push may have landed, although no clean report says so.
        took_s: Seconds that it took.
    """

    finished: Finished | None = None
    is_doubtful: bool = False
    took_s: float = 0.0


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
    old, way = repository.remote_head(remote), _way(repository, remote, url)
    if not repository.express or old is None or way is None or (repository.path, url) in _closed:
        return Ride()
    begun, objects = time.monotonic(), repository.objects
    try:
        chain = chain_of(objects, old, commit)
        if not is_plain(repository, over_http=isinstance(way, Place)):
            return Ride()
        push = _pushing(way, url, repository.ref, begun + timeout_s, noted)
    except (DoubtError, OSError):
        return Ride()
    finished, doubt = push.make(lambda: pack_of(objects, old, chain), old=old, new=commit)
    took_s = time.monotonic() - begun
    if doubt:
        log().info("push.left_to_git", remote=remote, commit=commit, error=redact(doubt))
        _closed.add((repository.path, url))
        return Ride(is_doubtful=push.is_sent, took_s=took_s)
    if finished and finished.exit_status == 0 and isinstance(way, Program):
        standing.prepare(url, way)
    return Ride(finished=finished, took_s=took_s)


def open_again(repository: Repository, url: str) -> None:
    """
    Let the next push to *url* take the lane: git has pushed there.
    """
    _closed.discard((repository.path, url))


def _way(repository: Repository, remote: str, url: str) -> Program | Place | None:
    """
    Return how *url* is reached; None: this is left to git.
    """
    given, credentials = repository.git.given(), repository.credentials
    if url.startswith(("http://", "https://")):
        return Place.of(url, given, credentials.login(url))
    stands = False
    env = neighbours_environment(given) | credentials.environment(remote)
    path = url.removeprefix("file://")
    if path.startswith("/") and (path == url or "%" not in path):
        command = ["git", "receive-pack", path]
    elif (there := _SSH_URL.fullmatch(url)) and not _OTHER_SSH.intersection(given):
        port = ["-p", there["port"]] if there["port"] else []
        place = there["host"] or there["name"], f"git-receive-pack '{there['path'] or there['short']}'"
        command = [*credentials.ssh_words(remote), *port, *place]
        # A worker of many repositories would leave a process waiting for each.
        stands = credentials.shares_connection(remote) and not repository.name
    else:
        return None
    return Program(command=command, env=env, directory=repository.path, stands=stands)


def _pushing(
    way: Program | Place, url: str, ref: str, deadline: float, noted: Callable[[int], object]
) -> _Push | _WebPush:
    if isinstance(way, Place):
        return _WebPush(way, ref, deadline)
    return _Push(standing.take(url, way), ref, deadline, noted)


class _WebPush:
    """
    One push over HTTP. No process is started, so there is none to note: what this process sends ends with it.

    Attributes:
        is_sent: Whether the remote has got a request.
    """

    def __init__(self, place: Place, ref: str, deadline: float) -> None:
        self._place, self._ref, self._deadline = place, ref, deadline
        self.is_sent = False
        self._begun = time.monotonic()

    def make(self, pack: Callable[[], bytes], *, old: str, new: str) -> tuple[Finished | None, str]:
        """
        Push; returns the outcome, or why it is in doubt.
        """
        said = Said(KEPT_BYTES)
        status: int | None = 0
        try:
            content = pack()
            self.is_sent = True
            web.push(
                self._place, self._ref, old=old, new=new, pack=content, said=said.add, deadline=self._deadline
            )
        except DoubtError as exc:
            return None, str(exc)
        except TimeoutError:
            status = None
        duration_s = time.monotonic() - self._begun
        return Finished(exit_status=status, stdout="", stderr=said.text(), duration_s=duration_s), ""


class _Push:
    """
    One push, through a talk with ``git receive-pack``.

    Attributes:
        is_sent: Whether the remote has got a request.
    """

    def __init__(self, talk: Talk, ref: str, deadline: float, noted: Callable[[int], object]) -> None:
        self.talk, self.ref, self.deadline, self._noted = talk, ref, deadline, noted
        self.is_sent = False
        self._begun = time.monotonic()

    def make(self, pack: Callable[[], bytes], *, old: str, new: str) -> tuple[Finished | None, str]:
        """
        Push; returns the outcome, or why it is in doubt.
        """
        said, doubt, deadline = Said(KEPT_BYTES), "", self.deadline
        try:
            self._noted(self.talk.group)
            content = pack()  # while the other side starts
            self._send(content, old, new)
            read_report(self._read, self.ref, said.add)
        except (DoubtError, EOFError) as exc:
            doubt = str(exc) or "the remote ended before it reported"
            deadline = min(deadline, time.monotonic() + _ENDING_S)
        except TimeoutError:
            deadline = 0.0
        except BaseException:
            self.talk.finish(0.0)
            raise
        if not self.is_sent:
            self.talk.send(_NOTHING)
        status, complained = self.talk.finish(deadline)
        if doubt:
            return None, f"{doubt}: {complained.strip()}" if complained.strip() else doubt
        words = complained + said.text()
        duration_s = time.monotonic() - self._begun
        status = None if status is None else 0  # a report was read, and it says more
        return Finished(exit_status=status, stdout="", stderr=words, duration_s=duration_s), ""

    def _send(self, pack: bytes, old: str, new: str) -> None:
        advert = read_advert(self._read, self.ref)
        if advert.tip != old:
            raise DoubtError(f"the remote is at {advert.tip}, and was at {old}")
        self.is_sent = True
        self.talk.send(update(self.ref, old=old, new=new, capabilities=advert.capabilities) + pack)

    def _read(self, size: int) -> bytes:
        return self.talk.read(size, self.deadline)
