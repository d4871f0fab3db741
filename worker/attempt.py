"""
One attempt to push, made under a claim: run git, ask the remote in case of doubt, record the result.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

from ferry.worker.dossier import in_one_line
from ferry.worker.episodes.episodes import Episodes
from ferry.worker.episodes.outcome import Outcomes
from ferry.worker.errors import RepositoryError, WorkerError
from ferry.worker.failures import Verdict
from ferry.worker.git.parts import Part, Parts
from ferry.worker.git.remote import ASKED, Remote, ended_within_s
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Claim
from ferry.worker.observe.logs import log
from ferry.worker.observe.tracing import span
from ferry.worker.process.groups import end_group
from ferry.worker.process.running import Finished
from ferry.worker.repair.look import look
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker.repair.rescue import rescue
from ferry.worker.settings import Settings
from ferry.worker.turns.turn import Occasion

_ASK_TIMEOUT_S = 30.0

NOTHING_LEFT = "another push had just sent every commit"
STILL_DIVERGED = "looked: the remote still has commits that we lack"
BEHIND = "the remote has every commit, and others that we lack"
RECONCILED = "joined our branch with the remote's"


class Attempt:
    """
    One attempt to bring the remote of a claim up to date.

    Args:
        claim: The right to push to the remote, held during the attempt.
        outcomes: Records the result, and schedules the retry.
        occasion: Why it is made. After a divergence, an attempt by a sweep fetches before it pushes, and
            reports nothing while the divergence lasts.
        clock: Seconds since the epoch.

    Attributes:
        is_in_burst: Whether several commits arrived while the push ran, so that more may follow.
    """

    def __init__(
        self,
        claim: Claim,
        settings: Settings,
        repository: Repository,
        reconciler: Reconciler,
        episodes: Episodes,
        outcomes: Outcomes,
        *,
        occasion: Occasion,
        clock: Callable[[], float],
    ) -> None:
        self._claim = claim
        self._remote = claim.remote
        self._settings = settings
        self._repository = repository
        self._reconciler = reconciler
        self._episodes = episodes
        self._outcomes = outcomes
        self._looks_first = occasion == "sweep"
        self._clock = clock
        self._parts = Parts(repository, settings.push_timeout_s)
        self.is_in_burst = False

    def make(self) -> str:
        """
        Push the branch's current tip; returns the result in a few words.

        Raises:
            PushFailed: It failed and is to be retried.
            PushRefused: It failed and a retry would not help.
        """
        self._end_orphan()
        self._claim.note(last_attempt_at=self._clock())
        if self._looks_first:
            self._claim.write()  # the attempt may end after a look
        if self._outcomes.chain is not None and self._claim.entry.next_attempt_at is not None:
            # Before the branch is read: a task that still finds the retry scheduled leaves its commit to this
            # attempt, which must therefore read the branch later.
            self._claim.write(chain=None, next_attempt_at=None, backoff_s=None)
        head = None
        try:
            head = self._repository.head()
            seen = self._repository.remote_head(self._remote)
            if head is None or self._repository.contains(head, seen):
                self._episodes.end(self._claim, waits_from=self._claim.entry.last_attempt_at)
                return NOTHING_LEFT
            if self._looks_first and self._is_known_divergence():
                if outcome := self._look(head):
                    return outcome
                seen = self._repository.remote_head(self._remote)
            return self._push(head, seen)
        except RepositoryError as exc:
            verdict = Verdict(reason="local", rule="our-repository", evidence=str(exc), ambiguous=False)
            raise self._outcomes.failed(head, verdict, str(exc)) from exc

    def _look(self, head: str) -> str | None:
        """
        Check whether a known divergence still lasts; returns None if a push may land now.
        """
        try:
            tip = self._seen_tip()
        except RepositoryError:
            return None  # missing, or unreachable: a push will report which
        if tip is None or self._repository.contains(tip, head):
            return None
        known = self._claim.entry.refused
        if (outcome := self._met(head, tip)) is not None:
            return outcome
        if (refused := self._claim.entry.refused) and (not known or known.refusal != refused.refusal):
            return None  # an extension refuses the merge: the push will report it
        self._claim.note(tried=head)
        rescue(self._claim, self._settings, self._repository, head, self._clock())
        self._claim.write()
        return STILL_DIVERGED

    def _push(self, head: str, seen: str | None) -> str:
        """
        Push the branch, or a part that fits into the timeout; returns the result.

        Args:
            seen: The last seen tip of the branch on the remote.
        """
        part = self._parts.first(seen, head, self._claim.entry.part)
        finished, verdict = self._send(part)
        if verdict.landed:
            self.is_in_burst = (
                len(self._repository.commits_between(head, self._repository.head() or head)) > 1
            )
            return self._outcomes.landed(seen, part, finished, verdict, is_all=part.commit == head)
        if verdict.reason == "non-fast-forward" and (outcome := self._refused(part.commit)) is not None:
            return outcome
        said = finished.stderr + finished.stdout  # the remote's own message first
        cut_short = self._parts.cut_short(part, seen, verdict, finished.duration_s)
        detail = in_one_line(finished, verdict)
        raise self._outcomes.failed(head, verdict, detail, said=said, cut_short=cut_short)

    def _refused(self, commit: str) -> str | None:
        """
        Look at the remote, which has commits that *commit* lacks; returns None if a person is needed.
        """
        try:
            tip = self._seen_tip()
        except RepositoryError as exc:
            log().warning("push.divergence_unknown", remote=self._remote, error=str(exc))
            return None
        return self._met(commit, tip)

    def _met(self, commit: str, tip: str | None) -> str | None:
        """
        Take over the commits of others up to *tip*; returns None if *tip* and *commit* stay diverged.
        """
        if self._took_over(tip):
            return RECONCILED
        return self._is_behind(commit) if self._repository.contains(commit, tip) else None

    def _is_behind(self, head: str) -> str:
        """
        Record that the remote has all our commits and others that we lack: there is nothing to push.
        """
        tip = self._repository.remote_head(self._remote)
        log().info("remote.ahead", remote=self._remote, local_head=head, remote_head=tip)
        waits_from = self._claim.entry.last_attempt_at
        self._episodes.end(self._claim, outcomes=self._claim.count("up-to-date"), waits_from=waits_from)
        return BEHIND

    def _is_known_divergence(self) -> bool:
        return self._episodes.is_known(self._claim.entry, "non-fast-forward")

    def _seen_tip(self, timeout_s: float | None = None) -> str | None:
        """
        Return the tip of the branch on the remote.
        """
        timeout_s = timeout_s or self._settings.push_timeout_s
        return look(self._claim, self._repository, timeout_s=timeout_s, now=self._clock()).tip

    def _took_over(self, tip: str | None) -> bool:
        """
        Join the branch with *tip* if the settings allow it; returns whether a push can land now.
        """
        try:
            outcome = self._reconciler.take_over(self._claim, tip)
        except WorkerError as exc:
            log().warning("reconcile.failed", remote=self._remote, error=str(exc))
            return False
        return outcome is not None and outcome.is_joined

    def _send(self, part: Part) -> tuple[Finished, Verdict]:
        self._begin(part.timeout_s)
        told = {"ferry.remote": self._remote, "ferry.commit": part.commit}
        with span("git push", **told), self._claim.pushing() as noted:
            there = Remote(self._repository, self._remote, timeout_s=part.timeout_s)
            finished = there.push(part.commit, noted=noted)
        verdict = finished.verdict
        if verdict.ambiguous and not verdict.landed:
            verdict = self._settle(part.commit, verdict)
        return finished, verdict

    def _settle(self, head: str, doubtful: Verdict) -> Verdict:
        """
        Ask the remote whether a push that git reported as failed has landed.
        """
        contains = self._repository.contains
        try:
            tip = self._seen_tip(min(self._settings.push_timeout_s, _ASK_TIMEOUT_S))
        except RepositoryError:
            return doubtful
        if tip is None:
            return doubtful
        asked = Verdict(reason="pushed", rule=ASKED, evidence=f"{self._remote} is at {tip}", ambiguous=False)
        if contains(head, tip):
            return asked
        return doubtful if contains(tip, head) else replace(asked, reason="non-fast-forward")

    def _begin(self, timeout_s: float) -> None:
        """
        Record the begin of a command that talks to the remote, and that ends after at most *timeout_s*
        seconds.
        """
        self._claim.begin(ended_within_s(timeout_s))

    def _end_orphan(self) -> None:
        """
        End a running push whose worker was killed, because no process will end it at its timeout.
        """
        running = self._claim.entry.running
        if running and running.is_alive_here():
            log().warning("push.orphan_ended", remote=self._remote, group=running.group)
            end_group(running.group)
        if running and running.host == socket.gethostname():
            self._claim.write(running=None)
