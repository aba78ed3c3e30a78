"""The parts of metrics: counts, values and histograms as plain numbers. Only the event loop may touch them."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

Labels: TypeAlias = tuple[str, ...]


class HistogramData:
    """One histogram: how many observed values fell under each bound, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Metric:
    """What all metrics have: a name, a line of help, the names of the labels."""

    kind: Literal["counter", "gauge", "histogram"]

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name = name
        self.help = text
        self.labels = labels

    def series(self) -> Iterable[tuple[Labels, Any]]:
        """The values, by the values of the labels."""
        raise NotImplementedError


class CallbackMetric(Metric):
    """A value that is kept elsewhere; ``read`` gets it at the scrape, or None if it is not known yet."""

    read: Callable[[], float | None] | None = None
    label_values: Labels = ()

    def series(self) -> Iterable[tuple[Labels, float]]:
        """The one value, if it is known."""
        value = self.read() if self.read else None
        return [] if value is None else [(self.label_values, value)]


class Gauge(CallbackMetric):
    """A value as it is now."""

    kind = "gauge"


class CallbackCounter(CallbackMetric):
    """A count that is kept elsewhere."""

    kind = "counter"


class Counter(Metric):
    """A count that only grows, for each set of label values. ``values`` may be an object of whoever counts."""

    kind = "counter"
    values: Mapping[Labels, float]

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        super().__init__(name, text, labels)
        self._own: dict[Labels, float] = {} if labels else {(): 0}
        self.values = self._own

    def add(self, amount: float, *labels: str) -> None:
        """Increase the count by ``amount``."""
        self._own[labels] = self._own.get(labels, 0) + amount

    def series(self) -> Iterable[tuple[Labels, float]]:
        """The counts."""
        return self.values.items()


class Histogram(Metric):
    """How observed values are spread over ``bounds``, for each set of label values."""

    kind = "histogram"

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Labels = ()) -> None:
        super().__init__(name, text, labels)
        self.bounds = bounds
        self._series: dict[Labels, HistogramData] = {}
        if not labels:
            self.observe = self.of().observe

    def of(self, *labels: str) -> HistogramData:
        """The histogram of these label values."""
        return self._series.setdefault(labels, HistogramData(self.bounds))

    def series(self) -> Iterable[tuple[Labels, tuple[list[int], float]]]:
        """The counts and the sum of each."""
        return [(labels, (list(one.counts), one.sum)) for labels, one in self._series.items()]
