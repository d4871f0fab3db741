"""
The remotes, and ``git push``, ``git ls-remote`` and ``git fetch`` as they would talk to them.

A host that fails answers with the real outputs of ``tests/corpus/push``, so Ferry's table of failures is part
of what is simulated. A push goes on when its worker is killed: what it sent lands, unless its process group
is ended first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ferry.worker.failures import explain
from ferry.worker.process.running import Finished
from tests.simulation.machine import Machine
from tests.simulation.repository import BRANCH, Commits, Store

MAIN = f"refs/heads/{BRANCH}"
_CORPUS = Path(__file__).resolve().parents[1] / "corpus" / "push"
_FILE = re.compile(r"(?P<header>.*?)\n--- stdout\n(?P<stdout>.*?)--- stderr\n(?P<stderr>.*)", re.DOTALL)
# A remote that refuses a push still answers reads.
_READABLE = frozenset({"rejected", "locked"})
_LONGEST_WAIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """
    How a push of the corpus ended.
    """

    name: str
    status: int | None
    stdout: str
    stderr: str
    is_ambiguous: bool


@cache
def answers() -> Mapping[str, Sequence[Answer]]:
    """
    Return the outputs of the corpus, by the reason that Ferry finds.
    """
    found: dict[str, list[Answer]] = {}
    for path in sorted(_CORPUS.glob("*.txt")):
        match = _FILE.fullmatch(path.read_text())
        assert match, path
        header = dict(line.split(": ", 1) for line in match["header"].splitlines())
        if float(header.get("retry-after", 0)) > _LONGEST_WAIT_S or len(match["stderr"]) > 2000:
            continue
        status = None if header["exit"] == "timeout" else int(header["exit"])
        answer = Answer(path.stem, status, match["stdout"], match["stderr"], header["ambiguous"] == "yes")
        found.setdefault(header["reason"], []).append(answer)
    return found


@cache
def unreadable() -> Mapping[str, Sequence[Answer]]:
    """
    Return those that a read may end with.
    """
    return {
        reason: [each for each in known if each.status and not each.stdout.strip() and each.stderr]
        for reason, known in answers().items()
    }


@dataclass
class Host:
    """
    One remote.

    Attributes:
        refs: Its branches.
        had: The set of the commits that its main branch ever had.
        reason: Why it fails now; "": it works. ``slow``: over a slow link.
        per_commit_s: Seconds that each commit takes over that link.
        moved: Called after its main branch has moved, with whether we pushed.
    """

    name: str
    commits: Commits
    refs: dict[str, int] = field(default_factory=dict)
    had: int = 0
    reason: str = ""
    per_commit_s: float = 0.0
    moved: Callable[[Host, bool], object] = lambda host, by_us: None

    @property
    def tip(self) -> int | None:
        return self.refs.get(MAIN)

    def move(self, ref: str, tip: int, *, by_us: bool) -> None:
        self.refs[ref] = tip
        if ref == MAIN:
            self.had |= self.commits.ancestors[tip]
            self.moved(self, by_us)


@dataclass
class Child:
    """
    A running ``git push``.
    """

    group: int
    host: Host
    ref: str
    is_alive: bool = True


class Network:
    """
    Runs git commands that talk to a host.

    Attributes:
        begins: Called with each push when it begins.
        said: Called with each push when it has ended, and its reason, "" for success.
    """

    def __init__(self, machine: Machine, store: Store, hosts: Mapping[str, Host]) -> None:
        self._machine, self._store, self._hosts = machine, store, hosts
        self._groups = 1000
        self.children: dict[int, Child] = {}
        self.begins: Callable[[Child, str], object] = lambda child, commit: None
        self.said: Callable[[Child, str], object] = lambda child, reason: None

    # --- what stands for functions of Ferry ---

    def run_git(
        self,
        path: object,
        *arguments: str,
        timeout_s: float,
        configuration: Sequence[tuple[str, str]],
        noted: Callable[[int], object] | None = None,
        **_: Any,
    ) -> Finished:
        url = next(value for name, value in configuration if name.endswith(".url"))
        host, command = self._hosts[url], arguments[0]
        begun = self._machine.now
        if command == "push":
            found = self._push(host, arguments[1:], timeout_s, noted)
        else:
            found = self._read(host, command, arguments[-1], timeout_s)
        status, stdout, stderr = found
        took_s = self._machine.now - begun
        return Finished(exit_status=status, stdout=stdout, stderr=stderr, duration_s=took_s)

    def birth(self, group: int) -> str | None:
        return f"b{group}" if group in self.children else None

    def is_running(self, group: int) -> bool:
        return group in self.children

    def end_group(self, group: int) -> None:
        self._machine.effect(f"ends the group {group}")
        self.children.pop(group).is_alive = False

    # --- git ---

    def _push(
        self, host: Host, arguments: Sequence[str], timeout_s: float, noted: Callable[[int], object] | None
    ) -> tuple[int | None, str, str]:
        machine, random = self._machine, self._machine.random
        commit, _, ref = arguments[-1].partition(":")
        machine.effect(f"starts git push of {commit[:7]} to {host.name} {ref}")
        self._groups += 1
        child = Child(self._groups, host, ref)
        self.children[child.group] = child
        try:
            if noted is not None:
                noted(child.group)
            self.begins(child, arguments[-1])
        except BaseException:
            del self.children[child.group]  # git does not start before its group is noted
            raise
        answer = self._answer(host)
        took_s = self._takes_s(host, self._store.number(commit), ref)
        lands = answer is None or (answer.is_ambiguous and random.random() < 0.5)
        if took_s >= timeout_s:
            answer, lands = Answer("too slow", None, "", "", True), lands and random.random() < 0.2
        if answer is not None and answer.status is None:
            took_s = timeout_s
        report: list[str] = []

        def arrives() -> None:
            if lands and child.is_alive:
                report.append(self._land(host, ref, self._store.number(commit)))

        machine.at(machine.now + took_s / 2, arrives)
        machine.at(machine.now + took_s, lambda: self.children.pop(child.group, None))
        machine.sleep(took_s)
        machine.effect(f"git push to {host.name} ends")
        if answer is None:
            told = report[0] if report else f"!\t{commit}:{ref}\t[remote rejected] (unpacker error)"
            self.said(child, "" if told[0] in "*= " else "non-fast-forward")
            return int(told[0] == "!"), f"To {host.name}\n{told}\nDone\n", ""
        self.said(child, explain(answer.status, answer.stdout, answer.stderr, ref=ref).reason)
        return answer.status, answer.stdout, answer.stderr

    def _land(self, host: Host, ref: str, commit: int) -> str:
        """
        Move the ref by fast-forward; returns git's line.
        """
        tip, commits = host.refs.get(ref), self._store.commits
        pair = f"{commits.names[commit]}:{ref}"
        if tip == commit:
            return f"=\t{pair}\t[up to date]"
        if not commits.has(commit, tip):
            known = tip is not None and self._store.holds(commits.names[tip])
            return f"!\t{pair}\t[rejected] ({'non-fast-forward' if known else 'fetch first'})"
        host.move(ref, commit, by_us=True)
        return f"*\t{pair}\t[new branch]" if tip is None else f" \t{pair}\tabc..def"

    def _read(self, host: Host, command: str, refspec: str, timeout_s: float) -> tuple[int | None, str, str]:
        machine = self._machine
        machine.effect(f"starts git {command} of {host.name}")
        fails = host.reason not in ("", "slow") and host.reason not in _READABLE
        machine.sleep(timeout_s if host.reason == "timeout" else self._latency_s())
        machine.effect(f"git {command} of {host.name} ends")
        if host.reason == "timeout":
            return None, "", ""
        if fails:
            known = unreadable().get(host.reason)
            answer = machine.random.choice(known) if known else None
            return (answer.status, "", answer.stderr) if answer else (128, "", "fatal: no answer")
        commits = host.commits
        if command == "ls-remote":
            tip = host.refs.get(refspec)
            return 0, "" if tip is None else f"{commits.names[tip]}\t{refspec}\n", ""
        there, _, here = refspec.removeprefix("+").partition(":")
        tip = host.refs.get(there)
        if tip is None:
            return 128, "", f"fatal: couldn't find remote ref {there}"
        if self._store.disk.is_full:
            return 128, "", "fatal: write error: No space left on device"
        self._store.take(tip)
        self._store.set(here, tip)
        return 0, "", ""

    def _answer(self, host: Host) -> Answer | None:
        if host.reason in ("", "slow"):
            return None
        return self._machine.random.choice(answers()[host.reason])

    def _latency_s(self) -> float:
        """
        Return how long a command takes: mostly a moment, sometimes seconds.
        """
        return 0.02 + self._machine.random.random() ** 6 * 5

    def _takes_s(self, host: Host, commit: int, ref: str) -> float:
        latency_s = self._latency_s()
        if host.reason != "slow":
            return latency_s
        commits = self._store.commits
        there = 0
        for tip in host.refs.values():
            there |= commits.ancestors[tip]
        return latency_s + host.per_commit_s * (commits.ancestors[commit] & ~there).bit_count()
