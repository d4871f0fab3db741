"""
``/metrics`` in Prometheus' text format: one row of ``TABLE`` for each metric.

Every sample names its repository, so that one Prometheus and one set of rules serve several.

The rows about pushes and the repository are read from git and the ledger at each scrape, so that they are
right whichever API process answers, and after any restart. The rows about requests are what the API's
processes have counted; ``ferry.app.metrics.metering`` adds them up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ferry.app.metrics import metering
from ferry.app.metrics.certificates import authority_ends
from ferry.app.metrics.metering import Buckets
from ferry.app.replica.level import lag_s
from ferry.app.services import services
from ferry.app.version import this_build
from ferry.worker.after.status import HookStatus, hook_statuses
from ferry.worker.files.room import Room
from ferry.worker.git.packs import Packs
from ferry.worker.ledger.histogram import Histogram
from ferry.worker.pipeline import Pipeline
from ferry.worker.status import RemoteStatus, remote_statuses
from ferry.worker.turns.turn import STATES

bp = Blueprint("metrics", __name__)

Labels = tuple[str, ...]
Value = float | Buckets | None  # None: the metric has no sample, as Prometheus wants it
Source = Callable[["Scrape"], Iterable[tuple[Labels, Value]]]


_FAMILIES: Mapping[str, Any] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


@bp.get("/metrics")
def show() -> Response:
    """
    Return the metrics of the whole deployment, not of this process.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(Scrape(services().pipeline)))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class Scrape:
    """
    What the rows of one scrape read; each part is read once.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.repository = pipeline.repository.known_as

    @cached_property
    def remotes(self) -> Mapping[str, RemoteStatus]:
        """
        The state of every remote, by its name.
        """
        return remote_statuses(self.pipeline.settings, self.pipeline.repository, self.pipeline.ledger)

    @cached_property
    def hooks(self) -> list[HookStatus]:
        """
        The state of the functions that extensions have for commits and pushes.
        """
        return hook_statuses(self.pipeline.after, page_after_s=self.pipeline.settings.push_page_after_s)

    @cached_property
    def size(self) -> Mapping[str, int]:
        """
        The size of the repository.
        """
        return Packs(self.pipeline.repository.git).size()

    @cached_property
    def room(self) -> Room:
        """
        The room on the data disk.
        """
        return self.pipeline.disk.room()

    @cached_property
    def counted(self) -> Mapping[str, Mapping[Labels, float | Buckets]]:
        """
        What the API's processes have counted, by metric and labels.
        """
        return metering.totals()


@dataclass(frozen=True, slots=True)
class Row:
    """
    One metric.

    Attributes:
        name: As Prometheus shows it; a counter's name ends in ``_total``.
        type: ``gauge``, ``counter`` or ``histogram``.
        labels: The names of its labels, beside ``repository``, which every metric has.
        help: One sentence; docs/reference/http.md repeats it.
        source: Returns the values of the labels, and the value, of each sample.
    """

    name: str
    type: Literal["gauge", "counter", "histogram"]
    labels: Labels
    help: str
    source: Source

    def family(self, scrape: Scrape) -> Any:
        """
        Return the metric with its samples.
        """
        family = _FAMILIES[self.type](self.name, self.help, labels=("repository", *self.labels))
        for labels, value in self.source(scrape):
            if isinstance(value, tuple):
                family.add_metric((scrape.repository, *labels), *value)
            elif value is not None:
                family.add_metric((scrape.repository, *labels), value)
        return family


def _single(value: Callable[[Scrape], float | None]) -> Source:
    return lambda scrape: [((), value(scrape))]


def _by_remote(value: Callable[[RemoteStatus], Value]) -> Source:
    return lambda scrape: [((name,), value(remote)) for name, remote in scrape.remotes.items()]


def _by_remote_and(values: Callable[[RemoteStatus], Mapping[str, float]]) -> Source:
    return lambda scrape: [
        ((name, key), value)
        for name, remote in scrape.remotes.items()
        for key, value in sorted(values(remote).items())
    ]


def _by_hook(value: Callable[[HookStatus], float]) -> Source:
    return lambda scrape: [((each.hook.extension, each.hook.event), value(each)) for each in scrape.hooks]


def _counted(metric: str) -> Source:
    return lambda scrape: scrape.counted[metric].items()


def _build(scrape: Scrape) -> Iterator[tuple[Labels, Value]]:
    build = this_build()
    yield (build.version, build.revision), 1


def _enqueue_failures(scrape: Scrape) -> Iterator[tuple[Labels, Value]]:
    """
    Begin at 0 for each remote: Prometheus would not see an increase from nothing to 1.
    """
    counted = scrape.counted[metering.ENQUEUE_FAILURES]
    return ((labels, counted.get(labels, 0)) for labels in [(name,) for name in scrape.remotes])


def _objects(scrape: Scrape) -> Iterator[tuple[Labels, Value]]:
    for kind in ("loose", "packed"):
        yield (kind,), scrape.size[f"{kind}_objects"]


def _coalesced(remote: RemoteStatus) -> int:
    return max(0, remote.entry.commits_pushed - sum(remote.entry.push_s.counts))


def _buckets(histogram: Histogram) -> Buckets:
    return histogram.buckets(), histogram.sum


_REMOTE = ("remote",)
_HOOK = ("extension", "event")
TABLE = (
    Row("ferry_build_info", "gauge", ("version", "revision"),
        "Always 1; the labels name the release and the commit.", _build),
    Row("ferry_unpushed_commits", "gauge", _REMOTE, "Commits that the remote lacks.",
        _by_remote(lambda remote: len(remote.pending))),
    Row("ferry_oldest_unpushed_age_seconds", "gauge", _REMOTE,
        "Age of the oldest commit that the remote lacks; 0 if it lacks none.",
        _by_remote(lambda remote: remote.oldest_pending_age_s)),
    Row("ferry_behind_commits", "gauge", _REMOTE,
        "Commits that the remote has and the repository lacks, as last seen.",
        _by_remote(lambda remote: remote.pending.behind)),
    Row("ferry_remote_seen_timestamp_seconds", "gauge", _REMOTE,
        "Time when the remote last reported its branch's tip, or accepted a push; absent before the first.",
        _by_remote(lambda remote: remote.seen_at)),
    Row("ferry_push_state", "gauge", ("remote", "state"),
        "1 for the state that the remote is in, 0 for the others.",
        _by_remote_and(lambda remote: {state: state == remote.state for state in STATES})),
    Row("ferry_push_failing_seconds", "gauge", _REMOTE,
        "Time since the first of the failures that followed each other; 0 after a push that landed.",
        _by_remote(lambda remote: remote.failing_s)),
    Row("ferry_push_paused", "gauge", _REMOTE, "1 while an operator has paused the remote.",
        _by_remote(lambda remote: remote.entry.is_paused(time.time()))),
    Row("ferry_push_needs_person", "gauge", _REMOTE,
        "1 while a person is needed at the remote: a page is due, or was in this episode.",
        _by_remote(lambda remote: remote.need is not None)),
    Row("ferry_last_push_timestamp_seconds", "gauge", _REMOTE,
        "Time of the last push that landed; absent before the first.",
        _by_remote(lambda remote: remote.entry.last_push_at)),
    Row("ferry_last_verified_timestamp_seconds", "gauge", _REMOTE,
        "Time of the last success of ferry verify; absent before the first.",
        _by_remote(lambda remote: remote.verified_at)),
    Row("ferry_push_attempts_total", "counter", ("remote", "outcome"), "Attempts to push, by outcome.",
        _by_remote_and(lambda remote: remote.entry.outcomes)),
    Row("ferry_push_episodes_total", "counter", ("remote", "reason"),
        "Failure episodes started, by the reason that started them.",
        _by_remote_and(lambda remote: remote.entry.episodes)),
    Row("ferry_pushed_commits_total", "counter", _REMOTE, "Commits that pushes brought to the remote.",
        _by_remote(lambda remote: remote.entry.commits_pushed)),
    Row("ferry_coalesced_commits_total", "counter", _REMOTE,
        "Commits that needed no push of their own: another commit's push brought them.",
        _by_remote(_coalesced)),
    Row("ferry_commit_to_remote_seconds", "histogram", _REMOTE,
        "Time from a push's oldest commit to its arrival.",
        _by_remote(lambda remote: _buckets(remote.entry.lag_s))),
    Row("ferry_push_seconds", "histogram", _REMOTE, "Duration of the pushes that landed.",
        _by_remote(lambda remote: _buckets(remote.entry.push_s))),
    Row("ferry_enqueue_failures_total", "counter", _REMOTE,
        "Pushes that the broker did not accept from this API; the sweep finds their commits.",
        _enqueue_failures),
    Row("ferry_hook_pending", "gauge", _HOOK,
        "Commits that an extension's functions were not called for yet; for a divergence, 1 or 0.",
        _by_hook(lambda hook: hook.pending)),
    Row("ferry_hook_failing_seconds", "gauge", _HOOK,
        "Time since the first of the failures that followed each other; 0 after a call that succeeded.",
        _by_hook(lambda hook: hook.failing_s)),
    Row("ferry_hook_needs_person", "gauge", _HOOK,
        "1 while a person is needed for an extension's functions: a page is due, or was in this episode.",
        _by_hook(lambda hook: hook.need is not None)),
    Row("ferry_hook_calls_total", "counter", _HOOK, "Calls of an extension's functions that succeeded.",
        _by_hook(lambda hook: hook.entry.outcomes.get("done", 0))),
    Row("ferry_hook_failures_total", "counter", _HOOK, "Calls of an extension's functions that failed.",
        _by_hook(lambda hook: hook.failures)),
    Row("ferry_webhooks_total", "counter", ("host", "outcome"),
        "Webhooks received, by the git host and the outcome.", _counted(metering.WEBHOOKS)),
    Row("ferry_transact_seconds", "histogram", (),
        "Time to make a durable commit, including the wait for the write lock.",
        _counted(metering.TRANSACT_SECONDS)),
    Row("ferry_http_requests_total", "counter", ("method", "endpoint", "status"),
        "Requests answered; the endpoint is the view's name.",
        _counted(metering.REQUESTS)),
    Row("ferry_http_request_seconds", "histogram", ("endpoint",), "Time to answer a request.",
        _counted(metering.REQUEST_SECONDS)),
    Row("ferry_last_sweep_timestamp_seconds", "gauge", (), "Time of the last sweep; absent before the first.",
        _single(lambda scrape: scrape.pipeline.sweeper.last_at())),
    Row("ferry_sweep_late", "gauge", (), "1 if a sweep is overdue.",
        _single(lambda scrape: scrape.pipeline.sweeper.is_late())),
    Row("ferry_replica_lag_seconds", "gauge", (),
        "On a replica: time since it last had all of origin; absent before the first, and on the primary.",
        _single(lambda scrape: lag_s(scrape.pipeline) if scrape.pipeline.settings.is_replica else None)),
    Row("ferry_last_maintenance_timestamp_seconds", "gauge", (),
        "Time when the repository was last packed; absent before the first.",
        _single(lambda scrape: scrape.pipeline.maintenance.last().get("at"))),
    Row("ferry_repository_objects", "gauge", ("kind",),
        "Objects in the repository: loose or packed.", _objects),
    Row("ferry_repository_free_bytes", "gauge", (),
        "Room on the data disk. With less than 1 MiB it is full, and every write is refused.",
        _single(lambda scrape: scrape.room.free_bytes)),
    Row("ferry_repository_disk_bytes", "gauge", (), "Size of the data disk.",
        _single(lambda scrape: scrape.room.total_bytes)),
    Row("ferry_repository_bytes", "gauge", (), "Size of the repository's objects.",
        _single(lambda scrape: scrape.size["bytes"])),
    Row("ferry_ca_certificate_end_timestamp_seconds", "gauge", ("subject",),
        "Time when the certificate of a private authority in FERRY_CA_BUNDLE ends.",
        lambda scrape: [((name,), end) for name, end in authority_ends().items()]),
)  # fmt: skip


class _Collector(Collector):
    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    def collect(self) -> Iterator[Metric]:
        """
        Yield every metric of the table.
        """
        return (row.family(self._scrape) for row in TABLE)
