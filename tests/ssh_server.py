"""
A real ssh server with a deploy key.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from ferry.app.dev.stack import accepts, free_port
from tests.needs import lacking, need
from tests.parts import wait_until

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
REASON = lacking("ssh") or lacking("sshd") or ""
IS_MISSING = bool(REASON)


@dataclass(frozen=True)
class Server:
    port: int
    directory: Path
    pid: int = 0

    @property
    def key(self):
        return self.directory / "deploy-key"

    @property
    def known_hosts(self):
        return self.directory / "known_hosts"

    def logins(self):
        return (self.directory / "log").read_text().count("Accepted publickey")

    def url(self, bare):
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{bare.path}"


def make_key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


@contextlib.contextmanager
def ssh_server(root):
    """
    Run an sshd of our own for the block, on loopback, that takes one key and nothing else.
    """
    need("ssh")
    need("sshd")
    directory = root / "ssh files"  # a blank in the path, as people have them
    directory.mkdir(mode=0o700)
    host_key = make_key(directory / "host-key")
    (directory / "authorized_keys").write_text(make_key(directory / "deploy-key"))
    running = Server(free_port(), directory)
    running.known_hosts.write_text(f"[127.0.0.1]:{running.port} {host_key}")
    config = directory / "sshd_config"
    # SHLVL: else bash reads ~/.bashrc for whoever comes over the network, which no git host does.
    config.write_text(
        f'HostKey "{directory}/host-key"\nAuthorizedKeysFile "{directory}/authorized_keys"\nPidFile none\n'
        "ListenAddress 127.0.0.1\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nLogLevel VERBOSE\n"
        "SetEnv SHLVL=1\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd drops its privileges
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config), "-p", str(running.port)], stderr=log)
    try:
        wait_until(lambda: accepts(running.port), what="sshd")
        yield replace(running, pid=process.pid)
    finally:
        process.terminate()
        process.wait(10)
