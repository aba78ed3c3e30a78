"""The page of ``/metrics``: the metrics of one or several processes, in the formats that Prometheus reads."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from service.telemetry.instruments import Histogram, Metric
from service.telemetry.metrics import Snapshot

OPENMETRICS = "application/openmetrics-text"
#: The label of a worker's number.
WORKER = "worker"


def render(
    metrics: Sequence[Metric], snapshots: Mapping[int, Snapshot], accept: str = "", *, name_workers: bool = False
) -> tuple[bytes, str]:
    """The page and its content type, in the form that the header Accept asks for.

    ``snapshots`` are the metrics of workers, by their numbers. ``name_workers``: each series has the label ``worker``.
    If we added up the counts here, a count would fall when a worker restarts or does not answer in time, and Prometheus
    would think that all workers had started from zero.
    """
    # The library itself would accept unknown versions in the header, and repeat them in the answer.
    encode, content_type = choose_encoder(OPENMETRICS if OPENMETRICS in accept else "")
    return encode(_Collected([_family(one, snapshots, name_workers) for one in metrics])), content_type


class _Collected:
    """A registry of ready-made families, as prometheus-client wants one."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def _family(metric: Metric, snapshots: Mapping[int, Snapshot], name_workers: bool) -> Family:
    names = (*metric.labels, WORKER) if name_workers else metric.labels
    series = [
        ((*labels, str(worker)) if name_workers else labels, value)
        for worker, snapshot in snapshots.items()
        for labels, value in snapshot.get(metric.name, ())
    ]
    if isinstance(metric, Histogram):
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=names)
        bounds = [*map(str, metric.bounds), "+Inf"]
        for labels, (counts, total) in series:
            histogram.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return histogram
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=names)
    for labels, value in series:
        family.add_metric(labels, value)
    return family
