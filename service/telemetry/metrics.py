"""Every metric of ``/metrics``: its name, its help, its labels, and the plain numbers behind it.

Whoever does something counts it, by an addition to a number here. No lock is needed, since all counting is done on the
event loop. A request costs one call, ``Requests.observe`` (0.3 µs). Values that are kept elsewhere are read at the
scrape: ``gauges`` says from where. ``exposition`` makes the page, for one process or for several.

Numbers begin at zero with the process. At any moment of a process:

    accepted + recovered = flushed + duplicate + quarantined + lost + pending
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from service.errors import RequestError
from service.telemetry.instruments import CallbackCounter, Counter, Gauge, Histogram, HistogramData, Labels, Metric
from service.telemetry.recent import Recent

#: The metrics of a process: for each metric its series, each as labels and value, fit for JSON.
#: The value of a histogram is its counts, one for each bucket and one beyond, and the sum of the observed values.
Snapshot: TypeAlias = dict[str, list[tuple[Sequence[str], Any]]]

#: Upper bounds in seconds: for what a client waits for, for what waits for ClickHouse, and for the event loop.
REQUEST_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
FLUSH_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: Upper bounds in events, of a group commit and of a batch.
EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
#: How many seconds back, and of how many batches, we remember how long they took to become visible.
RECENT_SECONDS, RECENT_BATCHES = 300.0, 1000
#: How many seconds back we remember how late timers were.
LAG_REMEMBERED = 60.0


class Requests:
    """The requests of one route: how they were answered, and how long that took."""

    __slots__ = ("_observe", "statuses")

    def __init__(self, times: HistogramData) -> None:
        self._observe = times.observe
        self.statuses: dict[int, int] = {}

    def observe(self, status: int, seconds: float) -> None:
        """Count an answered request: its status, and the seconds from its head to its answer.

        Call it once a request, on the event loop (0.3 µs), and keep the ``Requests`` of a route at hand.
        """
        try:
            self.statuses[status] += 1
        except KeyError:
            self.statuses[status] = 1
        self._observe(seconds)


class _HttpRequests(Counter):
    """The statuses of all routes."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text, ("method", "route", "status"))
        self.routes: dict[Labels, Requests] = {}

    def series(self) -> Iterable[tuple[Labels, float]]:
        return [
            ((*route, str(status)), count)
            for route, requests in self.routes.items()
            for status, count in requests.statuses.items()
        ]


@lru_cache
def _reason(error: str) -> str:
    """The reason that stands for an error: ``SpoolFull`` is spool_full."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", error).lower()


def _descendants(error: type[Exception]) -> Iterator[type[Exception]]:
    for one in error.__subclasses__():
        yield one
        yield from _descendants(one)


class Metrics:
    """All metrics of this process."""

    def __init__(self) -> None:
        #: Seconds from a batch's first event to ClickHouse's confirmation, for recent batches.
        self.visible_recently = Recent(RECENT_SECONDS, RECENT_BATCHES)
        self._lag_recently = Recent(LAG_REMEMBERED, 10_000)
        # In the order of the page.
        self._declare_requests()
        self._declare_events()
        self._declare_disk()
        self._declare_clickhouse()
        self._declare_process()

    def _declare_requests(self) -> None:
        self.http_requests = _HttpRequests("analytics_http_requests_total", "Requests answered")
        self.http_seconds = Histogram(
            "analytics_http_request_duration_seconds",
            "Seconds from a request's head to its answer",
            REQUEST_SECONDS,
            ("method", "route"),
        )
        self.requests_refused = Counter("analytics_requests_refused_total", "Refused requests, by reason", ("reason",))
        for reason in ("invalid", *(_reason(error.__name__) for error in _descendants(RequestError))):
            self.requests_refused.add(0, reason)  # a counter that begins at zero is seen to rise
        self.connections = Gauge("analytics_connections", "Connections open now")
        self.connections_closed = Counter(
            "analytics_connections_closed_total", "Connections that the service closed itself, by reason", ("reason",)
        )
        self.inflight_bytes = Gauge("analytics_inflight_bytes", "Bytes of request bodies held now")
        self.inflight_max_bytes = Gauge("analytics_inflight_max_bytes", "Bytes of request bodies that may be held")

    def _declare_events(self) -> None:
        self.events_accepted = Counter("analytics_events_accepted_total", "Events made durable and acknowledged")
        self.events_refused = Counter(
            "analytics_events_refused_total",
            "Refused events of batch requests whose other events were kept, by reason",
            ("reason",),
        )
        for reason in ("invalid", "shed"):
            self.events_refused.add(0, reason)
        self.events_recovered = Counter(
            "analytics_events_recovered_total",
            "Acknowledged events found on disk at a start, or returned from the quarantine",
        )
        self.events_flushed = Counter("analytics_events_flushed_total", "Events that ClickHouse has confirmed")
        self.events_duplicate = Counter(
            "analytics_events_duplicate_total", "Events left out because the table or the batch had their event_id"
        )
        self.events_quarantined = Counter(
            "analytics_events_quarantined_total", "Events that ClickHouse refuses for good"
        )
        self.events_lost = Counter(
            "analytics_events_lost_total", "Acknowledged events whose bytes on disk were damaged or deleted"
        )
        self.pending_events = Gauge("analytics_pending_events", "Events acknowledged and not yet confirmed")
        self.oldest_pending = Gauge("analytics_oldest_pending_event_age_seconds", "Age of the oldest pending event")
        self.flush_interval = Gauge(
            "analytics_flush_interval_seconds", "Seconds after which a batch is inserted even if it is not full"
        )

    def _declare_disk(self) -> None:
        self.group_events = Histogram("analytics_group_commit_events", "Events made durable by one fsync", EVENTS)
        self.group_seconds = Histogram(
            "analytics_group_commit_duration_seconds", "Seconds to make a group durable", REQUEST_SECONDS
        )
        self.fsync_seconds = Histogram("analytics_fsync_duration_seconds", "Seconds of an fsync", REQUEST_SECONDS)
        self.spool_up = Gauge("analytics_spool_up", "1 while the disk takes writes")
        self.spool_bytes = Gauge("analytics_spool_bytes", "Bytes of pending events on disk")
        self.spool_max_bytes = Gauge("analytics_spool_max_bytes", "Bytes that pending events may take")
        self.disk_free = Gauge("analytics_disk_free_bytes", "Bytes free on the disk of the data folder")
        self.disk_size = Gauge("analytics_disk_size_bytes", "Bytes of the disk of the data folder")

    def _declare_clickhouse(self) -> None:
        self.flush_events = Histogram("analytics_flush_events", "Events of a confirmed batch", EVENTS)
        self.flush_seconds = Histogram(
            "analytics_flush_duration_seconds", "Seconds to insert a batch, including all tries", FLUSH_SECONDS
        )
        self.visible_seconds = Histogram(
            "analytics_acknowledged_to_visible_seconds",
            "Seconds from a batch's first event to ClickHouse's confirmation",
            FLUSH_SECONDS,
        )
        self.clickhouse_up = Gauge("analytics_clickhouse_up", "1 while ClickHouse works")
        self.clickhouse_errors = Counter(
            "analytics_clickhouse_errors_total", "Failed calls to ClickHouse", ("class", "code")
        )
        self.quarantine_events = Gauge("analytics_quarantine_events", "Refused events in the quarantine")
        self.quarantine_files = Gauge("analytics_quarantine_damaged_files", "Damaged stretches in the quarantine")
        self.quarantine_bytes = Gauge("analytics_quarantine_bytes", "Bytes of the quarantine")

    def _declare_process(self) -> None:
        self.ready = Gauge("analytics_ready", "1 while events of medium priority are taken")
        self.workers = Gauge("analytics_workers", "Configured number of worker processes")
        self.lag_seconds = Histogram(
            "analytics_event_loop_lag_seconds", "Seconds that a timer of the event loop was late", LAG_SECONDS
        )
        self.lag_max = Gauge(
            "analytics_event_loop_lag_max_seconds", "The longest that a timer was late in the last minute"
        )
        self.lag_max.read = lambda: max(self._lag_recently.values(), default=0.0)
        self.cpu = CallbackCounter("process_cpu_seconds_total", "CPU seconds, user and system")
        self.resident_bytes = Gauge("process_resident_memory_bytes", "Bytes of resident memory")
        self.virtual_bytes = Gauge("process_virtual_memory_bytes", "Bytes of virtual memory")
        self.open_files = Gauge("process_open_fds", "File descriptors open now")
        self.max_files = Gauge("process_max_fds", "File descriptors that may be open")
        self.started = Gauge("process_start_time_seconds", "When the process started, in seconds since 1970")
        self.log_dropped = CallbackCounter("analytics_log_lines_dropped_total", "Lines of the log that were dropped")
        self.build = Gauge("analytics_build_info", "Always 1", ("version", "python", "clickhouse"))

    @property
    def all(self) -> list[Metric]:
        """Every metric, in the order of the page."""
        return [one for one in vars(self).values() if isinstance(one, Metric)]

    def requests(self, method: str, route: str) -> Requests:
        """The counts of one route; always the same object, so that you can keep it."""
        found = self.http_requests.routes.get((method, route))
        if found is None:
            found = Requests(self.http_seconds.of(method, route))
            self.http_requests.routes[method, route] = found
        return found

    def refused(self, error: type[Exception]) -> None:
        """Count a request that was refused with this error."""
        self.requests_refused.add(1, _reason(error.__name__))

    def events_not_taken(self, refused: Mapping[str, int]) -> None:
        """Count the refused events of a request, by reason; others of it may have been kept."""
        for reason, events in refused.items():
            self.events_refused.add(events, reason)

    def batch_confirmed(
        self, *, flushed: int, duplicate: int, quarantined: int, lost: int, seconds: float, visible_after: float
    ) -> None:
        """Count a confirmed batch: its events, the seconds of its flush, and those since its first event."""
        self.events_flushed.add(flushed)
        self.events_duplicate.add(duplicate)
        self.events_quarantined.add(quarantined)
        self.events_lost.add(lost)
        self.flush_events.observe(flushed + duplicate + quarantined + lost)
        self.flush_seconds.observe(seconds)
        self.visible_seconds.observe(visible_after)
        self.visible_recently.add(visible_after)

    def timer_late(self, seconds: float) -> None:
        """Count how late a timer of the event loop was."""
        self.lag_seconds.observe(seconds)
        self._lag_recently.add(seconds)

    def snapshot(self) -> Snapshot:
        """All values as they are now, fit for JSON."""
        return {one.name: list(one.series()) for one in self.all}
