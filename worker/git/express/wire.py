"""
The push protocol: what a client reads and writes, without the connection.

See https://git-scm.com/docs/gitprotocol-pack (the section on pushing) and
https://git-scm.com/docs/gitprotocol-common (pkt-lines). Only version 0 is spoken, which every server offers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

Read = Callable[[int], bytes]  # returns exactly so many bytes, or raises

_NONE = "0" * 40
_AGENT = "ferry"
_NEEDED = frozenset({"side-band-64k"})
_LEAST_BYTES = 4  # of a pkt-line: its length
_MOST_BYTES = 16 << 20  # of the refs that a remote lists
_REPORT_BYTES = 1 << 20
_FLUSH = b"0000"
NOTHING = _FLUSH  # ends a talk without a request
_REPORT, _PROGRESS = 1, 2  # the bands of an answer


class DoubtError(Exception):
    """
    The other side said something else than what a plain push is answered. The message says what.
    """


@dataclass(frozen=True, slots=True)
class Advert:
    """
    What a remote says first.

    Attributes:
        tip: The commit of the ref that was asked for; None: there is no such ref.
        capabilities: What the remote can do.
    """

    tip: str | None
    capabilities: frozenset[str]

    def require(self, tip: str) -> None:
        """
        Raise DoubtError unless the ref is at *tip*.
        """
        if self.tip != tip:
            raise DoubtError(f"the remote is at {self.tip}, and was at {tip}")


def read_advert(read: Read, ref: str) -> Advert:
    """
    Read the refs that the remote lists, and find *ref* among them.

    Raises:
        DoubtError: It is no such list, or the remote cannot do what a push here needs.
    """
    tip, capabilities, size = None, None, 0
    for line in _packets(read):
        size += len(line)
        if size > _MOST_BYTES:
            raise DoubtError("the remote lists too many refs")
        listed, _, abilities = line.rstrip(b"\n").partition(b"\0")
        if capabilities is None:
            capabilities = frozenset(abilities.decode("utf-8", "replace").split())
        name, _, known_as = listed.decode("utf-8", "replace").partition(" ")
        if known_as == ref:
            tip = name
        elif name in ("ERR", "shallow", "version"):
            raise DoubtError(f"the remote began with {name}")
    if capabilities is None:
        raise DoubtError("the remote lists nothing")
    return Advert(tip=tip, capabilities=_checked(capabilities))


def _checked(capabilities: frozenset[str]) -> frozenset[str]:
    formats = {each for each in capabilities if each.startswith("object-format=")} or {"object-format=sha1"}
    reports = capabilities & {"report-status", "report-status-v2"}
    if not (reports and capabilities >= _NEEDED and formats == {"object-format=sha1"}):
        raise DoubtError("the remote's git is of another kind")
    if "no-thin" in capabilities:
        raise DoubtError("the remote takes no deltas against what it has")
    return capabilities


def update(ref: str, *, old: str, new: str, capabilities: frozenset[str]) -> bytes:
    """
    Return the request to move *ref* from *old* to *new*; the pack follows it.

    The remote moves the ref only if it is at *old*, an existing commit: this neither creates nor removes one.

    Args:
        capabilities: What the remote can do.
    """
    if _NONE in (old, new) or len(old) != len(_NONE) or len(new) != len(_NONE):
        raise ValueError(f"not an update: {old} {new}")
    report = "report-status-v2" if "report-status-v2" in capabilities else "report-status"
    wanted = [report, "side-band-64k", *sorted(capabilities & {"quiet", "object-format=sha1"})]
    if any(each.startswith("agent=") for each in capabilities):
        wanted.append(f"agent={_AGENT}")
    return _packet(f"{old} {new} {ref}\0 {' '.join(wanted)}".encode()) + _FLUSH


def read_report(read: Read, ref: str, said: Callable[[bytes], object]) -> None:
    """
    Read the answer to ``update``; returns if the remote has moved *ref*, and said nothing else.

    Args:
        said: Called with each piece of what the remote prints for people.

    Raises:
        DoubtError: The remote refused, or said anything else.
    """
    report = bytearray()
    for packet in _packets(read):
        band, text = packet[:1], packet[1:]
        if band == bytes([_REPORT]) and len(report) < _REPORT_BYTES:
            report += text
        elif band == bytes([_PROGRESS]):
            said(text)
        else:
            raise DoubtError("the remote ended with an error of its own")
    lines = [line.rstrip(b"\n") for line in _packets(_reader(bytes(report)))]
    if lines != [b"unpack ok", b"ok " + ref.encode()]:
        raise DoubtError(b"; ".join(lines).decode("utf-8", "replace") or "the remote reported nothing")


def _reader(content: bytes) -> Read:
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        if at + size > len(content):
            raise DoubtError("the remote's report is cut off")
        at += size
        return content[at - size : at]

    return read


def _packet(line: bytes) -> bytes:
    return b"%04x%s" % (len(line) + _LEAST_BYTES, line)


def _packets(read: Read) -> Iterator[bytes]:
    """
    Yield the content of each pkt-line up to the flush packet.
    """
    while (head := read(_LEAST_BYTES)) != _FLUSH:
        try:
            size = int(head, 16)
        except ValueError:
            size = 0
        if size < _LEAST_BYTES or not head.isalnum():
            raise DoubtError("the remote does not speak git's protocol")
        yield read(size - _LEAST_BYTES)
