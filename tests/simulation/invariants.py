"""
What must hold after every step, while the world rests, and at its end.

The rules are those of ``docs/explanation/the-way-of-a-commit.md``. They are told of what happens in the
world, and read refs, files and messages; they ask no decision of Ferry's what it thinks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ferry.worker.ledger.entry import Entry, from_json
from tests.simulation.broker import Broker, Message
from tests.simulation.hosts import MAIN, Child, Host
from tests.simulation.machine import Machine
from tests.simulation.pipeline import Sentry
from tests.simulation.repository import Store

_AT_ONCE = frozenset({"non-fast-forward", "rejected", "auth", "host-key", "not-found", "local"})
PAGE_AFTER_S = 300.0
# A process that hangs does so for some minutes at most, and a watchdog looks for two sweeps.
_TROUBLE_LASTS_S = 600.0
_BY_HAND = ("reconcile", "promote", "operator")


class Broken(AssertionError):
    """
    A promise that did not hold.
    """


class Invariants:
    """
    Watches one world.

    Attributes:
        acknowledged: The set of the commits that clients were told of.
        is_clean: Whether no wake-up can be missing: no message was lost and no process died since everything
            had arrived.
        full_until: When the disk was full for the last time.
        states: How often the world was seen in each state, for the report.
    """

    def __init__(
        self, machine: Machine, store: Store, broker: Broker, sentry: Sentry, hosts: Mapping[str, Host]
    ) -> None:
        self._machine, self._store, self._broker, self._sentry = machine, store, broker, sentry
        self.hosts = hosts
        self.acknowledged = 0
        self.is_clean = False  # until the first worker has started
        self.full_until = 0.0
        self.states: dict[str, int] = defaultdict(int)
        self.paused: dict[str, bool] = dict.fromkeys(hosts, False)
        self.nudged: int | None = None
        self._epochs: dict[str, int] = dict.fromkeys(hosts, 0)
        self._said: dict[str, dict[str, int]] = {name: {} for name in hosts}
        self._paged: dict[tuple[str, str, int, str], str] = {}
        self._waits_until: dict[str, float] = {}
        self._tried: dict[str, int] = {}
        self._troubled_at = 0.0

    # --- what happens ---

    def written(self, commit: int) -> None:
        """
        Note that a client is told of *commit*.
        """
        self.acknowledged |= 1 << commit
        if self._is_rivals(commit):
            self.broken("a write was taken, and the branch says that another is the primary")

    def troubled(self, what: str) -> None:
        """
        Note a fault that may cost a wake-up.
        """
        self._machine.counts[what] += 1
        self._machine.trace.append(f"    -- {what}")
        self.is_clean = False
        self._troubled_at = self._machine.now
        self._waits_until.clear()

    def ref_moved(self, ref: str, old: int | None, new: int | None) -> None:
        commits = self._store.commits
        if ref == MAIN and self.acknowledged & ~commits.of(new):
            self.broken("an acknowledged commit is no longer in the branch")
        if ref == MAIN and new is not None and self._is_rivals(new) and not self._is_rivals(old):
            task = self._machine.current.task if self._machine.current else None
            if task not in _BY_HAND and not self.hosts["origin"].had >> new & 1:
                self.broken("a merge passed the promotion of another, and no operator asked for it")
        if ref.startswith("refs/remotes/") and new is not None:
            host = self.hosts[ref.split("/")[2]]
            if not host.had >> new & 1:
                self.broken(f"{ref} is at a commit that {host.name} never had")
            head = self._store.refs.get(MAIN)
            if commits.has(new, head) or commits.has(new, self._tried.get(host.name, head)):
                self._epoch_ends(host)  # the remote has all that the last attempt sent
        for host in self.hosts.values():
            self._compare(host)

    def _is_rivals(self, tip: int | None) -> bool:
        """
        Whether *tip* holds a promotion of another repository that none of ours follows.
        """
        commits = self._store.commits
        held = [each for each in commits.promotions if commits.has(tip, each)] if tip is not None else []
        ours = [each for each in held if commits.authors[each] == "us"]
        return any(
            commits.authors[each] == "rival" and not any(commits.has(own, each) for own in ours)
            for each in held
        )

    def host_moved(self, host: Host, by_us: bool) -> None:
        if by_us:
            self._epoch_ends(host)
        if not self._store.commits.has(host.tip, self.nudged):
            self.nudged = None  # it was replaced, and nobody can find it there
        self._compare(host)

    def _compare(self, host: Host) -> None:
        commits, head = self._store.commits, self._store.refs.get(MAIN)
        if host.tip is not None and commits.has(host.tip, head):
            self._epoch_ends(host)
        elif host.tip is not None and not commits.has(head, host.tip):
            self._met(host, "non-fast-forward")

    def _epoch_ends(self, host: Host) -> None:
        self._epochs[host.name] += 1
        self._waits_until.pop(host.name, None)

    def _met(self, host: Host, reason: str) -> None:
        self._said[host.name][reason] = self._epochs[host.name]

    def push_begins(self, child: Child, others: Mapping[int, Child], refspec: str) -> None:
        host, machine = child.host, self._machine
        if refspec.startswith("+") or not refspec.partition(":")[0]:
            self.broken(f"a forced push, or one that deletes: {refspec}")
        if child.ref != MAIN:
            return
        self._tried[host.name] = self._store.number(refspec.partition(":")[0])
        if any(each is not child and each.host is host and each.ref == MAIN for each in others.values()):
            self.broken(f"two pushes to {host.name} run at once")
        if self.paused[host.name] and not (machine.current and machine.current.task in _BY_HAND):
            self.broken(f"a push to {host.name} begins, which an operator has paused")
        task = machine.current.task if machine.current else None
        is_for_commit = isinstance(task, Message) and task.kwargs.get("occasion") == "commit"
        if is_for_commit and self.is_clean and machine.now < self._waits_until.get(host.name, 0.0) - 1:
            self.broken(f"a push to {host.name} begins before its retry is due, for a commit")

    def push_ended(self, child: Child, reason: str) -> None:
        self._machine.counts[f"push ends as {reason or 'pushed'}"] += 1
        if reason:
            self._met(child.host, reason)
        elif child.ref == MAIN:
            self._epoch_ends(child.host)

    def sent(self, message: Message) -> None:
        if message.task == "push" and message.retries:
            self._waits_until[message.args[0]] = message.due

    def page_came(self, event: Mapping[str, Any]) -> None:
        remote, reason = event["remote"], event["reason"]
        self._machine.counts[f"page {reason}"] += 1
        if remote not in self.hosts or reason == "paused":
            return
        # On a full disk no process can tell another that it has paged.
        key = remote, reason, event["epoch"], event["sender"]
        if self._paged.setdefault(key, event["event_id"]) != event["event_id"]:
            self.broken(f"a second page for {reason} at {remote} in one episode")

    def page_made(self, remote: str, reason: str) -> int:
        """
        Check that a page tells the truth; returns the remote's episode, for ``page_came``.
        """
        if remote not in self.hosts or reason == "paused":
            return 0
        epoch, now = self._epochs[remote], self._machine.now
        was_full = self._store.disk.is_full or now - self.full_until < _TROUBLE_LASTS_S
        if reason == "stalled":
            if now - self._troubled_at > _TROUBLE_LASTS_S:
                self.broken(f"a page says that {remote} stalls, and nothing was wrong")
        elif self._said[remote].get(reason, -9) < epoch - 1 and not (reason == "local" and was_full):
            self.broken(f"a page for {reason} at {remote}, which did not happen")
        return epoch

    # --- after each step ---

    def after_step(self, name: str) -> None:
        if self.nudged is not None:
            self._nudge_is_kept()

    def _nudge_is_kept(self) -> None:
        """
        What was nudged for is looked at, or the nudge is still there.
        """
        nudge, taken = (f"/data/ferry/remotes/origin.{each}" for each in ("nudge", "nudged"))
        files = self._store.disk.files
        assert self.nudged is not None
        is_failing = self.entry("origin").last_failure is not None or f"{taken[:-6]}stall" in files
        if is_failing or self._store.objects >> self.nudged & 1:
            self.nudged = None  # every push of a remote that fails looks there
        elif nudge not in files and taken not in files:
            self.broken("a nudge is gone, and nobody has looked")

    # --- while the world rests ---

    def at_rest(self) -> None:
        """
        Check that no wake-up was lost: nothing runs, and no message waits.
        """
        level = True
        for name in self.hosts:
            head, entry = self._store.refs.get(MAIN), self.entry(name)
            seen = self._store.refs.get(f"refs/remotes/{name}/main")
            lacks = not self._store.commits.has(seen, head)
            level &= not lacks
            self.states[self._state(entry, lacks)] += 1
            # The next sweep ends a pause that is over.
            if not lacks or not self.is_clean or entry.paused_at is not None or entry.gave_up:
                continue
            tip = None if head is None else self._store.commits.names[head]
            if entry.next_attempt_at is not None:
                self.broken(f"a retry of {name} is scheduled, and no message will run it")
            elif entry.tried != tip:
                self.broken(f"commits wait for {name}, and no task will push them: a lost wake-up")
        self.is_clean |= level

    def _state(self, entry: Entry, lacks: bool) -> str:
        if entry.is_paused(self._machine.now):
            return "paused"
        if not lacks:
            return "idle"
        if entry.next_attempt_at is not None:
            return "retrying"
        return "blocked" if entry.last_failure else "queued"

    # --- at the end ---

    def pages_came(self) -> None:
        """
        Check that each remote that fails for a reason which pages at once has its page, and each that has
        failed for a while.
        """
        for name in self.hosts:
            entry = self.entry(name)
            if (
                entry.last_failure is None
                or entry.failing_since is None
                or entry.is_paused(self._machine.now)
            ):
                continue
            reason, since = entry.last_failure.reason, entry.failing_since
            sent = [*self._sentry.accepted.values(), *self._sentry.under_way]
            pages = [each for each in sent if each["remote"] == name]
            came = {each["reason"] for each in pages if each["at"] >= since}
            if reason in _AT_ONCE and reason not in came:
                self.broken(f"{name} fails with {reason}, and no page came")
            elif entry.failing_s > PAGE_AFTER_S and not came:
                self.broken(f"{name} has failed for {entry.failing_s:.0f} s, and no page came")

    def all_arrived(self) -> None:
        """
        Check that everything has arrived, and every episode is over.
        """
        commits = self._store.commits
        head = self._store.refs.get(MAIN)
        if self.acknowledged & ~commits.of(head):
            self.broken("an acknowledged commit is not in the branch")
        for name, host in self.hosts.items():
            if not commits.has(host.tip, head):
                self.broken(f"{name} lacks commits at the end: {self.entry(name)}")
            elif (failure := self.entry(name).last_failure) is not None:
                self.broken(f"{name} has everything, and still fails with {failure.reason}")

    def entry(self, remote: str) -> Entry:
        file = self._store.disk.files.get(f"/data/ferry/remotes/{remote}.json")
        return from_json(Entry, file.content if file else b"") or Entry()

    def broken(self, what: str) -> None:
        self._machine.fail(Broken(what))
