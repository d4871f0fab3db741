"""
From the commit to the remote: latency, bursts, backlogs, bytes.
"""

from __future__ import annotations

import itertools
import os
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.ground import (
    MAIN,
    Ground,
    Site,
    bare_write,
    git,
    make_repository,
    settle,
    timed_s,
)
from benchmarks.relay import relay
from benchmarks.table import Figure, against, p99
from ferry.worker.enqueue import BUDGET_S
from ferry.worker.git.environment import neighbours_environment
from ferry.worker.git.express.pack import pack_of
from ferry.worker.git.express.wire import update
from ferry.worker.git.refs import read_ref
from ferry.worker.push import Request
from tests.git_http import git_http_server, make_certificate
from tests.parts import Bare
from tests.ssh_server import IS_MISSING, Server, ssh_server
from tests.valkey_server import ValkeyServer

_COMMITS = 100
_FEW = 10
_PUSHED = 45
_ROUND_TRIPS_MS = (0, 20, 50, 100)
_WRITES = 500
_BURST = 1000
_BACKLOG = 10_000
_BURST_LAG_S, _BURST_PUSHES = 0.2, 40
_CAPABILITIES = frozenset({"report-status-v2"})


def latency(ground: Ground) -> list[Figure]:
    """
    One commit at a time, to a bare repository on the same disk.
    """
    site, plain, alone = (ground.site(f"idle-{name}") for name in ("ours", "plain", "alone"))
    ground.worker(site)
    command = ["git", "push", "--quiet", str(plain.remote), MAIN]
    least: list[float] = []
    with alone.arrivals() as await_arrival:
        ours, floor = _one_by_one(
            site, plain, command, beside=lambda: least.append(_received(alone, await_arrival)[0])
        )
    floor_is = "git push"
    return [
        against("commit to remote, idle", ours, floor, floor_is=floor_is, at_most=0.6, p99_at_most=2.0),
        against("of it, git receive-pack with a request made before", least[5:], floor, floor_is=floor_is),
        *_processor_time(ground),
        _enqueue(ground),
        _hung_redis(ground),
    ]


def _received(site: Site, await_arrival: Callable[[str], None]) -> tuple[float, float]:
    """
    Commit, and let ``git receive-pack`` take that, with nothing else on this side: no client can change what
    that takes of a push.

    Returns:
        The milliseconds from its start to the remote's moved branch, and its processor time.
    """
    old = read_ref(site.data, MAIN)
    assert old
    if read_ref(site.remote, MAIN) != old:
        git(site.data, "push", "--quiet", "origin", MAIN)
    new = site.write(0, name=f"At {time.time()}")
    pack = pack_of(site.pipeline.repository.objects, old, [new])
    request = update(MAIN, old=old, new=new, capabilities=_CAPABILITIES) + pack
    command, env = ["git", "receive-pack", str(site.remote)], neighbours_environment(os.environ)
    used, begun = _processor_ms(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as receiver:
        assert receiver.stdin
        receiver.stdin.write(request)
        receiver.stdin.close()
        await_arrival(new)
        took_ms = 1000 * (time.perf_counter() - begun)
    return took_ms, _processor_ms(resource.RUSAGE_CHILDREN) - used


def _one_by_one(
    site: Site,
    plain: Site,
    command: list[str],
    env: dict[str, str] | None = None,
    *,
    floor_every: int = 1,
    beside: Callable[[], object] = lambda: None,
) -> tuple[list[float], list[float]]:
    with site.arrivals() as await_arrival:
        await_arrival(site.transact(0, name="First"))
        subprocess.run(command, cwd=plain.data, env=env, check=True, capture_output=True)
        ours, floor = [], []
        for number in range(_COMMITS):
            commit = site.write(number % 200, name=f"Name {number}")
            begun = time.perf_counter()
            site.queue.enqueue_push(commit)
            await_arrival(commit)
            ours.append(1000 * (time.perf_counter() - begun))
            time.sleep(0.03)  # idle: what the worker does afterwards is over
            beside()
            if number % floor_every:
                continue
            plain.write(number % 200, name=f"Name {number}")
            floor.append(
                1000
                * timed_s(
                    lambda: subprocess.run(command, cwd=plain.data, env=env, check=True, capture_output=True)
                )
            )
            time.sleep(0.01)
        return ours, floor


def _processor_time(ground: Ground) -> list[Figure]:
    """
    What a push takes of the processor, on both sides: by the express lane, by git, and the remote's alone.
    """
    taken: dict[str, list[float]] = {"on": [], "off": []}
    for express, column in taken.items():
        site = ground.site(f"processor-{express}")
        site = ground.over(site.data, site.remote, CFP_PUSH_EXPRESS=express)
        for number in range(_PUSHED):
            site.write(number, name=f"Name {number}")
            before = _processor_ms()
            site.pipeline.pusher.push(Request(remote="origin", chain=str(number)))
            column.append(_processor_ms() - before)
        del column[:5]
    alone = ground.site("processor-alone")
    with alone.arrivals() as await_arrival:
        least = [_received(alone, await_arrival)[1] for _ in range(_PUSHED)][5:]
    floor, floor_is = taken["off"], "by git"
    return [
        against("processor time of a push, both sides", taken["on"], floor, floor_is=floor_is, at_most=0.5),
        against("of it, git receive-pack and what it starts", least, floor, floor_is=floor_is),
    ]


def _processor_ms(*whose: int) -> float:
    used = [resource.getrusage(who) for who in whose or (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return 1000 * sum(each.ru_utime + each.ru_stime for each in used)


def _enqueue(ground: Ground) -> Figure:
    """
    What queueing adds to a write, in a row of writes.
    """
    site = ground.site("enqueue")
    taken = []
    for number in range(_WRITES):
        commit = site.write(number % 200, name=f"Name {number}")
        taken.append(1000 * timed_s(lambda commit=commit: site.queue.enqueue_push(commit)))
    del taken[:5]
    return Figure(
        name="enqueue's share of a write",
        unit="ms",
        value=statistics.median(taken),
        p99=p99(taken),
        target="≤ 1 ms, p99 ≤ 3 ms",
        met=statistics.median(taken) <= 1 and p99(taken) <= 3,
    )


def _hung_redis(ground: Ground) -> Figure:
    with ValkeyServer() as hung:
        site = ground.site("hung")
        site = ground.over(site.data, site.remote, CFP_REDIS_URL=f"redis://127.0.0.1:{hung.port}/0")
        site.transact(0, name="Before")
        os.kill(hung.pid, signal.SIGSTOP)
        try:
            commit = site.write(1)
            waits = [1000 * timed_s(lambda: site.queue.enqueue_push(commit)) for _ in range(8)]
        finally:
            os.kill(hung.pid, signal.SIGCONT)
    limit = 1000 * BUDGET_S
    return Figure(
        name="enqueue, Redis hung",
        unit="ms",
        value=statistics.median(waits),
        p99=max(waits),
        target=f"≤ {limit:g} ms",
        met=max(waits) <= limit + 5,  # waking a thread takes its time
    )


def over_ssh(ground: Ground) -> list[Figure]:
    """
    The same, over ssh to this machine.
    """
    if IS_MISSING:
        return []
    server = ground.resources.enter_context(ssh_server(ground.directory))
    site, plain = ground.site("ssh"), ground.site("ssh-plain")
    site = ground.over(
        site.data, site.remote, url=server.url(Bare(site.remote)),
        CFP_SSH_KEY_PATH=str(server.key), CFP_SSH_KNOWN_HOSTS=str(server.known_hosts),
    )  # fmt: skip
    ground.worker(site)
    options = (
        "IdentitiesOnly=yes",
        f'IdentityFile="{server.key}"',
        f'UserKnownHostsFile="{server.known_hosts}"',
    )
    ssh = shlex.join(["ssh", *(word for option in options for word in ("-o", option))])
    env = {**os.environ, "GIT_SSH_COMMAND": ssh}
    command = ["git", "push", "--quiet", server.url(Bare(plain.remote)), MAIN]
    ours, floor = _one_by_one(site, plain, command, env, floor_every=2)  # a quarter of a second each
    return [against("commit to remote over ssh", ours, floor, floor_is="git push over ssh", at_most=0.25)]


def from_afar(ground: Ground) -> list[Figure]:
    """
    The same, to a host that is further away, beside pushes by git over a shared connection.
    """
    certificate = make_certificate(ground.directory / "certificate.pem")
    web = ground.resources.enter_context(git_http_server(ground.directory, certificate))
    figures = [] if IS_MISSING else _over_ssh_from_afar(ground)
    for round_trip_ms in _ROUND_TRIPS_MS:
        port = ground.resources.enter_context(relay(web.server_address[1], round_trip_ms))

        def url(remote: Path, port: int = port) -> str:
            return f"https://127.0.0.1:{port}/{remote.relative_to(ground.directory)}"

        figures.append(_both_ways(ground, "https", round_trip_ms, url, GIT_SSL_CAINFO=str(certificate)))
    return figures


def _over_ssh_from_afar(ground: Ground) -> list[Figure]:
    server = ground.resources.enter_context(ssh_server(ground.directory))
    host_key = (server.directory / "host-key.pub").read_text()
    keys = {"CFP_SSH_KEY_PATH": str(server.key), "CFP_SSH_KNOWN_HOSTS": str(server.known_hosts)}
    figures = []
    for round_trip_ms in _ROUND_TRIPS_MS:
        there = replace(server, port=ground.resources.enter_context(relay(server.port, round_trip_ms)))
        with server.known_hosts.open("a") as known:
            known.write(f"[127.0.0.1]:{there.port} {host_key}")

        def url(remote: Path, there: Server = there) -> str:
            return there.url(Bare(remote))

        figures.append(_both_ways(ground, "ssh", round_trip_ms, url, **keys))
    return figures


def _both_ways(
    ground: Ground, kind: str, round_trip_ms: int, url: Callable[[Path], str], **env: str
) -> Figure:
    """
    Push by the express lane, and by git, which shares the connection if it can.
    """
    ours, floor = (
        _arrivals(
            ground, f"{kind}-{round_trip_ms}-{express}", round_trip_ms, url, CFP_PUSH_EXPRESS=express, **env
        )
        for express in ("on", "off")
    )
    name = f"commit to remote over {kind}, {round_trip_ms} ms away"
    # With no way to go, most of the time is the remote's own work.
    return against(name, ours, floor, floor_is="by git", at_most=0.67 if round_trip_ms else 0.8)


def _arrivals(
    ground: Ground, name: str, round_trip_ms: int, url: Callable[[Path], str], **env: str
) -> list[float]:
    """
    Return how long commits take to arrive, in milliseconds, one at a time.
    """
    site = ground.site(name)
    Bare(site.remote).git("config", "http.receivepack", "true")
    site = ground.over(site.data, site.remote, url=url(site.remote), **env)
    worker = ground.worker(site)
    taken = []
    for number in range(_FEW):
        begun = time.perf_counter()
        site.await_arrival(site.transact(number, name=f"Name {number}"))
        taken.append(1000 * (time.perf_counter() - begun))
        worker.await_event("push.done", count=number + 1)
        time.sleep(0.1 + 0.003 * round_trip_ms)  # idle: what the worker does afterwards is over
    worker.stop()
    return taken[2:]  # the first has the connection to make


def burst(ground: Ground) -> list[Figure]:
    """
    A thousand commits as fast as one process makes them.
    """
    site = ground.site("burst")
    ground.worker(site)
    site.await_arrival(site.transact(0, name="First"))
    time.sleep(1)
    before = site.pushes()
    begun, enqueued = time.perf_counter(), []
    for number in range(_BURST):
        last = site.write(number % 200, name=f"Burst {number}")
        enqueued.append(1000 * timed_s(lambda last=last: site.queue.enqueue_push(last)))
    ended = time.perf_counter()
    site.await_arrival(last)
    lag_s = time.perf_counter() - ended
    settle(site)
    pushes = site.pushes() - before
    return [
        Figure(
            name=f"burst of {_BURST:,} commits in {ended - begun:.1f} s: the last one's way",
            unit="s",
            value=lag_s,
            target=f"≤ {_BURST_LAG_S} s",
            met=lag_s <= _BURST_LAG_S,
        ),
        Figure(
            name="the same: pushes",
            unit="pushes",
            value=float(pushes),
            target=f"≤ {_BURST_PUSHES}",
            met=pushes <= _BURST_PUSHES,
        ),
        Figure(
            name="the same: enqueue's share of a write",
            unit="ms",
            value=statistics.median(enqueued),
            p99=p99(enqueued),
            target="stated",
            met=None,
        ),
    ]


def backlog(ground: Ground) -> list[Figure]:
    """
    Ten thousand commits that waited for the remote.
    """
    home = ground.directory / "backlog"
    home.mkdir()
    data = make_repository(home / "data.git", 200, commits=_BACKLOG)
    rounds = []
    for number in range(3):
        plain, remote = (Bare.init(home / f"{name}-{number}.git").path for name in ("plain", "remote"))
        copy, other = home / f"data-{number}.git", home / f"other-{number}.git"
        shutil.copytree(data, copy)
        shutil.copytree(data, other)
        site = ground.over(copy, remote)
        tip = read_ref(copy, MAIN)
        assert tip
        floor = timed_s(lambda plain=plain, other=other: git(other, "push", "--quiet", str(plain), MAIN))
        worker = ground.worker(site)
        # From the attempt's begin to the arrival, by the ledger's own clock and file.
        site.await_arrival(tip, timeout_s=120)
        settle(site)
        done = worker.await_event("push.done")
        attempt = site.pipeline.ledger.read("origin").last_attempt_at or 0.0
        arrived = (remote / MAIN).stat().st_mtime
        rounds.append((arrived - attempt, floor, done))
        worker.stop()
    ours, floors = [1000 * ours for ours, _, _ in rounds], [1000 * floor for _, floor, _ in rounds]
    return [against(f"backlog of {_BACKLOG:,} commits", ours, floors, floor_is="git push", at_most=1.2)]


def sizes(ground: Ground) -> list[Figure]:
    """
    What one commit sends, and what it leaves on the disk.
    """
    site, plain = (_counted(ground.site(name)) for name in ("bytes", "bytes-plain"))
    for each in (site, plain):
        git(each.data, "push", "--quiet", str(each.remote), MAIN)
    ground.worker(site)
    settle(site)
    ours, floor = [], []
    for number in range(8):
        site.await_arrival(site.transact(number, name=f"Bytes {number}"))
        plain.write(number, name=f"Bytes {number}")
        command = ["git", "push", "--quiet", plain.env["CFP_DATA_REMOTE"], MAIN]
        subprocess.run(command, cwd=plain.data, env=plain.env, check=True, capture_output=True)
        ours.append(float(_sent(site).stat().st_size))
        floor.append(float(_sent(plain).stat().st_size))
    kept = [_on_disk(site.data, lambda number=number: site.write(number, name="Kept")) for number in range(8)]
    bare = [
        _on_disk(plain.data, lambda number=number: bare_write(plain.data, number, name="Kept"))
        for number in range(8)
    ]
    return [
        against(
            "bytes that the push of a commit sends", ours, floor, floor_is="git push", at_most=1.05, unit="B"
        ),
        against(
            "bytes that a commit leaves on disk", kept, bare, floor_is="gitsheets", at_most=1.05, unit="B"
        ),
    ]


def _counted(site: Site) -> Site:
    """
    Return *site* with its remote behind what stands for ssh, and counts what one push sends.
    """
    program = site.data.parent / "ssh"
    program.write_text(f'#!/bin/sh\nfor command; do :; done\ntee {_sent(site)} | sh -c "$command"\n')
    program.chmod(0o755)
    away = {"CFP_DATA_REMOTE": f"ssh://bench.invalid{site.remote}", "GIT_SSH_COMMAND": str(program)}
    return replace(site, env={**site.env, **away})


def _sent(site: Site) -> Path:
    return site.data.parent / "sent"


def _on_disk(git_dir: Path, write: Callable[[], object]) -> float:
    before = _blocks(git_dir)
    write()
    return float(_blocks(git_dir) - before)


def _blocks(git_dir: Path) -> int:
    walk = itertools.chain.from_iterable(
        (Path(root) / name for name in files) for root, _, files in os.walk(git_dir / "objects")
    )
    return sum(512 * path.stat().st_blocks for path in walk)
