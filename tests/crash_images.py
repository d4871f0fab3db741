"""
Crash images: what a power cut would leave of a deployment at some instant, booted again.

    python -m tests.crash_images --seconds 600 --seed 7

The repository lies on a file system in a file. What the kernel has not written yet is not in
the file, and so not in a copy of it. All processes are stopped for as long as it takes to
copy the file, at random instants under load; what had been acknowledged by then must be in the
copy, once it is mounted, and a worker that is started on it must bring it to the remote.
``make soak`` runs it for some minutes, ``tests/faults/test_crash_images.py`` for some seconds;
both need root and loop devices.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ferry.app.dev.sample import make_sample_repository
from ferry.app.dev.stack import free_port
from ferry.worker.git.command import QUERY_TIMEOUT_S
from tests.parts import CELERY, Bare, Process, wait_until
from tests.valkey_server import ValkeyServer

# For XFS the least that it can be made in; neither is to become full, however long a run lasts.
_SIZES = {"ext4": "512M", "xfs": "640M"}
KINDS = tuple(_SIZES)
_GUNICORN = [sys.executable, "-m", "gunicorn", "--config", "python:ferry.app.production"]
_WRITERS = 3
_REQUEST_TIMEOUT_S = 10.0
_STILL_TIMEOUT_S = 60.0
_MOST_REPEATS = 5
_SAID = 4000  # characters of the log of a part that has ended
_STATUS = "status "


def why_not(kind: str) -> str | None:
    """
    Return why no image of a file system can be made here; None where one can.
    """
    if os.geteuid() != 0:
        return "mounting needs root"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    if not any(line.split()[-1] == kind for line in Path("/proc/filesystems").read_text().splitlines()):
        return f"the kernel has no {kind}"
    if not shutil.which(f"mkfs.{kind}") or not shutil.which("losetup"):
        return f"mkfs.{kind} or losetup is not installed"
    return None


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True, timeout=_STILL_TIMEOUT_S
    )
    return done.stdout.strip()


def make_disk(kind: str, file: Path) -> None:
    """
    Make *file* a file system of *kind*.
    """
    _run("truncate", "--size", _SIZES[kind], file)
    _run(f"mkfs.{kind}", "-q", file)


@contextlib.contextmanager
def mounted(file: Path, at: Path) -> Iterator[Path]:
    """
    Mount the file system in *file* for the block; what it has to recover from, it recovers from now.
    """
    at.mkdir()
    # Past this machine's own cache, or the copy would hold what no disk has yet.
    loop = _run("losetup", "--find", "--show", "--direct-io=on", file)
    try:
        # A copy has the name of its original, and XFS refuses the same name twice.
        _run("mount", *(["-o", "nouuid"] if _is_xfs(file) else []), loop, at)
        try:
            yield at
        finally:
            _run("umount", "--lazy", at)
    finally:
        _run("losetup", "--detach", loop)


def _is_xfs(file: Path) -> bool:
    with file.open("rb") as disk:
        return disk.read(4) == b"XFSB"


def copy_still(file: Path, to: Path) -> None:
    """
    Copy the backing file of a mounted disk on which every process is stopped.

    The kernel may still be writing: it is copied until a copy is what the file holds afterwards.
    """
    deadline = time.monotonic() + _STILL_TIMEOUT_S
    while True:
        _run("cp", "--sparse=always", file, to)
        if subprocess.run(["cmp", "--quiet", str(file), str(to)], check=False, timeout=60).returncode == 0:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{file} is written for ever")


@dataclass(frozen=True, kw_only=True)
class Image:
    """
    A crash image.

    Attributes:
        number: Which one it is.
        file: The file system.
        remote: The remote as it was at that instant.
        told: What had been acknowledged: for each Idempotency-Key the record's slug and the commit.
    """

    number: int
    file: Path
    remote: Bare
    told: dict[str, tuple[str, str]]


@dataclass
class Report:
    """
    What the images of one run came to.
    """

    images: int = 0
    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)

    def note(self, wrong: Iterable[str]) -> None:
        """
        Keep what is wrong, and print it at once: what comes later may end the run.
        """
        for problem in wrong:
            self.wrong.append(problem)
            print(problem, flush=True)  # noqa: T201 - a program's own output


class Deployment:
    """
    API and worker on a repository on a disk of *kind*, with writers; use as a context manager.

    Args:
        directory: Where everything lies.
        redis_url: A server whose databases 1 and up are free; 0 is the deployment's.
        has_beat: Whether sweeps take place, and with them packing, which keeps the disk from becoming full.

    Attributes:
        refused: What writers were answered that is neither a commit nor worth another try.
    """

    def __init__(self, directory: Path, *, kind: str, redis_url: str, seed: int, has_beat: bool) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._directory = directory
        self._redis_url = redis_url
        self._disk = directory / "disk"
        self._told: dict[str, tuple[str, str]] = {}
        self._has_beat = has_beat
        self._stopped_for_s = 0.0
        self.refused: list[str] = []
        self._stop = threading.Event()
        self._writers: list[threading.Thread] = []
        self._numbers = itertools.count(1)
        self._open = contextlib.ExitStack()
        make_disk(kind, self._disk)
        self.remote = Bare.init(directory / "remote.git")
        # After some thousand objects git would pack it in a process that is no child of ours: not stopped
        # with the others, it moves objects while they are copied, and the copy lacks some.
        self.remote.git("config", "receive.autogc", "false")
        self._port = free_port()

    def __enter__(self) -> Deployment:
        with contextlib.ExitStack() as opened:
            place = opened.enter_context(mounted(self._disk, self._directory / "mounted"))
            make_sample_repository(place / "data.git")
            env = self._environment(place / "data.git", self.remote, 0)
            api = [*_GUNICORN, "--bind", f"127.0.0.1:{self._port}", "--workers", "2"]
            self._parts = [
                Process(
                    [*api, "ferry.app:create_app(open_access=True)"],
                    env,
                    self._directory / "api.log",
                ),
                Process([*CELERY, "worker", "-l", "INFO"], env, self._directory / "worker.log"),
            ]
            if self._has_beat:
                self._parts.append(Process([*CELERY, "beat"], env, self._directory / "beat.log"))
            for part in self._parts:
                opened.callback(part.kill)
                part.spawn()
            opened.callback(self.end_writers)
            self._writers = [threading.Thread(target=self._write, args=(n,)) for n in range(_WRITERS)]
            for writer in self._writers:
                writer.start()
            wait_until(lambda: len(self._told) > _WRITERS, timeout_s=90, what="the first answers")
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def pause(self, least_s: float, most_s: float) -> None:
        """
        Let some random time pass.
        """
        self._stop.wait(self._random.uniform(least_s, most_s))

    def kill_an_api_process(self) -> None:
        """
        Kill one with SIGKILL; gunicorn starts another.
        """
        with contextlib.suppress(psutil.Error, IndexError):
            self._random.choice(psutil.Process(self._parts[0].pid).children()).kill()

    def end_writers(self) -> None:
        """
        Let nothing more be written, for no more images.
        """
        self._stop.set()
        for writer in self._writers:
            writer.join(2 * _REQUEST_TIMEOUT_S)

    def image(self) -> Image:
        """
        Take a crash image now.
        """
        number = next(self._numbers)
        file, remote = self._directory / f"image-{number}", self._directory / f"remote-{number}.git"
        self._supervise()
        begun = time.monotonic()
        stopped = self._signal(signal.SIGSTOP)
        try:
            copy_still(self._disk, file)
            shutil.copytree(self.remote.path, remote)
            for lock in (*remote.rglob("*.lock"), *remote.rglob("tmp_objdir*")):  # of pushes that are stopped
                shutil.rmtree(lock) if lock.is_dir() else lock.unlink()
            # Whoever was told by now was told before everything stopped.
            told = dict(self._told)
        finally:
            self._stopped_for_s = time.monotonic() - begun
            for process in reversed(stopped):  # or gunicorn would end children that have been silent for long
                with contextlib.suppress(psutil.Error):
                    process.resume()
        return Image(number=number, file=file, remote=Bare(remote), told=told)

    def boot(self, image: Image, *, with_worker: bool) -> list[str]:
        """
        Mount *image*, start Ferry on it, and return what is wrong.

        Args:
            with_worker: Also start a worker and wait until it has brought everything to the remote.
        """
        name = f"image {image.number}"
        with mounted(image.file, self._directory / f"booted-{image.number}") as place:
            data = Bare(place / "data.git")
            wrong = [f"{name}: {problem}" for problem in self._lost(image, data)]
            if wrong or not with_worker:
                return wrong
            env = self._environment(data.path, image.remote, 1 + image.number % 15)
            log = self._directory / f"booted-{image.number}.log"
            wrong += [f"{name}: {problem}" for problem in self._repeats(image, env, log)]
            worker = Process([*CELERY, "worker", "-l", "INFO"], env, log)
            worker.spawn()
            try:
                wait_until(
                    lambda: image.remote.head() == data.head(), timeout_s=60, what="what was left to push"
                )
            except AssertionError as exc:
                wrong.append(f"{name}: {exc}")
            finally:
                worker.kill()
        if not wrong:
            image.file.unlink()
            shutil.rmtree(image.remote.path)
            log.unlink()
        return wrong

    def _lost(self, image: Image, data: Bare) -> Iterator[str]:
        history = set(data.git("rev-list", "main").split())
        lost = [commit for _, commit in image.told.values() if commit not in history]
        if lost:
            yield f"{len(lost)} of {len(image.told)} acknowledged commits are lost: {lost[:3]}"
        pushed = image.remote.head()
        if pushed and pushed not in history:
            yield f"the remote has {pushed}, which the branch lost"
        copy = self._directory / f"copy-{image.number}.git"
        try:
            data.git("clone", "--quiet", "--bare", "--no-local", ".", str(copy))
            Bare(copy).git("fsck", "--strict")
        except subprocess.CalledProcessError as exc:
            yield f"the branch is damaged: {exc.stderr}"
        shutil.rmtree(copy, ignore_errors=True)

    def _repeats(self, image: Image, env: dict[str, str], log: Path) -> Iterator[str]:
        """
        Repeat the last writes with their keys: each has the answer that it had.
        """
        port = free_port()
        command = [*_GUNICORN, "--bind", f"127.0.0.1:{port}", "ferry.app:create_app(open_access=True)"]
        api = Process(command, env, log)
        api.spawn()
        try:
            for key, (slug, commit) in list(image.told.items())[-_MOST_REPEATS:]:
                found = wait_until(
                    lambda key=key, slug=slug: _post(port, key, slug), timeout_s=60, what="an answer"
                )
                if found != commit:
                    yield f"{key} was answered {commit}, and is answered {found} when it is repeated"
        except AssertionError as exc:
            yield str(exc)
        finally:
            api.kill()

    def _supervise(self) -> None:
        """
        Look whether each part still runs.

        One that was stopped for longer than a command of git's may take, as on a busy machine, is started
        again where that has ended it: gunicorn ends when one of its processes does before it has started.

        Raises:
            AssertionError: One has ended by itself; with the end of its log.
        """
        for part in self._parts:
            if part.ended():
                if self._stopped_for_s < QUERY_TIMEOUT_S / 2:
                    said = part.text()[-_SAID:]
                    raise AssertionError(f"{part.log_path.name}: it ended, status {part.wait()}:\n{said}")
                part.spawn()

    def _signal(self, number: signal.Signals) -> list[psutil.Process]:
        """
        Send a signal to everything that runs on the disk; returns the processes.
        """
        reached: dict[int, psutil.Process] = {}
        while True:
            # Whoever was stopped starts no more; look until there is nobody new.
            found = [psutil.Process(part.pid) for part in self._parts]
            found += [child for each in found for child in each.children(recursive=True)]
            fresh = [each for each in found if each.pid not in reached]
            if not fresh:
                return list(reached.values())
            for each in fresh:
                reached[each.pid] = each
                with contextlib.suppress(psutil.Error):
                    each.send_signal(number)

    def _environment(self, data: Path, remote: Bare, database: int) -> dict[str, str]:
        return {
            "CFP_DATA_REPO_PATH": str(data),
            "CFP_DATA_REMOTE": str(remote.path),
            "CFP_REDIS_URL": f"{self._redis_url}/{database}",
            "CFP_PUSH_BACKOFF_BASE": "0.2",
            "CFP_PUSH_BACKOFF_CAP": "1",
            "CFP_PUSH_SWEEP_INTERVAL": "2",
        }

    def _write(self, writer: int) -> None:
        for number in itertools.count(1):
            slug = f"w{writer}-{number}"
            key = f"key-{slug}"
            while True:
                if self._stop.is_set():
                    return
                if (commit := _post(self._port, key, slug)) and not commit.startswith(_STATUS):
                    self._told[key] = slug, commit
                    break
                if commit:
                    self.refused.append(f"{key} was answered {commit}")
                    break
                self._stop.wait(0.05)


def _post(port: int, key: str, slug: str) -> str | None:
    """
    Create a record; returns the commit, None where there was no answer, or the status that was answered.
    """
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/sheets/people/records",
        data=json.dumps({"slug": slug, "name": slug}).encode(),
        headers={"Idempotency-Key": key, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as response:
            return str(json.load(response)["commit"]["hash"])
    except urllib.error.HTTPError as exc:
        return None if exc.code >= 500 else f"{_STATUS}{exc.code}: {exc.read(_SAID).decode()}"
    except (OSError, ValueError, http.client.HTTPException):
        return None


def run(directory: Path, *, kind: str, redis_url: str, seed: int, seconds: float, images: int = 0) -> Report:
    """
    Take and boot images of a deployment for *seconds*, or a number of *images*.

    Where something is wrong, the image and the logs stay in *directory*.
    """
    report, until = Report(), time.monotonic() + seconds
    taken: list[Image] = []
    try:
        with Deployment(
            directory, kind=kind, redis_url=redis_url, seed=seed, has_beat=not images
        ) as deployment:
            while len(taken) < images if images else time.monotonic() < until:
                if len(taken) % 2:
                    deployment.kill_an_api_process()
                deployment.pause(0.0, 1.5)
                taken.append(deployment.image())
                if not images:
                    report.note(deployment.boot(taken[-1], with_worker=True))
            if images:
                deployment.end_writers()
                for image in taken:
                    report.note(deployment.boot(image, with_worker=image is taken[-1]))
            report.note(deployment.refused)
    except (AssertionError, OSError, subprocess.SubprocessError) as exc:
        report.note([f"the deployment: {str(exc)[-2 * _SAID :]}"])
    report.images, report.acknowledged = len(taken), len(taken[-1].told) if taken else 0
    return report


def main() -> int:
    """
    Run on each kind of file system that can be had here, and print what came of it.
    """
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--seconds", type=float, default=600.0, help="how long, for all kinds together")
    arguments.add_argument("--seed", type=int, default=None)
    arguments.add_argument("--kind", choices=KINDS, default=None, help="that file system alone")
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or the disks would stay mounted
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    wanted = [given.kind] if given.kind else list(KINDS)
    possible = [kind for kind in wanted if why_not(kind) is None]
    for kind in set(wanted) - set(possible):
        sys.stdout.write(f"no crash images of {kind}: {why_not(kind)}\n")
    wrong = []
    for kind in possible:
        directory = Path(tempfile.mkdtemp(prefix=f"ferry-images-{kind}-"))
        with ValkeyServer() as redis:
            report = run(
                directory, kind=kind, redis_url=f"redis://127.0.0.1:{redis.port}", seed=seed,
                seconds=given.seconds / len(possible),
            )  # fmt: skip
        wrong += report.wrong
        sys.stdout.write(
            f"seed {seed}: {report.images} crash images of {kind}, {report.acknowledged} writes "
            f"acknowledged, {len(report.wrong)} things wrong\n"
        )
        if report.wrong:
            sys.stdout.write(f"the images that were wrong and the logs are kept in {directory}\n")
        else:
            shutil.rmtree(directory, ignore_errors=True)  # a remote may still be ending a push
        sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
