"""
The data repository: its branch, and the branch's last seen position on each remote.

Ferry reads files in this process if that is enough, and starts git for everything else, see
``ferry.worker.git.command``. ``remote`` talks to remotes, ``packs`` handles the object files.
"""

from __future__ import annotations

import os
from pathlib import Path

from ferry.worker.errors import RepositoryError
from ferry.worker.git.backlog import Backlog, Backlogs
from ferry.worker.git.command import Git
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.history import History
from ferry.worker.git.refs import RefError, read_ref
from ferry.worker.git.signing import Committer
from ferry.worker.git.tracking import Tracking
from ferry.worker.settings import ORIGIN, Settings, address


class Repository(History):
    """
    A bare data repository and its one pushed branch.

    It keeps no file open and starts no process by itself, so it survives a fork.

    Args:
        path: The bare repository's directory.
        branch: The branch's short name.
        credentials: The credentials for the remotes.
        name: Its name if a worker serves several repositories; else "".
        root: Directory in the branch's tree with ``.gitsheets`` and the sheets; ``.`` is the top.
        expressions: Whether sheets may be used whose declarations hold code.
        committer: Committer and signer of new commits; default: each commit's author.
        pushes: Whether it may be pushed; False on a replica.
        express: Whether pushes may take the express lane, see ``ferry.worker.git.express``.
    """

    def __init__(
        self,
        path: Path,
        *,
        branch: str,
        credentials: Credentials | None = None,
        name: str = "",
        root: str = ".",
        expressions: bool = True,
        committer: Committer | None = None,
        pushes: bool = True,
        express: bool = False,
    ) -> None:
        self.pushes = pushes
        self.express = express
        self.credentials = credentials or Credentials(remotes={}, environ=os.environ)
        super().__init__(Git(path, self.credentials.environ), committer)
        self.root = root
        self.expressions = expressions
        self.name = name
        self.branch = branch
        self.ref = f"refs/heads/{branch}"
        self._tracking = Tracking(path, branch)
        self._backlogs = Backlogs(self)

    @classmethod
    def of(cls, settings: Settings, credentials: Credentials, name: str = "") -> Repository:
        """
        Return the repository in *settings*.
        """
        return cls(
            settings.data_repo_path,
            branch=settings.data_branch,
            credentials=credentials,
            name=name,
            root=settings.data_root,
            expressions=settings.data_expressions,
            committer=Committer(settings.data_committer, settings.data_signing_key_path),
            pushes=not settings.is_replica,
            express=settings.push_express,
        )

    @property
    def known_as(self) -> str:
        """
        Its name in Sentry and Prometheus: its own name, or the address of ``origin``, or its path.
        """
        return self.name or address(self.credentials.remotes.get(ORIGIN)) or str(self.path)

    def head(self) -> str | None:
        """
        Return the branch's commit, or None if there is none yet.

        Raises:
            RepositoryError: The ref is damaged.
        """
        try:
            return read_ref(self.path, self.ref)
        except (RefError, OSError) as exc:
            raise RepositoryError(f"{self.path}: {exc}") from exc

    def remote_head(self, remote: str) -> str | None:
        """
        Return the remote-tracking ref of the branch on *remote*; None: not known.

        Raises:
            RepositoryError: It cannot be read at the moment.
        """
        return self._tracking.read(remote)

    def is_pushed(self, remote: str, commit: str | None = None) -> bool:
        """
        Whether *remote* had *commit* (default: the branch's head) when last seen.
        """
        commit = commit or self.head()
        return commit is None or self.contains(commit, self.remote_head(remote))

    def backlog(self, remote: str) -> Backlog:
        """
        Return the commits that *remote* lacked when last seen.

        Raises:
            RepositoryError: git failed.
        """
        return self._backlogs.of(remote, self.head(), self.remote_head(remote))

    def url_of(self, remote: str) -> str:
        """
        Return the URL of *remote*: from the settings, or else from the repository's own configuration.

        Raises:
            RepositoryError: There is no such remote.
        """
        if url := self.credentials.remotes.get(remote):
            return url
        return self.git.query("config", "--local", "--get", f"remote.{remote}.url").strip()

    def known_since(self, remote: str) -> float | None:
        """
        Return when the URL of *remote* was last changed, in seconds since the epoch; None if not known.
        """
        return self._tracking.at_address_since(remote)

    def saw_on_remote(self, remote: str, commit: str, *, url: str | None = None) -> None:
        """
        Record that *remote* has *commit*.

        Args:
            url: The remote's URL when it was asked; default: its URL now.

        Raises:
            RepositoryError: The ref could not be moved.
        """
        if not self.contains(commit, self.remote_head(remote)):
            self.track(remote, commit, url=url or self.url_of(remote))

    def track(self, remote: str, tip: str, *, url: str) -> None:
        """
        Record that the branch on *remote* is at *tip*, unless the URL of the remote is no longer *url*.

        Raises:
            RepositoryError: The ref could not be moved.
        """
        self._tracking.write(remote, tip, url=url)

    def clear_tracking(self, remote: str) -> None:
        """
        Remove the remote-tracking refs that cannot be read: git fetches nothing while one exists.

        Raises:
            RepositoryError, OSError: A ref cannot be removed.
        """
        self._tracking.clear(remote, *self.credentials.remotes)

    def forget(self, remote: str) -> None:
        """
        Remove the remote-tracking ref of *remote*, which has no such branch.

        Raises:
            RepositoryError: git failed.
        """
        self._tracking.forget(remote)

    def remove_ref(self, ref: str, *, expected: str | None = None) -> None:
        """
        Remove *ref*, if there is one, loose or packed.

        Args:
            expected: The value that it must have; default: any.

        Raises:
            RepositoryError: git failed, or the ref has another value.
        """
        self.git.query("update-ref", "--no-deref", "-d", ref, *([expected] if expected else []))

    def is_current(self, remote: str) -> bool:
        """
        Whether *remote* is still at the URL of this process's settings: a process with another
        CFP_DATA_REMOTE may have started since.
        """
        url = self.credentials.remotes.get(remote)
        return url is None or self._tracking.is_at(remote, url)
