"""
The express lane over HTTP and HTTPS: one request for a push, on a connection that is kept.

``git push`` makes a new connection, asks for the refs, and then sends its request. Here the old tip is known,
and what the server can do is known from the first push of this process. The protocol is git's stateless one
(https://git-scm.com/docs/http-protocol).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ferry.worker.git.express.wire import DoubtError, Read, read_advert, read_report, update

KEPT_FOR_S = 60.0
_SERVICE = "git-receive-pack"
_AGENT = "git/2 (ferry)"
_PREAMBLE = f"001f# service={_SERVICE}\n0000".encode()
_PATH = re.compile(r"(?:/[A-Za-z0-9._~+@-]+)+/?")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
# Of the variables that git's HTTP obeys, the one that is obeyed here.
_CERTIFICATES = "GIT_SSL_CAINFO"
_OTHER = re.compile(
    r"GIT_(?:SSL|HTTP|PROXY_SSL)_.*|(?:https?|all)_proxy|SSL_CERT_(?:FILE|DIR)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    A repository on a web server, and how to get in.

    Attributes:
        secure: Whether it is HTTPS.
        path: The repository's path.
        login: ``user:password``; None: without.
        authorities: A file with the certificates of the trusted authorities; None: the machine's.
    """

    secure: bool
    host: str
    port: int | None
    path: str
    login: str | None = field(repr=False)
    authorities: str | None

    @classmethod
    def of(cls, url: str, given: Mapping[str, str], login: str | None) -> Place | None:
        """
        Return the place of *url*; None: git is to go there, because a variable or a file says how.

        Args:
            given: Variables that were set from outside.
            login: What the settings give for that host; a password in the URL goes first.
        """
        try:
            parts, port = urlsplit(url), urlsplit(url).port
        except ValueError:
            return None
        if parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            return None
        if not (_PATH.fullmatch(parts.path) and _HOST.fullmatch(parts.hostname or "")):
            return None
        if parts.password is not None:
            login = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
        elif parts.username is not None and login is None:
            return None  # git asks for the password
        authorities = given.get(_CERTIFICATES) or None
        others = {name for name, value in given.items() if value and _OTHER.fullmatch(name)}
        if authorities or parts.scheme == "http":
            others -= {_CERTIFICATES, "SSL_CERT_FILE", "SSL_CERT_DIR"}
        if others or (Path(given.get("HOME") or "/") / ".netrc").exists():
            return None
        return cls(
            secure=parts.scheme == "https",
            host=parts.hostname or "",
            port=port,
            path=parts.path.rstrip("/"),
            login=login,
            authorities=authorities,
        )

    def connection(self) -> http.client.HTTPConnection:
        """
        Return a connection that is not open yet.

        Raises:
            OSError: The file with the authorities cannot be read.
        """
        if not self.secure:
            return http.client.HTTPConnection(self.host, self.port)
        context = ssl.create_default_context(cafile=self.authorities)
        return http.client.HTTPSConnection(self.host, self.port, context=context)

    def headers(self) -> dict[str, str]:
        """
        Return the headers of every request.
        """
        login = {} if self.login is None else {"Authorization": f"Basic {_encoded(self.login)}"}
        return {"User-Agent": _AGENT, **login}


def _encoded(login: str) -> str:
    return base64.b64encode(login.encode()).decode("ascii")


@dataclass(frozen=True, slots=True)
class _Known:
    connection: http.client.HTTPConnection
    capabilities: frozenset[str]
    timer: threading.Timer


_known: dict[Place, _Known] = {}
_mutex = threading.Lock()


def push(
    place: Place,
    ref: str,
    *,
    old: str,
    new: str,
    pack: bytes,
    said: Callable[[bytes], object],
    deadline: float,
) -> None:
    """
    Move *ref* from *old* to *new*.

    Args:
        pack: What *new* has and *old* lacks.
        said: Called with each piece of what the remote prints for people.
        deadline: By ``time.monotonic()``.

    Raises:
        DoubtError: The server answered anything but a plain success.
        TimeoutError: It did not answer in time.
    """
    with _mutex:
        known = _known.pop(place, None)
    if known is not None:
        known.timer.cancel()
    try:
        connection = known.connection if known else place.connection()
    except OSError as exc:
        raise DoubtError(f"the certificates cannot be read: {exc}") from exc
    try:
        with _cut_at(connection, deadline):
            if known is None:
                capabilities = _capabilities(connection, place, ref, old)
            else:
                capabilities = known.capabilities
                _hang_up_if_stale(known)
            body = update(ref, old=old, new=new, capabilities=capabilities) + pack
            with _asked(connection, place, f"/{_SERVICE}", f"{_SERVICE}-result", body) as read:
                read_report(read, ref, said)
    except BaseException as exc:
        connection.close()
        if not isinstance(exc, (OSError, EOFError, ValueError, http.client.HTTPException)):
            raise
        if time.monotonic() >= deadline:
            raise TimeoutError from exc
        raise DoubtError(f"{type(exc).__name__}: {exc}") from exc
    timer = threading.Timer(KEPT_FOR_S, _hang_up_if_idle, (place, connection))
    timer.daemon = True
    with _mutex:
        _known[place] = _Known(connection, capabilities, timer)
    timer.start()


def _hang_up_if_idle(place: Place, connection: http.client.HTTPConnection) -> None:
    """
    Close a connection that no push has used for a minute. What the server can do is remembered.
    """
    with _mutex:
        if (known := _known.get(place)) and known.connection is connection:
            connection.close()


def _hang_up_if_stale(known: _Known) -> None:
    """
    Close a connection that the server has closed; the next request opens it again.
    """
    line = known.connection.sock
    if line is not None and select.select([line], [], [], 0)[0]:
        known.connection.close()


def _capabilities(connection: http.client.HTTPConnection, place: Place, ref: str, old: str) -> frozenset[str]:
    """
    Ask the server for its refs, and return what it can do.
    """
    with _asked(connection, place, f"/info/refs?service={_SERVICE}", f"{_SERVICE}-advertisement") as read:
        if read(len(_PREAMBLE)) != _PREAMBLE:
            raise DoubtError("the server does not speak git's protocol")
        advert = read_advert(read, ref)
    advert.require(old)
    return advert.capabilities


@contextmanager
def _asked(
    connection: http.client.HTTPConnection, place: Place, what: str, kind: str, body: bytes | None = None
) -> Iterator[Read]:
    """
    Send a request; yields what reads its answer, which must end with the block.
    """
    headers = {"Accept": f"application/x-{kind}", **place.headers()}
    if body is not None:
        headers["Content-Type"] = f"application/x-{_SERVICE}-request"
    connection.request("GET" if body is None else "POST", place.path + what, body=body, headers=headers)
    with connection.getresponse() as answer:
        found = answer.headers.get_content_type()
        if answer.status != http.client.OK or found != f"application/x-{kind}":
            raise DoubtError(f"the server answered {answer.status} {found}")

        def read(size: int) -> bytes:
            content = answer.read(size)
            if len(content) < size:
                raise EOFError("the answer is cut off")
            return content

        yield read
        if answer.read(1):
            raise DoubtError("the server said more than it should")


@contextmanager
def _cut_at(connection: http.client.HTTPConnection, deadline: float) -> Iterator[None]:
    """
    Cut *connection* at *deadline*: a server that sends a byte now and then exceeds every timeout of a read.
    """

    def cut() -> None:
        with contextlib.suppress(OSError):
            if connection.sock is not None:
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    left_s = max(0.001, deadline - time.monotonic())
    connection.timeout = left_s
    if connection.sock is not None:
        connection.sock.settimeout(left_s)
    timer = threading.Timer(left_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _forget_parents() -> None:
    """
    Close this process's copies of the connections after a fork, without a word to the server.
    """
    global _mutex
    _mutex = threading.Lock()
    for known in _known.values():
        if known.connection.sock is not None:
            os.close(known.connection.sock.detach())
    _known.clear()


os.register_at_fork(after_in_child=_forget_parents)
