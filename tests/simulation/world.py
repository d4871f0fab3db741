"""
One simulated deployment: its processes, its people, and what goes wrong.

A world runs in three parts. In the first one faults come at random. Then every process runs and nothing
else goes wrong, while remotes still fail: each that needs a person must have its page. At last the remotes
work and operators do what the pages ask for: everything must arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from ferry.worker.enqueue import send_follow, send_push
from ferry.worker.errors import RepositoryError, WorkerError
from ferry.worker.files.locks import LockTimeoutError
from ferry.worker.git.refs import RefMovedError
from ferry.worker.ledger import operators
from ferry.worker.ledger.operators import Operator
from ferry.worker.repair.fence import is_fenced
from ferry.worker.repair.promote import Promoter
from ferry.worker.settings import Settings
from tests.simulation.broker import QUEUE, Broker
from tests.simulation.hosts import MAIN, Child, Host, Network, answers
from tests.simulation.invariants import PAGE_AFTER_S, Invariants
from tests.simulation.machine import Disk, Machine, Process
from tests.simulation.pipeline import Parts, Sentry, replaced
from tests.simulation.repository import Commits, Store

_CAP_S = 60.0
_SWEEP_S = 15.0
_FILES = 12
_HANGS_S = (5.0, 40.0, 200.0)
# How likely a step is the last of its process, hangs it, or is the last before a power cut. A world without
# these shows whether Ferry needs its sweep where it should not.
_TEMPERS = ((0.0, 0.0, 0.0), (1 / 900, 1 / 4000, 1 / 6000), (1 / 300, 1 / 1000, 0.0), (0.0, 0.0, 1 / 800))
# Until all has arrived in a world without faults: what operators do takes 400 s, the longest wait that a host
# has asked for two minutes, a retry one.
_SETTLES_S = 600.0
# What may be left out of a world: the same seed then decides the same about the rest, for as long as it can.
KINDS = (
    "kill", "hang", "cut_power", "fail", "slow", "others", "rewrite", "broker", "sentry_down", "fill_disk",
    "another", "pause", "resume", "push_now", "reconcile", "promote", "webhook",
)  # fmt: skip
_REASONS = [reason for reason in answers() if reason not in ("pushed", "up-to-date", "non-fast-forward")]
_OPERATOR = Operator.of("ana@simulation", "because of the seed")


@dataclass(frozen=True, slots=True)
class Role:
    """
    A kind of process that is started again when it dies.
    """

    name: str
    run: Callable[[], object]


class World:
    """
    One deployment.

    Args:
        seed: Decides everything.
        faults: Whether anything goes wrong in the first part.
        without: Which of ``KINDS`` do not happen.
    """

    def __init__(self, seed: int, *, faults: bool = True, without: Collection[str] = ()) -> None:
        self.seed = seed
        self._without = without
        self.random = Random(seed)  # noqa: S311 - a test's
        self.machine = Machine(self.random)
        self.disk = Disk(self.machine)
        self.commits = Commits(seed)
        self.store = Store(self.commits, self.disk)
        self.broker = Broker(self.machine)
        self.sentry = Sentry(self.machine, self.disk)
        self.settings = self._settings()
        self.hosts = {name: Host(name, self.commits) for name in self.settings.remotes}
        self.network = Network(
            self.machine, self.store, {f"/{name}.git": host for name, host in self.hosts.items()}
        )
        self.invariants = Invariants(self.machine, self.store, self.broker, self.sentry, self.hosts)
        urls = {name: f"/{name}.git" for name in self.hosts}
        self.parts = Parts(self.machine, self.disk, self.store, self.broker, self.settings, urls)
        self.has_faults = faults
        self._is_healed = False
        self.writes = True
        self._temper = self.random.choice(_TEMPERS)
        self._has_rival = self.random.random() < 0.2  # another repository, which is made the primary
        self._roles: dict[Process, Role] = {}
        self._connect()

    def _settings(self) -> Settings:
        pick = self.random.choice
        env = {
            "CFP_DATA_REPO_PATH": "/data",
            "CFP_DATA_REMOTE": "/origin.git",
            "CFP_REDIS_URL": "redis://simulated",
            "CFP_DATA_RECONCILE": pick(["manual", "manual", "boot", "auto"]),
            "CFP_PUSH_TIMEOUT": "20",
            "CFP_PUSH_BACKOFF_CAP": f"{_CAP_S:g}",
            "CFP_PUSH_SWEEP_INTERVAL": f"{_SWEEP_S:g}",
            "CFP_PUSH_PAGE_AFTER": f"{PAGE_AFTER_S:g}",
            "CFP_PUSH_MIN_INTERVAL": pick(["0", "0", "0", "3"]),
            "CFP_PUSH_RESCUE": pick(["on", "off"]),
        }
        if self.random.random() < 0.4:
            env["CFP_DATA_MIRRORS"] = "mirror=/mirror.git"
        if self.random.random() < 0.2:
            env["CFP_PUSH_MAX_RETRIES"] = "4"
        return Settings.from_env(env)

    def _connect(self) -> None:
        seen, broker, network = self.invariants, self.broker, self.network
        self.machine.on_step = self._on_step
        self.machine.on_rest = self._on_rest
        self.store.moved = seen.ref_moved
        self.sentry.is_made, self.sentry.came = seen.page_made, seen.page_came
        broker.troubled, broker.sent = seen.troubled, seen.sent
        network.begins = self._push_begins
        network.said = seen.push_ended
        for host in self.hosts.values():
            host.moved = seen.host_moved

    # --- the run ---

    def run(self, steps: int) -> None:
        """
        Run the world; raises what was found.

        Args:
            steps: How many steps the first part has.
        """
        machine, seen = self.machine, self.invariants
        with replaced(machine, self.disk, self.store, self.network, self.sentry):
            try:
                first = self.commits.add(author="ann", at=machine.now, touches=None)
                self.store.objects |= 1
                self.store.set(MAIN, first)
                for role in self._deployment():
                    self._start(role)
                if self.has_faults:
                    self._later(self.random.expovariate(1 / 20), self._trouble)
                machine.run(1e9, steps)
                self._heal()
                machine.run(_HANGS_S[-1] + 2 * _CAP_S)
                seen.pages_came()
                self._repair()
                machine.run(_SETTLES_S)
                seen.all_arrived()
                machine.run(0)
            finally:
                machine.end()

    def _deployment(self) -> list[Role]:
        slots = len(self.hosts) + self.random.choice([1, 2])  # a hanging remote must not keep another waiting
        pools = [Role(f"worker {number}", self._worker) for number in range(slots)]
        apis = [Role(f"api {number}", self._api) for number in (1, 2)]
        return [
            *pools,
            *apis,
            Role("beat", self._beat),
            Role("watchdog", self._watchdog),
            Role("people", self._people),
        ]

    def _start(self, role: Role) -> None:
        if role.name != "people" or not self._is_healed:  # they may be away as the world heals
            self._roles[self.machine.start(role.name, role.run)] = role

    def _later(self, seconds: float, happen: Callable[[], object]) -> None:
        self.machine.at(self.machine.now + seconds, happen)

    # --- the processes ---

    def _worker(self) -> None:
        pipeline = self.parts.assemble()
        app: Any = pipeline.celery
        with suppress(ConnectionError):
            app.send_task("sweep", kwargs={"occasion": "start", "start": self.machine.now})
        while True:
            message = self.broker.take()
            app.run(message)
            self.broker.acknowledge()

    def _beat(self) -> None:
        app = self.parts.assemble().celery
        follow_s = self.settings.data_follow_interval_s
        looks_at = self.machine.now + follow_s
        while True:
            self.machine.sleep(_SWEEP_S)
            with suppress(ConnectionError):
                app.send_task("sweep")
            if self.machine.now >= looks_at:
                looks_at += follow_s
                with suppress(ConnectionError):
                    app.send_task("follow")

    def _watchdog(self) -> None:
        pipeline = self.parts.assemble()
        while True:
            self.machine.sleep(_SWEEP_S)
            with self._busy("check"):
                pipeline.watchdog.check()

    def _api(self) -> None:
        """
        Write records, as ``app/transact.py`` and the store do it: lock, commit, flush, move, answer, queue.
        """
        pipeline = self.parts.assemble()
        mean_s = self.random.choice([0.1, 3, 20, 60])
        while True:
            self.machine.sleep(self.random.expovariate(1 / mean_s))
            if self.writes:
                with self._busy("write"):
                    self._write(pipeline)
                if self.random.random() < 0.05:
                    mean_s = self.random.choice([0.1, 3, 20, 60])

    def _write(self, pipeline: Any) -> None:
        machine, store = self.machine, self.store
        try:
            with self.parts.write_lock.hold(30):
                if is_fenced(pipeline.repository.path):
                    return
                head = pipeline.repository.head()
                file = f"records/{self.random.randrange(_FILES)}.toml"
                new = self.commits.add(store.number(head), author="client", at=machine.now, touches=file)
                machine.effect(f"commits {self.commits.names[new][:7]}")
                store.objects |= 1 << new
                store.move_ref(None, MAIN, new=self.commits.names[new], old=head)
                self.invariants.written(new)
        except (LockTimeoutError, OSError, RefMovedError):
            return  # the client is told that nothing was written
        self._queue(pipeline, self.commits.names[new])

    def _queue(self, pipeline: Any, commit: str, occasion: Any = "commit", *remotes: str) -> None:
        for remote in remotes or pipeline.settings.remotes:
            try:
                send_push(pipeline.celery, remote, commit, occasion, queue=QUEUE)
            except ConnectionError:
                self.invariants.troubled("message not accepted")

    # --- people ---

    def _people(self) -> None:
        pipeline = self.parts.assemble()
        while True:
            self.machine.sleep(self.random.expovariate(1 / 60))
            act = self.random.choice(
                [self._pause, self._resume, self._push_now, self._reconcile, self._promote, self._webhook]
            )
            remote, kind = self.random.choice(list(self.hosts)), act.__name__.strip("_")
            if kind in self._without:
                continue
            with self._busy(kind), suppress(WorkerError):
                self.machine.counts[f"operator: {kind}"] += 1
                act(pipeline, remote)

    def _pause(self, pipeline: Any, remote: str) -> None:
        until = self.random.choice([None, self.machine.now + 40])
        if until is not None:  # it is stored even if they are killed before the next line
            self.invariants.paused[remote] = False
        operators.pause(pipeline.ledger, remote, _OPERATOR, now=self.machine.now, until=until, timeout_s=30)
        self.invariants.paused[remote] = until is None

    def _resume(self, pipeline: Any, remote: str) -> None:
        self.invariants.paused[remote] = False
        operators.resume(pipeline.ledger, remote, _OPERATOR, now=self.machine.now, timeout_s=30)
        self._queue(pipeline, "", "operator", remote)

    def _push_now(self, pipeline: Any, remote: str) -> None:
        operators.request(pipeline.ledger, [remote], _OPERATOR, now=self.machine.now)
        self._queue(pipeline, "", "operator", remote)

    def _reconcile(self, pipeline: Any, remote: str) -> None:
        outcome = pipeline.reconciler.reconcile(remote, "merge", by=_OPERATOR)
        if outcome.is_joined:
            self._queue(pipeline, "", "operator", remote)

    def _promote(self, pipeline: Any, remote: str) -> None:
        parts = pipeline.settings, pipeline.repository, pipeline.ledger, pipeline.reconciler
        Promoter(*parts).promote(force=self.random.random() < 0.5, by=_OPERATOR)

    def _webhook(self, pipeline: Any, remote: str) -> None:
        """
        Push to origin as somebody else, whose host then calls the webhook.
        """
        self._push_as_others(self.hosts["origin"])
        tip = self.hosts["origin"].tip
        if pipeline.ledger.nudge("origin"):
            self.invariants.nudged = tip
        try:
            send_follow(pipeline.celery, "webhook", is_noted=True, queue=QUEUE)
        except ConnectionError:
            self.invariants.troubled("message not accepted")

    def _push_as_others(self, host: Host, *, parent: int | None = None) -> None:
        parent = host.tip if parent is None else parent
        if parent is None:
            return
        file = f"records/{self.random.randrange(_FILES * 3)}.toml"
        host.move(
            MAIN, self.commits.add(parent, author="sam", at=self.machine.now, touches=file), by_us=False
        )

    def _busy(self, what: str) -> Any:
        return _Busy(self.machine, what)

    # --- what goes wrong ---

    def _on_step(self, name: str) -> None:
        self.invariants.after_step(name)
        process = self.machine.current
        if not self.has_faults or process is None:
            return
        chance, (kill, hang, cut) = self.random.random(), self._temper
        if chance < kill:
            happens, kind = lambda: self._kill(process), "kill"
        elif chance < kill + hang:
            happens, kind = lambda: self._hang(process), "hang"
        elif chance < kill + hang + cut:
            happens, kind = self._cut_power, "cut_power"
        else:
            return
        if kind not in self._without:
            happens()

    def _hang(self, process: Process) -> None:
        self.invariants.troubled("process hangs")
        process.wakes_at = self.machine.now + self.random.choice(_HANGS_S)

    def _on_rest(self) -> None:
        if not self.broker.waiting and not any(each.task for each in self.machine.processes):
            self.invariants.at_rest()

    def _kill(self, process: Process, back_s: float | None = None) -> None:
        role = self._roles.pop(process, None)
        if role is None:
            return
        self.invariants.troubled("process killed")
        self.machine.kill(process)
        self.broker.give_back(process)
        self._later(self.random.expovariate(1 / 5) if back_s is None else back_s, lambda: self._start(role))

    def _cut_power(self) -> None:
        self.invariants.troubled("power cut")
        self.machine.counts["files that a power cut changed"] += self.disk.lose_power()
        self.invariants.nudged = None
        for name in self.hosts:
            if self.random.random() < 0.2:
                self.store.refs.pop(f"refs/remotes/{name}/main", None)
        for child in self.network.children.values():
            child.is_alive = False
        self.network.children.clear()
        back_s = self.random.uniform(1, 90)
        for process in list(self.machine.processes):
            self._kill(process, back_s)

    def _trouble(self) -> None:
        if not self.has_faults:
            return
        host = self.random.choice(list(self.hosts.values()))
        lasts_s = self.random.choice([3, 30, 200, 600])
        kinds = [self._fail] * 3 + [
            self._slow,
            self._others,
            self._rewrite,
            self._broker,
            self._sentry_down,
            self._fill_disk,
            *([self._another] if self._has_rival else []),
        ]
        kind = self.random.choice(kinds)
        if kind.__name__.strip("_") not in self._without:
            kind(host, lasts_s)
        self._later(self.random.expovariate(1 / 40), self._trouble)

    def _fail(self, host: Host, lasts_s: float) -> None:
        host.reason = self.random.choice(_REASONS)
        self.machine.counts[f"remote fails: {host.reason}"] += 1
        self._ends(host, lasts_s)

    def _slow(self, host: Host, lasts_s: float) -> None:
        host.reason, host.per_commit_s = "slow", self.random.choice([0.5, 4, 15])
        self.machine.counts["slow link"] += 1
        self._ends(host, lasts_s)

    def _ends(self, host: Host, lasts_s: float) -> None:
        reason = host.reason

        def end() -> None:
            if host.reason == reason:
                host.reason = ""

        self._later(lasts_s, end)

    def _push_begins(self, child: Child, refspec: str) -> None:
        """
        Kill some workers in the middle of their push, which goes on without them.
        """
        self.invariants.push_begins(child, self.network.children, refspec)
        worker = self.machine.current
        is_killed = worker is not None and self.has_faults and self.random.random() < 40 * self._temper[0]
        if worker is not None and is_killed and "kill" not in self._without:
            self._later(self.random.expovariate(2), lambda: self._kill(worker))

    def _others(self, host: Host, lasts_s: float) -> None:
        self.machine.counts["foreign push"] += 1
        self._push_as_others(host)

    def _rewrite(self, host: Host, lasts_s: float) -> None:
        if host.tip is not None and self.commits.parents[host.tip]:
            self.machine.counts["history rewritten"] += 1
            self._push_as_others(host, parent=self.commits.parents[host.tip][0])

    def _another(self, host: Host, lasts_s: float) -> None:
        origin = self.hosts["origin"]
        if origin.tip is not None:
            self.machine.counts["another is made the primary"] += 1
            rival = self.commits.promote(origin.tip, author="rival", at=self.machine.now)
            origin.move(MAIN, rival, by_us=False)

    def _broker(self, host: Host, lasts_s: float) -> None:
        broker, invariants = self.broker, self.invariants
        match self.random.choice(["down", "empty", "loses", "repeats", "delays"]):
            case "down":
                invariants.troubled("broker down")
                broker.is_down = True
            case "empty":
                invariants.troubled("broker restarts empty")
                broker.restart_empty()
            case "loses":
                broker.loses = 0.3
            case "repeats":
                broker.repeats = 0.3
            case _:
                broker.delays = 0.3
        self._later(lasts_s, self._mend_broker)

    def _mend_broker(self) -> None:
        self.broker.is_down = False
        self.broker.loses = self.broker.repeats = self.broker.delays = 0.0

    def _sentry_down(self, host: Host, lasts_s: float) -> None:
        self.machine.counts["Sentry down"] += 1
        self.sentry.is_down = True
        self._later(lasts_s, lambda: setattr(self.sentry, "is_down", False))

    def _fill_disk(self, host: Host, lasts_s: float) -> None:
        self.invariants.troubled("disk full")
        self.disk.is_full = True

        def end() -> None:
            self.disk.is_full, self.invariants.full_until = False, self.machine.now

        self._later(min(lasts_s, 60), end)

    def _heal(self) -> None:
        """
        Let nothing further go wrong but what the remotes do.
        """
        self.has_faults, self._is_healed = False, True
        self.writes = self.random.random() < 0.5
        self._mend_broker()
        self.sentry.is_down = self.disk.is_full = False
        self.invariants.full_until = self.machine.now
        for process in list(self.machine.processes):
            if self._roles.get(process, Role("", print)).name == "people":
                self._roles.pop(process)
                self.machine.kill(process)

    def _repair(self) -> None:
        """
        Let the remotes work, and operators do what is left to them.
        """
        self.writes = False
        for host in self.hosts.values():
            host.reason = ""
        self.machine.start("operator", self._operator)

    def _operator(self) -> None:
        pipeline = self.parts.assemble()
        for _ in range(20):
            for remote, host in self.hosts.items():
                with self._busy("operator"), suppress(WorkerError):
                    entry = pipeline.ledger.read(remote)
                    if entry.paused_at is not None:
                        self._resume(pipeline, remote)
                    if entry.gave_up:
                        self._push_now(pipeline, remote)
                    head = self.store.refs.get(MAIN)
                    if host.tip is not None and not self.commits.has(head, host.tip):
                        outcome = pipeline.reconciler.reconcile(remote, "merge", by=_OPERATOR)
                        if outcome.is_joined:
                            self._queue(pipeline, "", "operator", remote)
                        else:
                            self._take_ours(host)
                    elif remote == "origin" and is_fenced(pipeline.repository.path):
                        self._promote(pipeline, remote)
            self.machine.sleep(20)

    def _take_ours(self, host: Host) -> None:
        """
        Resolve a conflict as an operator with a clone would do it: a merge, pushed to the remote.
        """
        head = self.store.refs[MAIN]
        if host.tip is None:
            raise RepositoryError("nothing to merge")
        merge = self.commits.add(host.tip, head, author="ana", at=self.machine.now, touches=None)
        host.move(MAIN, merge, by_us=False)


class _Busy:
    """
    Marks the current process as busy, so that the world does not count as at rest.
    """

    def __init__(self, machine: Machine, what: str) -> None:
        self._process, self._what = machine.current, what

    def __enter__(self) -> None:
        assert self._process is not None
        self._process.task = self._what

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.task = None
