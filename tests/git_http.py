"""
A git server over HTTP that misbehaves on demand: ``git http-backend`` behind Python's own server.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_TRICKLE_S = 0.2


class GitHttpServer(ThreadingHTTPServer):
    """
    Serves every bare repository in *root*, and does what ``fault`` says to pushes.

    Faults:
        hang: accept the pack and never answer.
        trickle: take the pack nowhere, and answer a dot of progress every 0.2 s, for ever.
        drop-reply: let git receive the pack, then close without a word.
        truncate-reply: the same, but for the last bytes of the answer.
        502-after: let git receive the pack, then answer 502.
        redirect, say-more, another-type: answer so.
        a number: answer every request with that status.
    """

    daemon_threads = True

    def __init__(self, root: Path, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.scheme = "http"
        if certificate:
            self.scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.fault: str | int | None = None
        self.password: str | None = None
        self.pushes = 0
        self.requests: list[str] = []
        self.connections = 0
        self.closing = threading.Event()

    def url(self, repository: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/{repository}"


class _Handler(BaseHTTPRequestHandler):
    server: GitHttpServer
    protocol_version = "HTTP/1.1"  # connections are kept, as hosts do

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _serve(self, body: bytes) -> None:
        fault = self.server.fault
        self.server.requests.append(f"{self.command} {self.path}")
        if isinstance(fault, int):
            return self._answer(fault, [], b"")
        if self.server.password and not self._knows_password():
            return self._answer(401, [("WWW-Authenticate", 'Basic realm="git"')], b"")
        is_push = self.path.endswith("/git-receive-pack") and self.command == "POST" and len(body) > 4
        if is_push:
            self.server.pushes += 1
        if is_push and fault == "hang":
            self.server.closing.wait()
            return None
        if is_push and fault == "trickle":
            return self._trickle()
        status, headers, answer = self._backend(body)
        wrong = {
            "502-after": (502, [], b"Bad Gateway"),
            "redirect": (302, [("Location", self.path)], b""),
            "say-more": (status, headers, answer + b"0000"),
            "another-type": (status, [("Content-Type", "text/plain")], answer),
        }
        if not is_push or fault is None or fault in wrong:
            return self._answer(*(wrong.get(str(fault)) if is_push else None) or (status, headers, answer))
        if fault == "truncate-reply":
            self._head(status, headers, len(answer))
            self.wfile.write(answer[: len(answer) // 2])
        self._drop()

    def _trickle(self) -> None:
        self._head(200, [("Content-Type", "application/x-git-receive-pack-result")], 10**9)
        with contextlib.suppress(OSError):
            while not self.server.closing.wait(_TRICKLE_S):
                self.wfile.write(b"0006\x02.")
                self.wfile.flush()

    def _knows_password(self) -> bool:
        _, _, encoded = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(encoded).decode().partition(":")[2] == self.server.password

    def _backend(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        path, _, query = self.path.partition("?")
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            check=True,
            timeout=60,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "REMOTE_USER": "tester",
                "REMOTE_ADDR": "127.0.0.1",
            },
        )
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = [tuple(line.split(": ", 1)) for line in head.decode().splitlines()]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        return status, [header for header in headers if header[0] != "Status"], answer

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self._head(status, headers, len(body))
        self.wfile.write(body)

    def _head(self, status: int, headers: list[tuple[str, str]], length: int) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass


def make_certificate(path: Path) -> Path:
    """
    Write a certificate of 127.0.0.1, signed by itself, with its key.
    """
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + made.public_bytes(pem))
    return path


@contextlib.contextmanager
def git_http_server(root: Path, certificate: Path | None = None) -> Iterator[GitHttpServer]:
    """
    Serve *root* for the block.
    """
    assert shutil.which("git")
    with GitHttpServer(root, certificate) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join(5)
