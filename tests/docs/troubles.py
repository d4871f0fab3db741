"""
Twelve troubles, made for real, as an operator first meets them: on the status page, and on the command line.

    make troubles

Each has a deployment of its own. The picture of its page goes to ``docs/images/troubles``, and what the
commands print to ``docs/operations/troubles.md``. Needs Chromium, and root for a small disk.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import psutil
from selenium import webdriver

from ferry.app.dev.preloaded import nursery
from ferry.app.dev.sample import make_sample_repository
from ferry.app.dev.stack import Stack, free_port
from tests.browser import chromium, picture, prefer, resize
from tests.git_http import git_http_server
from tests.parts import Bare, clean_environment, wait_until

DOCS = Path(__file__).resolve().parents[2] / "docs"
PICTURES, PAGE = DOCS / "images" / "troubles", DOCS / "operations" / "troubles.md"
FERRY = str(Path(sys.executable).with_name("ferry"))
_WIDTH = 1000
_SHOWN = "return document.getElementById('service').closest('section').getBoundingClientRect().bottom"
_BEGIN, _END = "<!-- make troubles: begin -->", "<!-- make troubles: end -->"


@dataclass
class Stage:
    """
    A deployment in *place*, over the sample repository and a bare remote.
    """

    place: Path
    env: dict[str, str] = field(default_factory=dict)
    url: str = ""
    stack: Stack | None = None

    @property
    def remote(self) -> Bare:
        return Bare(self.place / "remote.git")

    @contextmanager
    def deployed(self, **env: str) -> Iterator[Stage]:
        """
        Run it for the block, once every commit is on the remote.
        """
        data = Path(env.get("CFP_DATA_REPO_PATH", self.place / "data.git"))
        make_sample_repository(data)
        self.env = {
            **clean_environment(),
            "CFP_DATA_REPO_PATH": str(data),
            "CFP_DATA_REMOTE": str(Bare.init(self.place / "remote.git").path),
            "CFP_PUSH_SWEEP_INTERVAL": "2",
            "CFP_PUSH_BACKOFF_BASE": "20",
            **env,
        }
        ports = {"port": free_port(), "flower_port": free_port()}
        with (self.place / "log").open("wb") as output, nursery() as forks:
            self.stack = Stack(self.env, self.place, nursery=forks, output=output, **ports)
            try:
                self.stack.start()
                self.env, self.url = dict(self.stack.env), self.stack.url
                yield self
            finally:
                self.stack.stop()

    def write(self, *slugs: str) -> None:
        for slug in slugs:
            request = urllib.request.Request(
                f"{self.url}/api/sheets/people/records",
                json.dumps({"slug": slug, "name": slug.title()}).encode(),
                {"Content-Type": "application/json"},
            )
            with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=10):
                pass

    def until(self, happened: Callable[[dict[str, Any]], object]) -> None:
        """
        Wait until the status of origin is as *happened* wants it.
        """

        def is_so() -> object:
            with urllib.request.urlopen(f"{self.url}/api/_internal/push", timeout=10) as answer:
                return happened(json.load(answer)["remotes"]["origin"])

        wait_until(is_so, timeout_s=60, every_s=0.3, what=inspect.getsource(happened).strip())

    def until_idle(self) -> None:
        self.until(lambda origin: origin["state"] == "idle")

    def until_failed(self, reason: str) -> None:
        self.until(lambda origin: (origin["last_error"] or {}).get("reason") == reason)

    def kill(self, part: str) -> None:
        assert self.stack is not None
        process = psutil.Process(self.stack.process_id(part))
        for each in (process, *process.children(recursive=True)):
            each.send_signal(signal.SIGKILL)

    def ferry(self, *arguments: str) -> str:
        """
        What the command prints, and its exit status.
        """
        done = subprocess.run(
            [FERRY, *arguments], env=self.env, capture_output=True, text=True, timeout=120, check=False
        )
        told = (done.stdout + done.stderr).replace(str(self.place), "/srv/ferry").strip()
        return f"$ ferry {' '.join(arguments)}; echo $?\n{told}\n{done.returncode}"


Trouble = Callable[[Stage], AbstractContextManager[None]]
TROUBLES: list[Trouble] = []


def trouble(make: Callable[[Stage], Iterator[None]]) -> Trouble:
    """
    Add a trouble: a generator that yields once an operator can see it. Its docstring is its heading.
    """
    TROUBLES.append(contextmanager(make))
    return TROUBLES[-1]


@trouble
def diverged(stage: Stage) -> Iterator[None]:
    """A colleague pushed to the remote, and a client wrote at the same time"""
    with stage.deployed():
        stage.until_idle()
        stage.remote.commit("Merge pull request 7: fix a typo")
        stage.write("jane", "joan")
        stage.until_failed("non-fast-forward")
        yield


@trouble
def rejected(stage: Stage) -> Iterator[None]:
    """The host's secret scan refuses a commit"""
    with stage.deployed():
        stage.until_idle()
        stage.remote.hook(
            "pre-receive",
            'echo "GH013: Repository rule violations found for refs/heads/main." >&2\n'
            'echo "- Push cannot contain secrets: people/jane.toml:3" >&2\n'
            'echo "  To push, remove the secret, or allow it: https://git.example.org/town/unblock/2xK" >&2\n'
            "exit 1",
        )
        stage.write("jane", "joan")
        stage.until_failed("rejected")
        yield


@trouble
def auth(stage: Stage) -> Iterator[None]:
    """The token for the remote has expired"""
    with git_http_server(stage.place) as server, stage.deployed(CFP_DATA_REMOTE=server.url("remote.git")):
        stage.remote.git("config", "http.receivepack", "true")
        stage.until_idle()
        server.fault = 401
        stage.write("jane")
        stage.until_failed("auth")
        yield


@trouble
def not_found(stage: Stage) -> Iterator[None]:
    """The repository was renamed at its host"""
    with stage.deployed():
        stage.until_idle()
        stage.remote.path.rename(stage.place / "renamed.git")
        stage.write("jane")
        stage.until_failed("not-found")
        yield


@trouble
def network(stage: Stage) -> Iterator[None]:
    """The host is down"""
    with stage.deployed(CFP_DATA_REMOTE=f"http://127.0.0.1:{free_port()}/town.git"):
        stage.write("jane")
        stage.until_failed("network")
        yield


@trouble
def hung(stage: Stage) -> Iterator[None]:
    """The host takes connections and never answers"""
    with git_http_server(stage.place) as server:
        remote = server.url("remote.git")
        with stage.deployed(CFP_DATA_REMOTE=remote, CFP_PUSH_TIMEOUT="5", CFP_PUSH_BACKOFF_BASE="1"):
            stage.remote.git("config", "http.receivepack", "true")
            stage.until_idle()
            server.fault = "hang"
            stage.write("jane", "joan")
            stage.until(lambda origin: origin["current_attempt"] == 3 and origin["state"] == "pushing")
            yield


@trouble
def locked(stage: Stage) -> Iterator[None]:
    """A git that was killed at the remote left its lock"""
    with stage.deployed():
        stage.until_idle()
        (stage.remote.path / "refs/heads/main.lock").touch()
        stage.write("jane")
        stage.until_failed("locked")
        yield


@trouble
def worker_away(stage: Stage) -> Iterator[None]:
    """The worker was killed, and nothing starts it again"""
    with stage.deployed():
        stage.until_idle()
        stage.kill("worker")
        stage.write("jane", "joan")
        stage.until_failed("stalled")
        yield


@trouble
def beat_away(stage: Stage) -> Iterator[None]:
    """Beat was killed: commits arrive, except those whose message is lost"""
    with stage.deployed():
        stage.until_idle()
        stage.kill("beat")
        stage.write("jane")
        stage.until_idle()
        wait_until(lambda: "beat" in stage.ferry("doctor"), timeout_s=60, every_s=2, what="late sweeps")
        yield


@trouble
def redis_away(stage: Stage) -> Iterator[None]:
    """Redis is down"""
    with stage.deployed():
        stage.until_idle()
        stage.kill("valkey")
        stage.write("jane", "joan")
        stage.until_failed("stalled")
        yield


@trouble
def disk_full(stage: Stage) -> Iterator[None]:
    """The disk of the data repository is full"""
    small = stage.place / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        with stage.deployed(CFP_DATA_REPO_PATH=str(small / "data.git")):
            stage.until_idle()
            with contextlib.suppress(OSError), (small / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            stage.write("jane")
            yield
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


@trouble
def paused(stage: Stage) -> Iterator[None]:
    """An operator paused the pushes, and left for the day"""
    with stage.deployed():
        stage.until_idle()
        stage.ferry("push", "pause", "--reason", "the host moves")
        stage.write("jane", "joan")
        stage.until(lambda origin: origin["state"] == "paused" and origin["pending_commits"] == 2)
        yield


def meet(make: Trouble, driver: webdriver.Chrome) -> str:
    """
    Make a trouble, take the picture of its page, and return its section.
    """
    name = make.__name__.replace("_", "-")
    with tempfile.TemporaryDirectory(prefix="ferry-") as place:
        stage = Stage(Path(place))
        with make(stage):
            driver.get(f"{stage.url}/status")
            picture(driver, PICTURES / f"{name}.png", height=round(driver.execute_script(_SHOWN)) + 16)
            said = [stage.ferry("push", "status"), _troubled(stage.ferry("doctor"))]
    heading = (make.__doc__ or name).strip()
    image = f"![The status page: {heading[0].lower()}{heading[1:]}](../images/troubles/{name}.png)"
    return "\n\n".join([f"## {heading}", image, "```console\n" + "\n".join(said) + "\n```"])


def _troubled(said: str) -> str:
    """
    Leave out of the doctor's findings those that are well.
    """
    return "\n".join(line for line in said.splitlines() if not line.startswith("ok "))


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    wanted, sections = sys.argv[1:], []
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as driver:
        resize(driver, _WIDTH, 800)
        prefer(driver, "light")
        for make in TROUBLES:
            if not wanted or make.__name__ in wanted:
                click.echo(f"{make.__name__} ...")
                sections.append(meet(make, driver))
    if wanted:
        click.echo("\n\n".join(sections))
        return
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    PAGE.write_text(f"{before}{_BEGIN}\n\n" + "\n\n".join(sections) + f"\n\n{_END}{after}")


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("make troubles mounts a small disk, and so needs root")
    main()
