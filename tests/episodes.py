"""
One real failure for each reason, and the page that it leads to.

The tests hold each of them to the table; ``python -m tests.episodes`` writes what an
operator sees of them to ``docs/operations/pages.md``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentry_sdk

from ferry.app.dev.sample import make_sample_repository
from ferry.app.dev.sentry_sink import Event, sentry_sink
from ferry.app.store.store import Store
from ferry.worker import paging
from ferry.worker.errors import PushError
from ferry.worker.files.places import remotes_directory, write_lock
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.prepare import prepare
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.push import Pusher, Request
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker.settings import Settings
from ferry.worker.watchdog import Watchdog
from tests.git_http import git_http_server
from tests.parts import Bare
from tests.ssh_server import make_key, ssh_server

PAGES = Path(__file__).resolve().parents[1] / "docs" / "operations" / "pages.md"


@dataclass
class Place:
    """
    Where one episode takes place: a data repository, its remote, and what undoes what was done to them.
    """

    directory: Path
    data: Bare
    remote: Bare
    env: dict[str, str]
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


Break = Callable[[Place], None]


def _non_fast_forward(place: Place) -> None:
    copy = Bare.copy(place.remote.path, place.directory / "elsewhere.git")
    (copy.path / "ferry").mkdir()
    elsewhere = Store(Repository(copy.path, branch="main"))
    with elsewhere.commit("Correct an address by hand", author=("Sam", "sam@example.org")) as transaction:
        transaction.put("people", "jane", {"slug": "jane", "name": "Jane Roe"})
    place.remote.git("fetch", "-q", elsewhere.snapshot().git_dir, "main:main")


def _rejected(place: Place) -> None:
    place.remote.hook("pre-receive", 'echo "push rule: people need an e-mail address" >&2; exit 1')


def _over_http(status: int | None, *, password: str = "") -> Break:
    def answer(place: Place) -> None:
        root = place.remote.path.parent
        place.remote.git("config", "http.receivepack", "true")
        server = place.undo.enter_context(git_http_server(root))
        server.fault, server.password = status, password or None
        place.env["CFP_DATA_REMOTE"] = server.url(place.remote.path.name)

    return answer


def _host_key(place: Place) -> None:
    server = place.undo.enter_context(ssh_server(place.directory))
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {make_key(place.directory / 'another')}")
    place.env["CFP_DATA_REMOTE"] = server.url(place.remote)
    place.env["CFP_SSH_KEY_PATH"], place.env["CFP_SSH_KNOWN_HOSTS"] = str(server.key), str(server.known_hosts)


def _not_found(place: Place) -> None:
    place.remote.path.rename(place.directory / "moved.git")


def _locked(place: Place) -> None:
    (place.remote.path / "refs" / "heads" / "main.lock").touch()


def _network(place: Place) -> None:
    unused = place.undo.enter_context(socket.socket())
    unused.bind(("127.0.0.1", 0))
    place.env["CFP_DATA_REMOTE"] = f"git://127.0.0.1:{unused.getsockname()[1]}/data.git"


def _timeout(place: Place) -> None:
    place.remote.hook("pre-receive", "sleep 30")
    place.env["CFP_PUSH_TIMEOUT"] = "1"


def _local(place: Place) -> None:
    blob = place.data.git("rev-parse", "main:people/jane.toml")
    path = place.data.path / "objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    path.write_bytes(b"")


def _stalled(place: Place) -> None:
    place.env["CFP_PUSH_SWEEP_INTERVAL"] = "15"


def _unknown(place: Place) -> None:
    helper = place.directory / "git-remote-pigeon"
    # A list of refs that is none; of a helper that just ends, newer gits say more than others.
    helper.write_text("#!/bin/sh\nread -r _\necho push\necho\nread -r _\necho pigeon\necho\ncat >/dev/null\n")
    helper.chmod(0o755)
    os.environ["PATH"] = f"{place.directory}:{os.environ['PATH']}"
    place.undo.callback(os.environ.__setitem__, "PATH", os.environ["PATH"].partition(":")[2])
    place.env["CFP_DATA_REMOTE"] = "pigeon://roof/data"


EPISODES: Mapping[str, Break] = {
    "non-fast-forward": _non_fast_forward,
    "rejected": _rejected,
    "auth": _over_http(None, password="renewed"),
    "host-key": _host_key,
    "not-found": _not_found,
    "locked": _locked,
    "network": _network,
    "timeout": _timeout,
    "server": _over_http(503),
    "rate-limited": _over_http(429),
    "local": _local,
    "stalled": _stalled,
    "unknown": _unknown,
}


@contextlib.contextmanager
def episode(directory: Path, reason: str) -> Iterator[tuple[PushError | None, list[Event]]]:
    """
    Let one attempt to push fail with *reason*; yields its error and the pages that Sentry received.
    """
    data, remote = Bare(directory / "data.git"), Bare.init(directory / "remote.git")
    make_sample_repository(data.path)
    env = {
        "CFP_DATA_REPO_PATH": str(data.path),
        "CFP_DATA_REMOTE": str(remote.path),
        "CFP_REDIS_URL": "redis://redis.invalid",
        "CFP_PUSH_PAGE_AFTER": "0",
    }
    data.git("push", "-q", str(remote.path), "main")
    place = Place(directory, data, remote, env)
    with place.undo, sentry_sink() as sentry:
        prepare(Settings.from_env(env))
        data.git("fetch", "-q", "origin")
        store = Store(Repository(data.path, branch="main"))
        with store.commit("PUT /people/jane", author=("ana", "ana@example.org")) as transaction:
            transaction.put("people", "jane", {"slug": "jane", "name": "Jane Doe"})
        EPISODES[reason](place)
        yield _attempt(place, sentry.dsn, watch=reason == "stalled"), sentry.events


def _attempt(place: Place, dsn: str, *, watch: bool) -> PushError | None:
    settings = Settings.from_env({**place.env, "SENTRY_DSN": dsn})
    seen = place.data.git("rev-parse", "refs/remotes/origin/main")
    prepare(settings)
    # As if it had had this address all along: another one would forget what was seen.
    place.data.git("update-ref", "refs/remotes/origin/main", seen)
    path = settings.data_repo_path
    repository = Repository(path, branch="main", credentials=Credentials.from_settings(settings, {}))
    ledger = Ledger(remotes_directory(path))
    reconciler = Reconciler(settings, repository, ledger, write_lock(path))
    paging.configure(settings)
    try:
        if watch:
            now = time.monotonic()
            watchdog = Watchdog(settings, repository, ledger, monotonic=lambda: now)
            assert watchdog.check() == []
            now += 60
            assert watchdog.check() == ["origin"]
            return None
        Pusher(settings, repository, ledger, reconciler).push(Request(remote="origin", chain="episode"))
    except PushError as error:
        return error
    finally:
        paging.flush(5)
        sentry_sdk.init()
    raise AssertionError("the push landed")


def screen(page: Event) -> str:
    """
    Return a page as an operator sees it: title, tags, context.
    """
    tags = "  ".join(f"{name}={value}" for name, value in page["tags"].items())
    lines = [f"{page['level'].upper()}  {page['message']}", tags, ""]
    for name, value in page["contexts"]["push"].items():
        if name != "type":
            lines += _lines(name, value)
    return "\n".join(lines)


def _lines(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"{name}:", *(f"    {item}" for item in value)]
    text = str(value).strip()
    if "\n" in text:
        return [f"{name}:", *(f"    {line.rstrip()}" for line in text.splitlines())]
    return [f"{name}: {text}"]


_HEAD = """# Pages

What each page looks like: one Sentry event of level `fatal` per episode, that is per remote and reason,
until a push lands. The [runbook](runbook.md) says what to do about each. `python -m tests.episodes`
makes these pages from real failures, and the tests compare every reason with its page.

## Make the alert rule

The pages of one remote and reason are one issue in Sentry, whatever git's message, and each episode
adds one event to it. Sentry's default rule for a new project notifies only of **new issues**, so it
stays silent at the second episode. Make this alert rule (*Alerts*, *Create Alert*, *Issues*):

| part | choose |
|---|---|
| when | no trigger, which means each event; *An event or issue activity is captured* if one is needed |
| if | *The event's level* is *equal to* *fatal* |
| then | the person on call |
| action interval | 5 minutes, the shortest |

Ferry sends no other event of level `fatal`, and sends the event of an episode once, so each event needs
a person. To route by team, add *The event's tags match* `repository`. `ferry page --test` sends a page
through the rule.

With [`SENTRY_AUTH_TOKEN`](../reference/settings.md#sentry_auth_token-and-sentry_org), Ferry resolves
the issue when a push lands. The next episode reopens it.
"""


def main() -> None:
    """
    Write ``docs/operations/pages.md``.
    """
    parts = [_HEAD]
    for reason in EPISODES:
        directory = Path(tempfile.mkdtemp(prefix="ferry-"))
        try:
            with episode(directory, reason) as (_, pages):
                text = screen(pages[0]).replace(str(directory), "/srv/ferry").replace(directory.name, "ferry")
        finally:
            shutil.rmtree(directory)
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:3000", text)
        parts.append(f"## {reason}\n\n```text\n{text}\n```\n")
        sys.stderr.write(f"{reason}\n")
    PAGES.parent.mkdir(exist_ok=True)
    PAGES.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
