"""
``/metrics`` in Prometheus' text format.

What concerns the pushes is read from git and the ledger when it is asked for, so
that it is right whichever of several API processes answers, and after any
restart. What the API's own processes count, ``ferry.app.metering`` adds up.
"""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ferry.app import metering
from ferry.app.services import services
from ferry.worker.pipeline import Pipeline
from ferry.worker.status import STATES, RemoteStatus, remote_statuses

bp = Blueprint("metrics", __name__)


@bp.get("/metrics")
def show() -> Response:
    """
    Return the metrics of the whole deployment, not of this process.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_PipelineCollector(services().pipeline))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _PipelineCollector(Collector):
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def collect(self) -> Iterator[Metric]:
        """
        Yield every metric family.
        """
        pipeline = self._pipeline
        remotes = remote_statuses(pipeline.settings, pipeline.repository, pipeline.ledger)
        yield from _remote_metrics(remotes)
        yield _gauge(
            "ferry_last_sweep_timestamp_seconds", "When a sweep last took place.", pipeline.sweeper.last_at()
        )
        yield _gauge(
            "ferry_sweep_late",
            "1 when sweeps should have taken place and did not.",
            pipeline.sweeper.is_late(),
        )
        yield _gauge(
            "ferry_last_maintenance_timestamp_seconds",
            "When the repository was last packed.",
            pipeline.maintenance.last().get("at"),
        )
        size = pipeline.repository.size()
        objects = GaugeMetricFamily("ferry_repository_objects", "Objects in the repository.", labels=["kind"])
        objects.add_metric(["loose"], size["loose_objects"])
        objects.add_metric(["packed"], size["packed_objects"])
        yield objects
        yield _gauge("ferry_repository_bytes", "Size of the repository's objects.", size["bytes"])
        yield from metering.collect()


def _remote_metrics(remotes: dict[str, RemoteStatus]) -> Iterator[Metric]:
    pending = GaugeMetricFamily("ferry_unpushed_commits", "Commits the remote lacks.", labels=["remote"])
    age = GaugeMetricFamily(
        "ferry_oldest_unpushed_age_seconds", "Age of the oldest commit the remote lacks.", labels=["remote"]
    )
    state = GaugeMetricFamily(
        "ferry_push_state", "1 for the state a remote is in.", labels=["remote", "state"]
    )
    last = GaugeMetricFamily(
        "ferry_last_push_timestamp_seconds", "When a push last landed.", labels=["remote"]
    )
    attempts = CounterMetricFamily(
        "ferry_push_attempts", "Attempts to push, by what came of them.", labels=["remote", "outcome"]
    )
    paused = GaugeMetricFamily(
        "ferry_push_paused", "1 where an operator has paused a remote.", labels=["remote"]
    )
    commits = CounterMetricFamily("ferry_pushed_commits", "Commits that pushes brought.", labels=["remote"])
    coalesced = CounterMetricFamily(
        "ferry_coalesced_commits", "Commits that went with the push of another.", labels=["remote"]
    )
    episodes = CounterMetricFamily(
        "ferry_push_episodes", "Rows of failed attempts, by their first reason.", labels=["remote", "reason"]
    )
    verified = GaugeMetricFamily(
        "ferry_last_verified_timestamp_seconds", "When ferry verify last succeeded.", labels=["remote"]
    )
    lag = HistogramMetricFamily(
        "ferry_commit_to_remote_seconds", "From a push's oldest commit to its arrival.", labels=["remote"]
    )
    took = HistogramMetricFamily(
        "ferry_push_seconds", "How long the pushes that landed took.", labels=["remote"]
    )
    for name, remote in remotes.items():
        entry = remote.entry
        paused.add_metric([name], entry.paused_at is not None)
        commits.add_metric([name], entry.commits_pushed)
        pushes = int(sum(entry.push_s.counts))
        coalesced.add_metric([name], max(0, entry.commits_pushed - pushes))
        for reason, count in sorted(entry.episodes.items()):
            episodes.add_metric([name, reason], count)
        if remote.verified_at is not None:
            verified.add_metric([name], remote.verified_at)
        lag.add_metric([name], entry.lag_s.buckets(), entry.lag_s.sum)
        took.add_metric([name], entry.push_s.buckets(), entry.push_s.sum)
        pending.add_metric([name], len(remote.pending))
        age.add_metric([name], remote.oldest_pending_age_s)
        for each in STATES:
            state.add_metric([name, each], each == remote.state)
        if remote.entry.last_push_at is not None:
            last.add_metric([name], remote.entry.last_push_at)
        for outcome, count in sorted(remote.entry.outcomes.items()):
            attempts.add_metric([name, outcome], count)
    yield from (
        pending,
        age,
        state,
        last,
        attempts,
        paused,
        commits,
        coalesced,
        episodes,
        verified,
        lag,
        took,
    )


def _gauge(name: str, documentation: str, value: float | None) -> Metric:
    # Without a value the family has no sample: absent, as Prometheus wants it.
    return GaugeMetricFamily(name, documentation, value=value)
