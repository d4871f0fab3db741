"""
One push: through a talk with ``git receive-pack``, or over HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ferry.worker.git.express import web
from ferry.worker.git.express.pack import UnfitError
from ferry.worker.git.express.standing import ENDING_S
from ferry.worker.git.express.web import Place
from ferry.worker.git.express.wire import NOTHING, DoubtError, read_advert, read_report, update
from ferry.worker.process.running import KEPT_BYTES, Finished, Said
from ferry.worker.process.talking import Talk


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    What a push is to do.

    Attributes:
        ref: The ref to move.
        old: The commit that it is at.
        new: The commit that it moves to.
        pack: Returns the pack of what is between.
    """

    ref: str
    old: str
    new: str
    pack: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Doubt:
    """
    A push without a plain success.

    Attributes:
        why: What the remote said, unredacted.
        is_sent: Whether it had got a request.
    """

    why: str
    is_sent: bool


def push_by_talk(
    talk: Talk, wanted: Wanted, deadline: float, noted: Callable[[int], object], *, is_new: bool
) -> Finished | Doubt:
    """
    Push through *talk*, which ends with the push.

    Args:
        deadline: By ``time.monotonic()``.
        noted: Called with the talk's process group before the remote gets a request.
        is_new: Whether the refs that the remote lists are those of now.

    Raises:
        UnfitError: There is no such pack; nothing was sent.
    """
    begun, is_sent, said = time.monotonic(), False, Said(KEPT_BYTES)

    def read(size: int) -> bytes:
        return talk.read(size, deadline)

    try:
        noted(talk.group)
        pack = wanted.pack()  # while the other side starts
        advert = read_advert(read, wanted.ref)
        if is_new:
            advert.require(wanted.old)
        is_sent = True
        request = update(wanted.ref, old=wanted.old, new=wanted.new, capabilities=advert.capabilities)
        talk.send(request + pack)
        read_report(read, wanted.ref, said.add)
    except TimeoutError:
        return _ended(talk, said, begun, 0.0)
    except (DoubtError, EOFError, OSError) as exc:
        if not is_sent:
            talk.send(NOTHING)
        _, complained = talk.finish(min(deadline, time.monotonic() + ENDING_S))
        if isinstance(exc, UnfitError):
            raise
        why = str(exc) or "the remote ended before it reported"
        return Doubt(f"{why}: {complained.strip()}" if complained.strip() else why, is_sent)
    except BaseException:
        talk.finish(0.0)
        raise
    return _ended(talk, said, begun, deadline)


def _ended(talk: Talk, said: Said, begun: float, deadline: float) -> Finished:
    """
    Return the outcome of a push whose report was read, or that had no time for it.
    """
    status, complained = talk.finish(deadline)
    return _finished(complained + said.text(), begun, has_ended=status is not None)


def push_over_web(place: Place, wanted: Wanted, deadline: float) -> Finished | Doubt:
    """
    Push over HTTP. No process is started, so there is none to note: what this process sends ends with it.

    Args:
        deadline: By ``time.monotonic()``.

    Raises:
        UnfitError: There is no such pack; nothing was sent.
    """
    begun, said, has_ended, pack = time.monotonic(), Said(KEPT_BYTES), True, wanted.pack()
    move = {"old": wanted.old, "new": wanted.new}
    try:
        web.push(place, wanted.ref, **move, pack=pack, said=said.add, deadline=deadline)
    except DoubtError as exc:
        return Doubt(str(exc), is_sent=True)
    except TimeoutError:
        has_ended = False
    return _finished(said.text(), begun, has_ended=has_ended)


def _finished(said: str, begun: float, *, has_ended: bool) -> Finished:
    status = 0 if has_ended else None  # a report was read, which says more than a program's status
    return Finished(exit_status=status, stdout="", stderr=said, duration_s=time.monotonic() - begun)
