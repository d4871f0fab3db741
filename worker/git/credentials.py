"""
Keys, tokens and shared ssh connections, looked up for every command that talks to a remote.

Keys and tokens are files that another program rotates (Kubernetes, an agent), so Ferry reads them for each
command. ssh connections are kept open: the handshake takes most of the time of a small push. A shared
connection whose server hangs would hang every later push, so a command that reaches its timeout also closes
it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ferry.worker.errors import RepositoryError
from ferry.worker.files.atomic_json import replace_file
from ferry.worker.settings import ORIGIN, Settings

_SHARED_FOR_S = 60
_SSH_SCHEMES = ("ssh", "git+ssh", "ssh+git")
_HOST_AND_PATH = re.compile(r"[^/:]+:")  # git reads `host:path` as ssh, unless a slash comes before the colon
# sockaddr_un holds 108 bytes, and ssh appends a dot and 16 letters while it creates the socket.
_LONGEST_SOCKET_PATH = 108 - 1 - 17

# Answers git with the file's one line, `TOKEN` or `USER:TOKEN`. The token goes from the file through a pipe,
# never through an argument or the environment. Hosts that take tokens ignore the user name.
_ANSWER = """!answer() {
    test "$1" = get || exit 0
    token=$(cat "$FERRY_TOKEN_FILE") || exit 0
    user=x-access-token
    case $token in *:*) user=${token%%:*} token=${token#*:} ;; esac
    printf 'username=%s\\npassword=%s\\n' "$user" "$token"
}; answer"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """
    Keys, tokens and shared connections of one repository's remotes.

    Args:
        remotes: Every remote, name to URL.
        key: The only private ssh key to offer.
        known_hosts: The only ssh host keys that are trusted.
        token_file: File with the token for ``origin``'s HTTP host.
        environ: The process's environment.
    """

    remotes: Mapping[str, str] = field(repr=False)
    key: Path | None = None
    known_hosts: Path | None = None
    token_file: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings, environ: Mapping[str, str]) -> Credentials:
        """
        Make the credentials of *settings* and the environment.
        """
        return cls(
            remotes=settings.remotes,
            key=settings.ssh_key_path,
            known_hosts=settings.ssh_known_hosts,
            token_file=settings.https_token_path,
            environ=environ,
        )

    def environment(self, remote: str, *, ssh_is_configured: bool = False) -> dict[str, str]:
        """
        Return the variables that git needs to authenticate at *remote*.

        Args:
            ssh_is_configured: Whether git's configuration names an ssh command (``core.sshCommand``).

        Raises:
            RepositoryError: The key's permissions are open and it could not be copied to a private place.
        """
        token = {"FERRY_TOKEN_FILE": str(self.token_file)} if self.token_file else {}
        names_its_own = ssh_is_configured or self.environ.get("GIT_SSH")
        if names_its_own and not (self.environ.get("GIT_SSH_COMMAND") or self.key or self.known_hosts):
            return token
        try:
            return {"GIT_SSH_COMMAND": self._ssh_command(remote), **token}
        except OSError as exc:
            raise RepositoryError(f"cannot prepare the ssh key {self.key}: {exc}") from exc

    def ssh_program(self, remote: str, configured: str = "") -> str | None:
        """
        Return the ssh program by which git reaches *remote*, or None if it is not reached by ssh.

        Args:
            configured: ``core.sshCommand`` of git's configuration.
        """
        url = self.remotes.get(remote, "")
        scheme, separator, _ = url.partition("://")
        if scheme not in _SSH_SCHEMES if separator else not _HOST_AND_PATH.match(url):
            return None
        command = self.environ.get("GIT_SSH_COMMAND")
        if not command and not (self.key or self.known_hosts):
            command = configured or shlex.quote(self.environ.get("GIT_SSH", ""))
        with contextlib.suppress(ValueError):  # an unclosed quotation mark
            return next((word for word in shlex.split(command or "") if word), "ssh")
        return command

    def configuration(self, remote: str) -> list[tuple[str, str]]:
        """
        Return the configuration that git needs to authenticate at *remote*, as keys and values in order.
        """
        url = urlsplit(self.remotes.get(ORIGIN, ""))
        if self.token_file is None or url.scheme not in ("http", "https"):
            return []
        helper = f"credential.{url.scheme}://{_host(url.netloc)}.helper"
        # The empty value drops all other helpers, so that none of them stores the token.
        return [(helper, ""), (helper, _ANSWER)]

    def login(self, url: str) -> str | None:
        """
        Return ``user:password`` for the HTTP host of *url*, from the file with the token; None: git asks its
        credential helpers.
        """
        ours, other = urlsplit(self.remotes.get(ORIGIN, "")), urlsplit(url)
        is_same = (ours.scheme, _host(ours.netloc)) == (other.scheme, _host(other.netloc))
        if self.token_file is None or not is_same:
            return None
        try:
            token = self.token_file.read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError):
            return None
        if not token or "\n" in token or "\0" in token:
            return None
        return token if ":" in token else f"x-access-token:{token}"

    def hang_up_command(self, remote: str) -> list[str] | None:
        """
        Return the command that ends the shared ssh connection to *remote*, or None if there is none.
        """
        path = self._socket(remote)
        return (
            ["ssh", "-O", "exit", "-o", f"ControlPath={_ssh_value(path)}", "any-host"]
            if path and path.exists()
            else None
        )

    def shares_connection(self, remote: str) -> bool:
        """
        Whether commands that talk to *remote* share an ssh connection.
        """
        return self._socket(remote) is not None

    def _ssh_command(self, remote: str) -> str:
        return self.environ.get("GIT_SSH_COMMAND") or shlex.join(self.ssh_words(remote))

    def ssh_words(self, remote: str) -> list[str]:
        """
        Return the words of the ssh command that Ferry makes, without host and program.

        Raises:
            OSError: The key's permissions are open and it could not be copied to a private place.
        """
        options = ["BatchMode=yes", "ConnectTimeout=20", "ServerAliveInterval=10", "ServerAliveCountMax=3"]
        if self.key:
            options += ["IdentitiesOnly=yes", f"IdentityFile={_ssh_value(_private(self.key))}"]
        if self.known_hosts:
            options += ["StrictHostKeyChecking=yes", f"UserKnownHostsFile={_ssh_value(self.known_hosts)}"]
        if shared := self._socket(remote):
            options += [
                "ControlMaster=auto", f"ControlPersist={_SHARED_FOR_S}", f"ControlPath={_ssh_value(shared)}",
            ]  # fmt: skip
        return ["ssh", *(word for option in options for word in ("-o", option))]

    def _socket(self, remote: str) -> Path | None:
        """
        Return the socket of the shared connection to *remote*, or None if connections are not shared.

        A connection stays authenticated by the key that it was made with. So another URL, another key, or a
        renewed key gets its own connection.
        """
        url = self.remotes.get(remote, "")
        if self.environ.get("GIT_SSH_COMMAND") or url.startswith(("/", "file:", "http:", "https:")):
            return None
        made_with = [url, str(self.key), str(self.known_hosts)]
        with contextlib.suppress(OSError):
            made_with += [str(path.stat().st_mtime_ns) for path in (self.key, self.known_hosts) if path]
            name = hashlib.sha256("\0".join(made_with).encode()).hexdigest()[:16]
            path = _private_directory() / name
            return path if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH else None
        return None


def _host(netloc: str) -> str:
    return netloc.rpartition("@")[2]


def _private_directory() -> Path:
    """
    Return a directory outside the repository's volume that only this user can read and write.

    Raises:
        PermissionError: Another user made it.
    """
    path = Path(tempfile.gettempdir()) / f"ferry-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{path} is not a directory that only this user can use; remove it, or set TMPDIR to another"
        )
    return path


def _private(key: Path) -> Path:
    """
    Return *key*, or a private copy if other users may read it: ssh refuses such a key.

    Kubernetes makes a mounted secret readable for the pod's group.
    """
    if not key.exists() or not (key.stat().st_mode & 0o077 and key.stat().st_uid == os.getuid()):
        return key
    content = key.read_bytes()
    copy = _private_directory() / f"key-{hashlib.sha256(content).hexdigest()[:16]}"
    if not copy.exists():
        replace_file(copy, content, durably=False, private=True)
    return copy


def _ssh_value(path: Path) -> str:
    """
    Quote *path* as the value of an ssh option: ssh splits at blanks and expands percent signs.
    """
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
